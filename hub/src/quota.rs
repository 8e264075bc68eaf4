//! Rate limits per client: its own rate, and a lower one while the shared Redis is nearly full.
//!
//! Its own rate is the setting `client_rate`, or what auth has for the client. In the reserve, the
//! last part of `maxmemory`, each client also has the rate of the reserve. What it sent in the
//! seconds before counts against it there: the clients that filled Redis recently wait first, and a
//! quiet client passes at once.
//!
//! The fill level costs one `INFO memory` a second under load and none when idle. In between,
//! admitted bytes count twice.

mod rate;
mod throttle;

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::limits::{RESERVE_PATIENCE, THROTTLE_POLL};
use http::StatusCode;
use spoke_diagnostics::{
    error_chain,
    metrics::{Counter, CounterVec, MetricsPage},
    unix_ms,
};
use spoke_protocol::{ClientId, EntryRate, message::ReceiveLimits, wire::json::TOO_FAST};
use spoke_service::{Shutdown, api_error::ApiError};
use spoke_store::{
    MemoryUsage, StoreError,
    partitions::{Partition, Partitions},
    throttle_mark::{self, ThrottleMark},
};
use tracing::{debug, info, warn};

pub(crate) use self::rate::{BatchLoad, MemoryReserve};
use self::{
    rate::{ClientRates, RateDecision},
    throttle::{ThrottleCause, ThrottleReport},
};

/// Longest sleep before the rate is checked again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Rate limits of all clients.
pub(crate) struct RedisQuota {
    partitions: Partitions,
    /// Rate of a client for which auth has none.
    client_rate: EntryRate,
    rates: Mutex<ClientRates>,
    /// Start of the shortage and the throttled batches before it, while only the reserve is left.
    short: Mutex<Option<(Instant, u64)>>,
    is_querying: AtomicBool,
    held_back: Counter,
    refused: Counter,
    /// Clients that began to be throttled, by cause.
    throttled: CounterVec,
}

/// A client, and the rate that auth has for it.
#[derive(Debug, Clone)]
pub(crate) struct RatedClient {
    /// Client.
    pub client: ClientId,
    /// Its rate; `None` for that of the settings.
    pub rate: Option<EntryRate>,
}

/// A wait before a batch.
struct BatchWait {
    wait: Duration,
    cause: ThrottleCause,
}

impl RedisQuota {
    /// Creates the limits for this Redis.
    pub(crate) fn new(
        partitions: Partitions,
        client_rate: EntryRate,
        reserve: MemoryReserve,
    ) -> Self {
        let causes = [ThrottleCause::Rate, ThrottleCause::Memory];
        Self {
            partitions,
            client_rate,
            rates: Mutex::new(ClientRates::new(reserve, Instant::now())),
            short: Mutex::default(),
            is_querying: AtomicBool::new(false),
            held_back: Counter::default(),
            refused: Counter::default(),
            throttled: CounterVec::new(causes.map(ThrottleCause::word)),
        }
    }

    /// Returns the limits of the batches of a client with this rate, while the hub has this many connections.
    pub(crate) fn granted(&self, rate: Option<EntryRate>, connections: usize) -> ReceiveLimits {
        rate.unwrap_or(self.client_rate).granted(connections)
    }

    /// Waits briefly until the client may add this batch.
    ///
    /// # Errors
    /// 429 `too-fast` if the wait is longer than [`RESERVE_PATIENCE`].
    pub(crate) async fn admit(
        &self,
        client: &RatedClient,
        load: BatchLoad,
    ) -> Result<(), ApiError> {
        let until = Instant::now() + RESERVE_PATIENCE;
        let mut is_counted = false;
        while let Some(BatchWait { wait, cause }) = self.ask(client, load).await {
            self.held_back.add(u64::from(!std::mem::replace(&mut is_counted, true)));
            if Instant::now() + wait > until {
                self.refused.add(1);
                let refusal =
                    ApiError::new(StatusCode::TOO_MANY_REQUESTS, TOO_FAST, too_fast(cause));
                return Err(refusal.retry_after(wait.as_secs() + 1));
            }
            tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
        }
        Ok(())
    }

    /// Counts this batch if the client may add it now, and Redis need not be asked for its memory first.
    pub(crate) fn try_admit(&self, client: &RatedClient, load: BatchLoad) -> bool {
        let is_due = self.lock().is_look_due(load, Instant::now());
        !is_due && self.decide(client, load).is_none()
    }

