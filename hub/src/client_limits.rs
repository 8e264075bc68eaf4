//! Limits per client: open requests, each of which may carry a large body or answer; permits to
//! read from and write to the shared Redis connection; and started sessions.
//!
//! The client is authenticated here. Still, a broken or compromised device must not slow down the
//! others.

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
use spoke_protocol::{Allowance, ClientId, Rate, limits::APPENDS_MAX};
use spoke_service::api_error::ApiError;
use spoke_service::limits::REQUESTS_PER_CLIENT_MAX;
use spoke_store::{AckLevel, limits::REDIS_REPLY_TIMEOUT};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Rate at which a client may start sessions.
const SESSIONS: Rate = Rate { burst: SESSIONS_PER_CLIENT_BURST, interval: SESSION_EARNED };

/// Usage of all clients. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct ClientLimits(Arc<Mutex<HashMap<ClientId, ClientUsage>>>);

struct ClientUsage {
    open_requests: usize,
    /// One read at a time: other clients wait for as long as one client's read takes. `None` until
    /// a request needs one: a session of a WebSocket never does.
    read_permits: Option<Arc<Semaphore>>,
    /// Parse and append: as many at a time as one session has, so that a client with many parallel
    /// requests gets no larger part of Redis and of the cores. `None` until a request needs one.
    write_permits: Option<Arc<Semaphore>>,
    /// Tasks that hold a permit or wait for one.
    permit_holders: usize,
    /// Started sessions.
    sessions: Allowance,
}

/// Slots for large writes to Redis, shared by all clients in order of arrival. Small batches do not
/// wait for them.
#[derive(Clone)]
pub(crate) struct LargeWriteSlots(Option<Arc<Semaphore>>);

/// Slot of a large write; released on drop.
pub(crate) struct LargeWriteSlot {
    _permit: Option<OwnedSemaphorePermit>,
}

impl LargeWriteSlots {
    /// Limits large writes to [`REDIS_BYTES_IN_HAND`] if a batch is acknowledged once it is
    /// applied. At higher levels a group waits for its barrier, and limits its own bytes.
    pub(crate) fn at(level: AckLevel) -> Self {
        let has_barrier = level != AckLevel::Memory;
        Self((!has_barrier).then(|| Arc::new(Semaphore::new(REDIS_BYTES_IN_HAND / 1024))))
    }

    /// Takes a slot for a batch of this many bytes, if it needs none or one is free.
    pub(crate) fn try_take(&self, bytes: u64) -> Option<LargeWriteSlot> {
        match self.slots_for(bytes) {
            None => Some(LargeWriteSlot { _permit: None }),
            Some((slots, kib)) => {
                let permit = slots.clone().try_acquire_many_owned(kib).ok()?;
                Some(LargeWriteSlot { _permit: Some(permit) })
            }
        }
    }

    /// Waits for a slot for a batch of this many bytes. Cancel safe.
    pub(crate) async fn take(&self, bytes: u64) -> LargeWriteSlot {
        let Some((slots, kib)) = self.slots_for(bytes) else {
            return LargeWriteSlot { _permit: None };
        };
        let taking = slots.clone().acquire_many_owned(kib);
        let permit = tokio::time::timeout(REDIS_PLACE_PATIENCE, taking).await;
        LargeWriteSlot { _permit: permit.ok().and_then(Result::ok) }
    }

    /// Returns the slots and how many a batch of this many bytes takes; none if it needs none.
    fn slots_for(&self, bytes: u64) -> Option<(&Arc<Semaphore>, u32)> {
        let slots = self.0.as_ref().filter(|_| bytes > REDIS_BYTES_SMALL as u64)?;
        Some((slots, (bytes / 1024).min(REDIS_BYTES_IN_HAND as u64 / 1024) as u32))
    }
}

/// Permit of a client to read or write.
pub(crate) struct ClientPermit {
    _permit: Option<OwnedSemaphorePermit>,
    _holder: PermitHolder,
}

struct PermitHolder {
    client: ClientId,
    limits: ClientLimits,
}

/// Open request; released on drop.
pub(crate) struct RequestGuard {
    client: ClientId,
    limits: ClientLimits,
}

