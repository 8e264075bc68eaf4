//! Rate limit per client while the shared Redis is nearly full.
//!
//! Above the reserve, the last part of `maxmemory`, no client is limited here. Once only the
//! reserve is left, each client has a rate. What it sent in the seconds before counts against it:
//! the clients that filled Redis recently wait first, and a quiet client passes at once.
//!
//! The fill level costs one `INFO memory` a second under load and none when idle. In between,
//! admitted bytes count twice. Rejected: a limit that always applies, since a device that returns
//! from a long outage may use spare capacity.

mod rate;

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
    error_chain,
    metrics::{Counter, MetricsPage},
};
use spoke_protocol::ClientId;
use spoke_service::api_error::ApiError;
use spoke_store::{MemoryUsage, Redis, StoreError};
use tracing::{debug, info, warn};

pub(crate) use self::rate::{BatchLoad, MemoryReserve};
use self::rate::{ClientRates, RateDecision};

/// Longest sleep before the rate is checked again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Rate limit of all clients.
pub(crate) struct RedisQuota {
    redis: Redis,
    rates: Mutex<ClientRates>,
    /// Start of the shortage and the throttled batches before it, while only the reserve is left.
    short: Mutex<Option<(Instant, u64)>>,
    is_querying: AtomicBool,
    held_back: Counter,
    refused: Counter,
}

impl RedisQuota {
    /// Creates the limit for this Redis.
    pub(crate) fn new(redis: Redis, reserve: MemoryReserve) -> Self {
        Self {
            redis,
            rates: Mutex::new(ClientRates::new(reserve, Instant::now())),
            short: Mutex::default(),
            is_querying: AtomicBool::new(false),
            held_back: Counter::default(),
            refused: Counter::default(),
        }
    }

    /// Waits briefly until the client may add this batch.
    ///
    /// # Errors
    /// 429 `too-fast` if the wait is longer than [`RESERVE_PATIENCE`].
    pub(crate) async fn admit(&self, client: &ClientId, load: BatchLoad) -> Result<(), ApiError> {
        let until = Instant::now() + RESERVE_PATIENCE;
        loop {
            let Some(wait) = self.ask(client, load).await else { return Ok(()) };
            let now = Instant::now();
            if now + wait > until {
                self.refused.add(1);
                let message = "the hub's redis is nearly full and this client exceeds its rate; send more \
                               slowly";
                let status = StatusCode::TOO_MANY_REQUESTS;
                let refusal = ApiError::new(status, "too-fast", message);
                return Err(refusal.retry_after(wait.as_secs() + 1));
            }
            tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
        }
    }

    /// Waits until the client may add this batch. Cancel safe.
    pub(crate) async fn wait_until_admitted(&self, client: &ClientId, load: BatchLoad) {
        while let Some(wait) = self.ask(client, load).await {
            tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
        }
    }

    /// Writes the metrics.
    pub(crate) fn write(&self, page: &mut MetricsPage) {
        let is_short = self.lock().is_short();
        let help = "1 while only the memory reserve of redis is left and clients are rate limited.";
        page.gauge("spoke_hub_reserve_reached", help, &u8::from(is_short));
        let help = "Batches delayed by the client's rate limit.";
        page.counter("spoke_hub_held_back_total", help, &self.held_back);
        let help = "Requests refused by the client's rate limit.";
        page.counter("spoke_hub_too_fast_total", help, &self.refused);
    }

    /// Returns the wait, or `None` if the batch is admitted and counted.
    async fn ask(&self, client: &ClientId, load: BatchLoad) -> Option<Duration> {
        let is_due = self.lock().is_look_due(load, Instant::now());
        if is_due && !self.is_querying.swap(true, Ordering::AcqRel) {
            let guard = UsageQueryGuard(&self.is_querying);
            let looked = MemoryUsage::query(&self.redis).await;
            self.handle_look(looked, Instant::now());
            drop(guard);
        }
        let verdict = self.lock().handle_load(client, load, Instant::now());
        match verdict {
            RateDecision::Go { was_held_for: None } => None,
            RateDecision::Go { was_held_for: Some(held_for) } => {
                let limited_for_seconds = held_for.as_secs_f64();
                info!(%client, limited_for_seconds, "client no longer throttled");
                None
            }
            RateDecision::Wait { wait, is_first } => {
                self.held_back.add(1);
                if is_first {
                    info!(%client, "client throttled; redis is nearly full");
                }
                Some(wait)
            }
        }
    }

    fn handle_look(&self, looked: Result<MemoryUsage, StoreError>, now: Instant) {
        let usage = match looked {
            Ok(usage) => usage,
            // A refused write logs the Redis error.
            Err(error) => {
                return debug!(
                    error = error_chain(&error),
                    "failed to read the memory usage of redis"
                );
            }
        };
        let MemoryUsage { used, max } = usage;
        let Some(is_short) = self.lock().handle_usage(usage, now) else { return };
        let held_back = self.held_back.get();
        let mut short = self.short.lock().unwrap_or_else(PoisonError::into_inner);
        if is_short {
            *short = Some((now, held_back));
            let help = "raise maxmemory, trim streams or set in_max_len";
            warn!(used, max, help, "redis is nearly full; clients are rate limited");
        } else if let Some((since, before)) = short.take() {
            let limited_for_seconds = now.duration_since(since).as_secs_f64();
            let count = held_back - before;
            info!(
                used,
                max, limited_for_seconds, count, "redis has room again; client rate limit lifted"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, ClientRates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Running memory query; the next one may start when this is dropped.
struct UsageQueryGuard<'a>(&'a AtomicBool);

impl Drop for UsageQueryGuard<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
