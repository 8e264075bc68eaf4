//! What one client may take of a hub at a time: requests in hand, each of which may bring a large body
//! or ask for a large answer; turns to read from Redis, whose connection all clients share; and
//! sessions begun.
//!
//! Who it is has been shown by then; a device that is broken or was taken over must not be at the
//! others' expense all the same.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::limits::{
    REDIS_BYTES_IN_HAND, REDIS_BYTES_SMALL, REDIS_PLACE_PATIENCE, SESSION_EARNED,
    SESSIONS_PER_CLIENT_BURST,
};
use http::StatusCode;
use spoke_protocol::{
    client_id::ClientId,
    limits::APPENDS_MAX,
    rate::{Allowance, Rate},
};
use spoke_service::api_error::ApiError;
use spoke_service::limits::REQUESTS_PER_CLIENT_MAX;
use spoke_store::{ack_level::AckLevel, limits::REDIS_REPLY_TIMEOUT};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How often a client may begin a session.
const SESSIONS: Rate = Rate { burst: SESSIONS_PER_CLIENT_BURST, interval: SESSION_EARNED };

/// The shares of all clients. Cheap to clone.
#[derive(Clone, Default)]
pub struct Shares(Arc<Mutex<HashMap<ClientId, Share>>>);

struct Share {
    in_hand: usize,
    /// One at a time: what one client reads at once is all that another waits for.
    turns: Arc<Semaphore>,
    /// To have a body parsed and appended: as many as one session has, so that a client which sends many at
    /// a time has no larger part of Redis and of the cores than another.
    writes: Arc<Semaphore>,
    /// Who waits for a turn, or has one.
    at_turns: usize,
    /// Sessions begun.
    sessions: Allowance,
}

/// The large batches that Redis has in hand, of all clients, in the order in which they came. What holds
/// Redis longest is bounded so, and a small batch passes by.
#[derive(Clone)]
pub struct Places(Option<Arc<Semaphore>>);

/// A large batch's place; given back when this is dropped.
pub struct TakenPlace {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Places {
    /// As many bytes as `REDIS_BYTES_IN_HAND` where a batch is answered once it is applied. Above that level
    /// those that wait together are a group, which has a bound of its own.
    pub fn at(level: AckLevel) -> Self {
        let is_grouped = level != AckLevel::Memory;
        Self((!is_grouped).then(|| Arc::new(Semaphore::new(REDIS_BYTES_IN_HAND / 1024))))
    }

    /// Waits for a place for a batch of so many bytes. Cancel safe.
    pub async fn take(&self, bytes: u64) -> TakenPlace {
        let Some(places) = self.0.as_ref().filter(|_| bytes > REDIS_BYTES_SMALL as u64) else {
            return TakenPlace { _permit: None };
        };
        let kib = (bytes / 1024).min(REDIS_BYTES_IN_HAND as u64 / 1024) as u32;
        let taking = places.clone().acquire_many_owned(kib);
        let permit = tokio::time::timeout(REDIS_PLACE_PATIENCE, taking).await;
        TakenPlace { _permit: permit.ok().and_then(Result::ok) }
    }
}

/// A client's turn to read, or to write.
pub struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
    _place: AtTurns,
}

struct AtTurns {
    client: ClientId,
    shares: Shares,
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
    pub fn enter(&self, client: &ClientId, now: Instant) -> Result<InHand, ApiError> {
        let mut shares = self.lock();
        if !shares.contains_key(client) && shares.len().is_multiple_of(1024) {
            shares.retain(|_, share| !share.is_idle(now));
        }
        let share = shares.entry(client.clone()).or_insert_with(|| Share::new(now));
        if share.in_hand >= REQUESTS_PER_CLIENT_MAX {
            let message = "this client has too many requests in hand; wait for their answers";
            let status = StatusCode::TOO_MANY_REQUESTS;
            return Err(ApiError::new(status, "too-many-requests", message).retry_after(1));
        }
        share.in_hand += 1;
        Ok(InHand { client: client.clone(), shares: self.clone() })
    }

    /// Waits for the client's turn, but not for ever: a socket that is busy with its other side
    /// may have the turn and do nothing with it. Cancel safe.
    pub async fn turn(&self, client: &ClientId) -> Turn {
        self.wait_for(client, |share| &share.turns).await
    }

    /// The same to have a body parsed and appended: each client has a few, so that all are served alike.
    pub async fn turn_to_write(&self, client: &ClientId) -> Turn {
        self.wait_for(client, |share| &share.writes).await
    }

