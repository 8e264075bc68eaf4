//! What one client may take of a hub at a time: requests in hand, each of which may bring a large body
//! or ask for a large answer, and sessions begun.
//!
//! Who it is has been shown by then; a device that is broken or was taken over must not be at the
//! others' expense all the same.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use http::StatusCode;
use spoke_shared::{
    client::ClientId,
    limits::{REQUESTS_PER_CLIENT_MAX, SESSION_EARNED, SESSIONS_PER_CLIENT_BURST},
    refusal::Refusal,
};

/// The shares of all clients. Cheap to clone.
#[derive(Clone, Default)]
pub struct Shares(Arc<Mutex<HashMap<ClientId, Share>>>);

struct Share {
    in_hand: usize,
    /// When all sessions begun so far are earned back: the generic cell rate algorithm.
    clear_at: Instant,
}

/// A request in hand; dropped with it.
pub struct InHand {
    client: ClientId,
    shares: Shares,
}

impl Shares {
    /// Takes a request in hand.
    ///
    /// # Errors
    /// 429 if the client has too many.
    pub fn enter(&self, client: &ClientId, now: Instant) -> Result<InHand, Refusal> {
        let mut shares = self.lock();
        if !shares.contains_key(client) && shares.len().is_multiple_of(1024) {
            shares.retain(|_, share| !share.is_idle(now));
        }
        let share = shares.entry(client.clone()).or_insert(Share { in_hand: 0, clear_at: now });
        if share.in_hand >= REQUESTS_PER_CLIENT_MAX {
            let message = "this client has too many requests in hand; wait for their answers";
            let status = StatusCode::TOO_MANY_REQUESTS;
            return Err(Refusal::new(status, "too-many-requests", message).retry_after(1));
        }
        share.in_hand += 1;
        Ok(InHand { client: client.clone(), shares: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ClientId, Share>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InHand {
    /// Counts a session that this request begins.
    ///
    /// # Errors
    /// 429 if the client has begun too many of late.
    pub fn begin_session(&self, now: Instant) -> Result<(), Refusal> {
        let mut shares = self.shares.lock();
        let Some(share) = shares.get_mut(&self.client) else { return Ok(()) };
        let clear_at = share.clear_at.max(now) + SESSION_EARNED;
        let ahead = clear_at.duration_since(now);
        if let Some(wait) = ahead.checked_sub(SESSION_EARNED * SESSIONS_PER_CLIENT_BURST)
            && !wait.is_zero()
        {
            let message = "this client begins sessions too often; come back later";
            let status = StatusCode::TOO_MANY_REQUESTS;
            let refusal = Refusal::new(status, "too-many-sessions", message);
            return Err(refusal.retry_after(wait.as_secs() + 1));
        }
        share.clear_at = clear_at;
        Ok(())
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let mut shares = self.shares.lock();
        if let Some(share) = shares.get_mut(&self.client) {
            share.in_hand -= 1;
            if share.is_idle(Instant::now()) {
                shares.remove(&self.client);
            }
        }
    }
}

impl Share {
    /// Whether nothing is lost by forgetting it.
    fn is_idle(&self, now: Instant) -> bool {
        self.in_hand == 0 && self.clear_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str) -> ClientId {
        name.parse().unwrap()
    }

    #[test]
    fn a_client_has_so_many_requests_in_hand_and_another_has_its_own() {
        let (shares, now) = (Shares::default(), Instant::now());
        let enter = |name| shares.enter(&client(name), now);
        let mut own: Vec<_> =
            (0..REQUESTS_PER_CLIENT_MAX).map(|_| enter("dev1").unwrap()).collect();
        let refused = enter("dev1").map(|_| ()).unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.reason), (429, "too-many-requests"));
        enter("dev2").unwrap();
        own.pop();
        own.push(enter("dev1").unwrap());
        drop(own);
        assert!(shares.lock().is_empty(), "nobody is remembered for nothing");
    }

    #[test]
    fn a_client_begins_a_burst_of_sessions_and_then_one_each_time_it_is_earned() {
        let (shares, now) = (Shares::default(), Instant::now());
        let request = shares.enter(&client("dev1"), now).unwrap();
        for _ in 0..SESSIONS_PER_CLIENT_BURST {
            request.begin_session(now).unwrap();
        }
        let refused = request.begin_session(now).unwrap_err();
        assert_eq!((refused.reason, refused.retry_after_seconds), ("too-many-sessions", Some(2)));
        request.begin_session(now + SESSION_EARNED).unwrap();
        assert!(request.begin_session(now + SESSION_EARNED).is_err());
        shares.enter(&client("dev2"), now).unwrap().begin_session(now).unwrap();
        drop(request);
        assert_eq!(shares.lock().len(), 2, "what was begun is remembered until it is earned back");
        shares.lock().retain(|_, share| !share.is_idle(now + 2 * SESSION_EARNED));
        assert_eq!(shares.lock().len(), 1);
    }
}
