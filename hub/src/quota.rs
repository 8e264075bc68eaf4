//! How fast one client may fill the Redis that all share.
//!
//! While there is room nobody is slowed down: that Redis serves all clients in turn is the business of
//! `share`. Once only the reserve is left, the last part of `maxmemory`, each client has a pace of its
//! own. What it sent in the seconds before is held against it, so that those who filled Redis lately
//! wait first, and a quiet client is let through at once.
//!
//! How full Redis is costs one `INFO memory` a second, and none while nothing comes. In between, what
//! was let through is reckoned with twice its bytes. Rejected: a limit that always holds, since a device
//! that comes back from a long outage may use what nobody else needs.

mod pace;

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::limits::RESERVE_PATIENCE;
use http::StatusCode;
use spoke_diagnostics::{
    error_chain::error_chain,
    metrics::{Counter, MetricsPage},
};
use spoke_protocol::client_id::ClientId;
use spoke_service::api_error::ApiError;
use spoke_store::{Redis, StoreError, memory_usage::MemoryUsage};
use tracing::{debug, info, warn};

pub use self::pace::{Load, Reserve};
use self::pace::{Paces, Verdict};

/// How long a wait is at the most before it is looked again whether it has to go on.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The pace of every client.
pub struct Quota {
    redis: Redis,
    paces: Mutex<Paces>,
    /// Since when only the reserve is left, and how much had been held back before.
    short: Mutex<Option<(Instant, u64)>>,
    is_looking: AtomicBool,
    held_back: Counter,
    refused: Counter,
}

impl Quota {
    /// For clients that fill this Redis.
    pub fn new(redis: Redis, reserve: Reserve) -> Self {
        Self {
            redis,
            paces: Mutex::new(Paces::new(reserve, Instant::now())),
            short: Mutex::default(),
            is_looking: AtomicBool::new(false),
            held_back: Counter::default(),
            refused: Counter::default(),
        }
    }

    /// Waits for a moment until the client may add so much.
    ///
    /// # Errors
    /// 429 `too-fast` when that is later.
    pub async fn admit(&self, client: &ClientId, load: Load) -> Result<(), ApiError> {
        let until = Instant::now() + RESERVE_PATIENCE;
        loop {
            let Some(wait) = self.ask(client, load).await else { return Ok(()) };
            let now = Instant::now();
            if now + wait > until {
                self.refused.add(1);
                let message = "the hub's redis is nearly full, and this client has used its share of \
                               what is left; send more slowly";
                let status = StatusCode::TOO_MANY_REQUESTS;
                let refusal = ApiError::new(status, "too-fast", message);
                return Err(refusal.retry_after(wait.as_secs() + 1));
            }
            tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
        }
    }

    /// Waits until the client may add so much. Cancel safe.
    pub async fn admitted(&self, client: &ClientId, load: Load) {
        while let Some(wait) = self.ask(client, load).await {
            tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
        }
    }

    /// Writes the figures.
    pub fn write(&self, page: &mut MetricsPage) {
        let is_short = self.lock().is_short();
        let help = "1 while only the reserve of redis is left and clients have a pace.";
        page.gauge("spoke_hub_reserve_reached", help, &u8::from(is_short));
        let help = "Batches that waited for their client's pace.";
        page.counter("spoke_hub_held_back_total", help, &self.held_back);
        let help = "Requests refused since their client was ahead of its pace.";
        page.counter("spoke_hub_too_fast_total", help, &self.refused);
    }

    /// How long to wait; none: the load is let through, and counted.
    async fn ask(&self, client: &ClientId, load: Load) -> Option<Duration> {
        let is_due = self.lock().is_look_due(load, Instant::now());
        if is_due && !self.is_looking.swap(true, Ordering::AcqRel) {
            let looking = Looking(&self.is_looking);
            let looked = MemoryUsage::query(&self.redis).await;
            self.handle_look(looked, Instant::now());
            drop(looking);
        }
        let verdict = self.lock().handle_load(client, load, Instant::now());
        match verdict {
            Verdict::Go { was_held_for: None } => None,
            Verdict::Go { was_held_for: Some(held_for) } => {
                info!(%client, ?held_for, "client no longer held back");
                None
            }
            Verdict::Wait { wait, is_first } => {
                self.held_back.add(1);
                if is_first {
                    info!(%client, "client held back: redis is nearly full");
                }
                Some(wait)
            }
        }
    }

    fn handle_look(&self, looked: Result<MemoryUsage, StoreError>, now: Instant) {
        let usage = match looked {
            Ok(usage) => usage,
            // Said aloud where an entry is refused for it.
            Err(error) => {
                return debug!(error = error_chain(&error), "redis did not say how full it is");
            }
        };
        let MemoryUsage { used, max } = usage;
        let Some(is_short) = self.lock().handle_usage(usage, now) else { return };
        let held_back = self.held_back.get();
        let mut short = self.short.lock().unwrap_or_else(PoisonError::into_inner);
        if is_short {
            *short = Some((now, held_back));
            let help = "raise maxmemory, trim streams or set in_max_len";
            warn!(used, max, help, "redis is nearly full; each client has a pace");
        } else if let Some((since, before)) = short.take() {
            let short_for_seconds = now.duration_since(since).as_secs_f64();
            let held_back = held_back - before;
            info!(
                used,
                max, short_for_seconds, held_back, "redis has room again; clients have no pace"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Paces> {
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One look at a time; one that is dropped half way leaves it to the next.
struct Looking<'a>(&'a AtomicBool);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