    async fn wait_for(
        &self,
        client: &ClientId,
        turns: impl FnOnce(&Share) -> &Arc<Semaphore>,
    ) -> Turn {
        let (turns, place) = self.queue(client, turns);
        let permit = tokio::time::timeout(REDIS_REPLY_TIMEOUT, turns.acquire_owned()).await;
        Turn { _permit: permit.ok().and_then(Result::ok), _place: place }
    }

    fn queue(
        &self,
        client: &ClientId,
        turns: impl FnOnce(&Share) -> &Arc<Semaphore>,
    ) -> (Arc<Semaphore>, AtTurns) {
        let mut shares = self.lock();
        let share = shares.entry(client.clone()).or_insert_with(|| Share::new(Instant::now()));
        share.at_turns += 1;
        (turns(share).clone(), AtTurns { client: client.clone(), shares: self.clone() })
    }

    /// Changes a client's share, and forgets it where nothing is lost by that.
    fn give_back(&self, client: &ClientId, change: impl FnOnce(&mut Share)) {
        let mut shares = self.lock();
        if let Some(share) = shares.get_mut(client) {
            change(share);
            if share.is_idle(Instant::now()) {
                shares.remove(client);
            }
        }
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
    pub fn begin_session(&self, now: Instant) -> Result<(), ApiError> {
        let mut shares = self.shares.lock();
        let Some(share) = shares.get_mut(&self.client) else { return Ok(()) };
        if let Err(wait) = share.sessions.take(1, SESSIONS, now) {
            let message = "this client begins sessions too often; come back later";
            let status = StatusCode::TOO_MANY_REQUESTS;
            let refusal = ApiError::new(status, "too-many-sessions", message);
            return Err(refusal.retry_after(wait.as_secs() + 1));
        }
        Ok(())
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.shares.give_back(&self.client, |share| share.in_hand -= 1);
    }
}

impl Drop for AtTurns {
    fn drop(&mut self) {
        self.shares.give_back(&self.client, |share| share.at_turns -= 1);
    }
}

impl Share {
    fn new(now: Instant) -> Self {
        Self {
            in_hand: 0,
            turns: Arc::new(Semaphore::new(1)),
            writes: Arc::new(Semaphore::new(APPENDS_MAX)),
            at_turns: 0,
            sessions: Allowance::new(now),
        }
    }

    /// Whether nothing is lost by forgetting it.
    fn is_idle(&self, now: Instant) -> bool {
        self.in_hand == 0 && self.at_turns == 0 && self.sessions.is_full(now)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

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

    #[tokio::test]
    async fn a_client_has_one_turn_at_a_time_and_another_has_its_own() {
        let shares = Shares::default();
        let first = shares.turn(&client("dev1")).await;
        assert!(shares.turn(&client("dev1")).now_or_never().is_none());
        shares.turn(&client("dev2")).now_or_never().expect("another has its own");
        drop(first);
        shares.turn(&client("dev1")).now_or_never().expect("it is its turn again");
        assert!(shares.lock().is_empty(), "nobody is remembered for nothing");
    }

    #[tokio::test]
    async fn a_client_writes_a_few_at_a_time_and_another_has_its_own() {
        let shares = Shares::default();
        let mut own = Vec::new();
        for _ in 0..APPENDS_MAX {
            own.push(shares.turn_to_write(&client("dev1")).now_or_never().expect("it has a few"));
        }
        assert!(shares.turn_to_write(&client("dev1")).now_or_never().is_none());
        shares.turn_to_write(&client("dev2")).now_or_never().expect("another has its own");
        own.pop();
        shares.turn_to_write(&client("dev1")).now_or_never().expect("it is its turn again");
        drop(own);
        assert!(shares.lock().is_empty(), "nobody is remembered for nothing");
    }

    #[tokio::test]
    async fn large_batches_wait_for_each_other_and_a_small_one_for_none() {
        let places = Places::at(AckLevel::Memory);
        let half = REDIS_BYTES_IN_HAND as u64 / 2;
        let first = places.take(half).await;
        let _second = places.take(half).await;
        assert!(places.take(half).now_or_never().is_none());
        places.take(REDIS_BYTES_SMALL as u64).now_or_never().expect("a small one passes by");
        let begun = Instant::now();
        places.take(half).await;
        assert!(begun.elapsed() >= REDIS_PLACE_PATIENCE, "but nobody waits for ever");
        drop(first);
        places.take(half).now_or_never().expect("there is a place again");
        places.take(100 * half).await;
        let grouped = Places::at(AckLevel::Fsync);
        let _all: Vec<_> = (0..100)
            .map(|_| grouped.take(half).now_or_never().expect("a group has its own bound"))
            .collect();
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