    /// Waits until the client may add this batch. Cancel safe.
    pub(crate) async fn wait_until_admitted(&self, client: &RatedClient, load: BatchLoad) {
        let mut is_counted = false;
        while let Some(BatchWait { wait, .. }) = self.ask(client, load).await {
            self.held_back.add(u64::from(!std::mem::replace(&mut is_counted, true)));
            tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
        }
    }

    /// Writes the metrics.
    pub(crate) fn write(&self, page: &mut MetricsPage) {
        let (is_short, throttled) = {
            let rates = self.lock();
            (rates.is_short(), rates.throttled())
        };
        let help = "1 while only the memory reserve of redis is left and clients are rate limited.";
        page.gauge("spoke_hub_reserve_reached", help, &u8::from(is_short));
        let name = "spoke_hub_throttled_clients";
        page.head("gauge", name, "Clients that are throttled now.");
        for (cause, count) in throttled {
            page.sample(name, &[("cause", cause.word())], &count);
        }
        let help = "How often a client began to be throttled.";
        page.counters("spoke_hub_throttled_clients_total", help, "cause", &self.throttled);
        let help = "Batches delayed by the client's rate limit.";
        page.counter("spoke_hub_held_back_total", help, &self.held_back);
        let help = "Requests refused by the client's rate limit.";
        page.counter("spoke_hub_too_fast_total", help, &self.refused);
    }

    /// Records in Redis which clients are throttled, for `spoke-hub clients`, until shutdown.
    pub(crate) async fn record_throttled(&self, shutdown: &Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                () = tokio::time::sleep(THROTTLE_POLL) => {}
            }
            let reports = self.lock().poll_reports(Instant::now());
            for (client, report) in reports {
                self.record_report(&client, report).await;
            }
        }
    }

    /// A mark that Redis did not accept is written again with the next report.
    async fn record_report(&self, client: &ClientId, report: ThrottleReport) {
        let Partition { redis, keys } = self.partitions.of(client);
        let recorded = match report {
            ThrottleReport::Throttled { cause, lasted } => {
                let at_ms = unix_ms();
                let since_ms = at_ms.saturating_sub(lasted.as_millis() as u64);
                let mark = ThrottleMark { cause: cause.word().to_owned(), since_ms, at_ms };
                throttle_mark::write(redis, keys, client, &mark).await
            }
            ThrottleReport::Ended { lasted, is_unlogged } => {
                if is_unlogged {
                    log_end(client, lasted);
                }
                throttle_mark::remove(redis, keys, client).await
            }
        };
        if let Err(error) = recorded {
            debug!(
                error = error_chain(&error),
                "failed to record in redis whether a client is throttled"
            );
        }
    }

    /// Returns the wait, or `None` if the batch is admitted and counted.
    async fn ask(&self, client: &RatedClient, load: BatchLoad) -> Option<BatchWait> {
        let is_due = self.lock().is_look_due(load, Instant::now());
        if is_due && !self.is_querying.swap(true, Ordering::AcqRel) {
            let guard = UsageQueryGuard(&self.is_querying);
            let looked = self.partitions.fullest().await;
            self.handle_look(looked, Instant::now());
            drop(guard);
        }
        self.decide(client, load)
    }

    fn decide(&self, client: &RatedClient, load: BatchLoad) -> Option<BatchWait> {
        let RatedClient { client, rate } = client;
        let rate = rate.unwrap_or(self.client_rate);
        let verdict = self.lock().handle_load(client, rate, load, Instant::now());
        match verdict {
            RateDecision::Go { was_held_for } => {
                if let Some(held_for) = was_held_for {
                    log_end(client, held_for);
                }
                None
            }
            RateDecision::Wait { wait, cause, is_first } => {
                if is_first {
                    self.throttled.add(cause.word(), 1);
                    match cause {
                        ThrottleCause::Memory => {
                            info!(%client, "client throttled; redis is nearly full");
                        }
                        ThrottleCause::Rate => {
                            info!(%client, %rate, "client throttled; it exceeds its rate");
                        }
                    }
                }
                Some(BatchWait { wait, cause })
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

fn log_end(client: &ClientId, held_for: Duration) {
    let limited_for_seconds = held_for.as_secs_f64();
    info!(%client, limited_for_seconds, "client no longer throttled");
}

fn too_fast(cause: ThrottleCause) -> &'static str {
    match cause {
        ThrottleCause::Rate => "this client exceeds its rate; send more slowly",
        ThrottleCause::Memory => {
            "the hub's redis is nearly full and this client exceeds its rate; send more slowly"
        }
    }
}

/// Running memory query; the next one may start when this is dropped.
struct UsageQueryGuard<'a>(&'a AtomicBool);

impl Drop for UsageQueryGuard<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
