//! Rate limits per client: its own rate, and a lower one while the shared Redis is nearly full.
//!
//! Its own rate is the setting `client_rate`, or what auth has for the client. In the reserve, the
//! last part of `maxmemory`, each client also has the rate of the reserve. What it sent in the
//! seconds before counts against it there: the clients that filled Redis recently wait first, and a
//! quiet client passes at once.
//!
//! The fill level costs one `INFO memory` a second for each partition under load and none when idle.
//! In between, admitted bytes count twice.

mod rate;
mod throttle;

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
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
use crate::limits::{RESERVE_PATIENCE, THROTTLE_POLL};

/// Longest sleep before the rate is checked again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Rate limits of all clients.
pub(crate) struct RedisQuota {
    partitions: Partitions,
    /// Rate of a client for which auth has none.
    client_rate: EntryRate,
    /// One for each partition: its Redis may be full while others have room.
    each: Box<[PartitionQuota]>,
    shortage: Mutex<Shortage>,
    held_back: Counter,
    refused: Counter,
    /// Clients that began to be throttled, by cause.
    throttled: CounterVec,
}

/// Rate limits of the clients of one partition.
struct PartitionQuota {
    rates: Mutex<ClientRates>,
    is_querying: AtomicBool,
}

/// Partitions that have only the reserve left.
#[derive(Default)]
struct Shortage {
    partitions: usize,
    /// Its start and the throttled batches before it, while there are some.
    begun: Option<(Instant, u64)>,
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
        let quota = |_: &Partition| PartitionQuota {
            rates: Mutex::new(ClientRates::new(reserve, Instant::now())),
            is_querying: AtomicBool::new(false),
        };
        Self {
            each: partitions.all().iter().map(quota).collect(),
            partitions,
            client_rate,
            shortage: Mutex::default(),
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
        let is_due = self.of(client).lock().is_look_due(load, Instant::now());
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
        let is_short = self.shortage().begun.is_some();
        let help = "1 while only the memory reserve of redis is left and clients are rate limited.";
        page.gauge("spoke_hub_reserve_reached", help, &u8::from(is_short));
        let name = "spoke_hub_throttled_clients";
        page.head("gauge", name, "Clients that are throttled now.");
        for cause in [ThrottleCause::Rate, ThrottleCause::Memory] {
            let count: usize = self.each.iter().map(|it| it.lock().throttled(cause)).sum();
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
            let now = Instant::now();
            let reports: Vec<_> =
                self.each.iter().flat_map(|it| it.lock().poll_reports(now)).collect();
            // Side by side: a node that hangs delays no mark of another.
            let marks = reports.iter().map(|(client, report)| self.record_report(client, *report));
            join_all(marks).await;
        }
    }

    /// A mark that Redis did not accept is written again with the next report.
    async fn record_report(&self, client: &ClientId, report: ThrottleReport) {
        let partition = self.partitions.of(client);
        let Partition { redis, keys } = partition;
        let recorded = match report {
            ThrottleReport::Throttled { cause, lasted } => {
                let at_ms = unix_ms();
                let since_ms = at_ms.saturating_sub(lasted.as_millis() as u64);
                let mark = ThrottleMark { cause: cause.word().to_owned(), since_ms, at_ms };
                partition.view(throttle_mark::write(redis, keys, client, &mark)).await
            }
            ThrottleReport::Ended { lasted, is_unlogged } => {
                if is_unlogged {
                    log_end(client, lasted);
                }
                partition.view(throttle_mark::remove(redis, keys, client)).await
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
        let quota = self.of(client);
        let is_due = quota.lock().is_look_due(load, Instant::now());
        if is_due && !quota.is_querying.swap(true, Ordering::AcqRel) {
            let guard = UsageQueryGuard(&quota.is_querying);
            let partition = self.partitions.of(&client.client);
            let looked = partition.view(MemoryUsage::query(&partition.redis)).await;
            self.handle_look(quota, looked, Instant::now());
            drop(guard);
        }
        self.decide(client, load)
    }

    fn decide(&self, rated: &RatedClient, load: BatchLoad) -> Option<BatchWait> {
        let RatedClient { client, rate } = rated;
        let rate = rate.unwrap_or(self.client_rate);
        let verdict = self.of(rated).lock().handle_load(client, rate, load, Instant::now());
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

    fn handle_look(
        &self,
        quota: &PartitionQuota,
        looked: Result<MemoryUsage, StoreError>,
        now: Instant,
    ) {
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
        let Some(is_short) = quota.lock().handle_usage(usage, now) else { return };
        let held_back = self.held_back.get();
        let mut shortage = self.shortage();
        if is_short {
            shortage.partitions += 1;
            if shortage.begun.is_none() {
                shortage.begun = Some((now, held_back));
                let help = "raise maxmemory, trim streams or set in_max_len";
                warn!(used, max, help, "redis is nearly full; clients are rate limited");
            }
            return;
        }
        shortage.partitions -= 1;
        if shortage.partitions > 0 {
            return;
        }
        if let Some((since, before)) = shortage.begun.take() {
            let limited_for_seconds = now.duration_since(since).as_secs_f64();
            let count = held_back - before;
            info!(
                used,
                max, limited_for_seconds, count, "redis has room again; client rate limit lifted"
            );
        }
    }

    fn of(&self, client: &RatedClient) -> &PartitionQuota {
        &self.each[self.partitions.number_of(&client.client)]
    }

    fn shortage(&self) -> MutexGuard<'_, Shortage> {
        self.shortage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartitionQuota {
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