impl ClientLimits {
    /// Registers an open request.
    ///
    /// # Errors
    /// 429 if the client has too many.
    pub(crate) fn open_request(
        &self,
        client: &ClientId,
        now: Instant,
    ) -> Result<RequestGuard, ApiError> {
        let mut limits = self.lock();
        if !limits.contains_key(client) && limits.len().is_multiple_of(1024) {
            limits.retain(|_, usage| !usage.is_idle(now));
        }
        let usage = limits.entry(client.clone()).or_insert_with(|| ClientUsage::new(now));
        if usage.open_requests >= REQUESTS_PER_CLIENT_MAX {
            let message = "this client has too many open requests; wait for their answers";
            let status = StatusCode::TOO_MANY_REQUESTS;
            return Err(ApiError::new(status, "too-many-requests", message).retry_after(1));
        }
        usage.open_requests += 1;
        Ok(RequestGuard { client: client.clone(), limits: self.clone() })
    }

    /// Waits for the client's read permit, up to [`REDIS_REPLY_TIMEOUT`]: a slow socket may hold
    /// the permit without using it. Cancel safe.
    pub(crate) async fn read_permit(&self, client: &ClientId) -> ClientPermit {
        let made = || Arc::new(Semaphore::new(1));
        self.wait_for(client, |usage| usage.read_permits.get_or_insert_with(made)).await
    }

    /// Waits for one of the client's permits to parse and append a body.
    pub(crate) async fn write_permit(&self, client: &ClientId) -> ClientPermit {
        let made = || Arc::new(Semaphore::new(APPENDS_MAX));
        self.wait_for(client, |usage| usage.write_permits.get_or_insert_with(made)).await
    }

    async fn wait_for(
        &self,
        client: &ClientId,
        permits: impl FnOnce(&mut ClientUsage) -> &mut Arc<Semaphore>,
    ) -> ClientPermit {
        let (permits, holder) = self.queue(client, permits);
        let permit = tokio::time::timeout(REDIS_REPLY_TIMEOUT, permits.acquire_owned()).await;
        ClientPermit { _permit: permit.ok().and_then(Result::ok), _holder: holder }
    }

    fn queue(
        &self,
        client: &ClientId,
        permits: impl FnOnce(&mut ClientUsage) -> &mut Arc<Semaphore>,
    ) -> (Arc<Semaphore>, PermitHolder) {
        let mut limits = self.lock();
        let usage =
            limits.entry(client.clone()).or_insert_with(|| ClientUsage::new(Instant::now()));
        usage.permit_holders += 1;
        (permits(usage).clone(), PermitHolder { client: client.clone(), limits: self.clone() })
    }

    /// Changes a client's usage and removes it when idle.
    fn give_back(&self, client: &ClientId, change: impl FnOnce(&mut ClientUsage)) {
        let mut limits = self.lock();
        if let Some(usage) = limits.get_mut(client) {
            change(usage);
            if usage.is_idle(Instant::now()) {
                limits.remove(client);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ClientId, ClientUsage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RequestGuard {
    /// Counts a session that this request starts.
    ///
    /// # Errors
    /// 429 if the client started too many sessions recently.
    pub(crate) fn begin_session(&self, now: Instant) -> Result<(), ApiError> {
        let mut limits = self.limits.lock();
        let Some(usage) = limits.get_mut(&self.client) else { return Ok(()) };
        if let Err(wait) = usage.sessions.take(1, SESSIONS, now) {
            let message = "this client starts sessions too often; retry later";
            let status = StatusCode::TOO_MANY_REQUESTS;
            let refusal = ApiError::new(status, "too-many-sessions", message);
            return Err(refusal.retry_after(wait.as_secs() + 1));
        }
        Ok(())
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.limits.give_back(&self.client, |usage| usage.open_requests -= 1);
    }
}

impl Drop for PermitHolder {
    fn drop(&mut self) {
        self.limits.give_back(&self.client, |usage| usage.permit_holders -= 1);
    }
}

impl ClientUsage {
    fn new(now: Instant) -> Self {
        Self {
            open_requests: 0,
            read_permits: None,
            write_permits: None,
            permit_holders: 0,
            sessions: Allowance::new(now),
        }
    }

    /// Returns whether the usage can be removed without loss.
    fn is_idle(&self, now: Instant) -> bool {
        self.open_requests == 0 && self.permit_holders == 0 && self.sessions.is_full(now)
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
    fn requests_in_progress_are_limited_per_client() {
        let (limits, now) = (ClientLimits::default(), Instant::now());
        let open = |name| limits.open_request(&client(name), now);
        let mut own: Vec<_> = (0..REQUESTS_PER_CLIENT_MAX).map(|_| open("dev1").unwrap()).collect();
        let refused = open("dev1").map(|_| ()).unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.reason), (429, "too-many-requests"));
        open("dev2").unwrap();
        own.pop();
        own.push(open("dev1").unwrap());
        drop(own);
        assert!(limits.lock().is_empty(), "idle clients are removed");
    }

    #[tokio::test]
    async fn each_client_has_one_read_permit_of_its_own() {
        let limits = ClientLimits::default();
        let first = limits.read_permit(&client("dev1")).await;
        assert!(limits.read_permit(&client("dev1")).now_or_never().is_none());
        limits
            .read_permit(&client("dev2"))
            .now_or_never()
            .expect("another client has its own permits");
        drop(first);
        limits.read_permit(&client("dev1")).now_or_never().expect("the permit is free again");
        assert!(limits.lock().is_empty(), "idle clients are removed");
    }

    #[tokio::test]
    async fn concurrent_writes_are_limited_per_client() {
        let limits = ClientLimits::default();
        let mut own = Vec::new();
        for _ in 0..APPENDS_MAX {
            own.push(
                limits.write_permit(&client("dev1")).now_or_never().expect("a permit is free"),
            );
        }
        assert!(limits.write_permit(&client("dev1")).now_or_never().is_none());
        limits
            .write_permit(&client("dev2"))
            .now_or_never()
            .expect("another client has its own permits");
        own.pop();
        limits.write_permit(&client("dev1")).now_or_never().expect("the permit is free again");
        drop(own);
        assert!(limits.lock().is_empty(), "idle clients are removed");
    }

    #[tokio::test]
    async fn large_batches_wait_for_each_other_for_a_bounded_time_and_small_ones_do_not() {
        let slots = LargeWriteSlots::at(AckLevel::Memory);
        let half = REDIS_BYTES_IN_HAND as u64 / 2;
        let first = slots.take(half).await;
        let _second = slots.take(half).await;
        assert!(slots.take(half).now_or_never().is_none());
        slots.take(REDIS_BYTES_SMALL as u64).now_or_never().expect("a small batch does not wait");
        let begun = Instant::now();
        slots.take(half).await;
        assert!(begun.elapsed() >= REDIS_PLACE_PATIENCE, "the wait is bounded");
        drop(first);
        slots.take(half).now_or_never().expect("a slot is free again");
        slots.take(100 * half).await;
        let grouped = LargeWriteSlots::at(AckLevel::Fsync);
        let _all: Vec<_> = (0..100)
            .map(|_| grouped.take(half).now_or_never().expect("group commit has its own limit"))
            .collect();
    }

    #[test]
    fn a_client_opens_a_burst_of_sessions_and_then_one_per_interval() {
        let (limits, now) = (ClientLimits::default(), Instant::now());
        let request = limits.open_request(&client("dev1"), now).unwrap();
        for _ in 0..SESSIONS_PER_CLIENT_BURST {
            request.begin_session(now).unwrap();
        }
        let refused = request.begin_session(now).unwrap_err();
        assert_eq!((refused.reason, refused.retry_after_seconds), ("too-many-sessions", Some(2)));
        request.begin_session(now + SESSION_EARNED).unwrap();
        assert!(request.begin_session(now + SESSION_EARNED).is_err());
        limits.open_request(&client("dev2"), now).unwrap().begin_session(now).unwrap();
        drop(request);
        assert_eq!(
            limits.lock().len(),
            2,
            "used sessions are remembered until the allowance is full again"
        );
        limits.lock().retain(|_, usage| !usage.is_idle(now + 2 * SESSION_EARNED));
        assert_eq!(limits.lock().len(), 1);
    }
}
