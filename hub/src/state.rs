//! State of one hub process, shared by all routes and background tasks.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use spoke_diagnostics::{SharedLogLimiter, error_chain};
use spoke_protocol::{
    ClientId, Epoch, Loss,
    message::{Features, Goaway, GoawayReason},
    reconnect_wait,
    wire::json::UNUSABLE_STREAM,
};
use spoke_service::{Shutdown, api_error::ApiError, sum_up};
use spoke_store::{
    ClientQuotas, Hints, OriginStore, Redis, StoreError, driver, session_tokens::SessionTokens,
};
use tracing::{info, warn};

use crate::{
    client_limits::{ClientLimits, LargeWriteSlots},
    config::HubConfig,
    connections::ConnectionRegistry,
    link_paths::LinkPaths,
    memory_budget::MemoryBudget,
    metrics::{self, HubMetrics, page::HubMetricsSources},
    partitions::HubPartitions,
    quota::RedisQuota,
};

/// Fault that affects many sessions at once, for log limiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum SessionFault {
    /// Sessions refused for this reason.
    Refused(&'static str),
    /// Sessions ended for this reason.
    Ended(&'static str),
}

/// State of one hub process. Shared as `Arc<HubState>`.
pub(crate) struct HubState {
    /// Settings.
    pub config: HubConfig,
    /// The streams and the state of all clients, in one Redis or many.
    pub partitions: HubPartitions,
    /// Session tokens that auth has issued.
    pub sessions: SessionTokens,
    /// Subscriptions to key changes.
    pub hints: Hints,
    /// Open connections of this process.
    pub connections: ConnectionRegistry,
    /// Request and session limits per client.
    pub client_limits: ClientLimits,
    /// Copy search and loss quotas per client.
    pub copy_quotas: ClientQuotas,
    /// Slots for large writes to Redis.
    pub write_slots: LargeWriteSlots,
    /// Memory budget of requests, frames and answers.
    pub budget: MemoryBudget,
    /// Rate limits per client.
    pub quota: RedisQuota,
    /// What the link to each client can carry at a time.
    pub link_paths: LinkPaths,
    /// Counters.
    pub metrics: HubMetrics,
    /// Shutdown signal and task tracker.
    pub shutdown: Shutdown,
    /// Redis errors that are not outages, by error text.
    store_faults: SharedLogLimiter<String>,
    /// Sessions refused, and sessions that ended silently or stalled, by reason.
    pub session_faults: SharedLogLimiter<SessionFault>,
    /// Losses reported in requests, by cause: the first is logged, the rest are counted.
    logged_losses: SharedLogLimiter<&'static str>,
    /// Random name of this process, unique among the hubs on one Redis.
    pub name: String,
}

impl HubState {
    /// Creates the state of a hub without connections.
    pub(crate) fn new(
        config: HubConfig,
        partitions: HubPartitions,
        auth_redis: Redis,
        shutdown: Shutdown,
    ) -> Arc<Self> {
        let sessions = SessionTokens::new(auth_redis, &config.auth_key_prefix);
        let connections = ConnectionRegistry::new(config.connections_per_client);
        Arc::new(Self {
            sessions,
            hints: Hints::new(),
            connections,
            copy_quotas: ClientQuotas::default(),
            client_limits: ClientLimits::default(),
            write_slots: LargeWriteSlots::at(config.ack),
            budget: MemoryBudget::new(config.budget_mib * 1024 * 1024),
            quota: RedisQuota::new(
                partitions.store().clone(),
                config.client_rate,
                config.reserve(),
            ),
            link_paths: LinkPaths::default(),
            metrics: HubMetrics::default(),
            store_faults: SharedLogLimiter::default(),
            session_faults: SharedLogLimiter::default(),
            logged_losses: SharedLogLimiter::default(),
            name: format!("{:08x}", rand::random::<u32>()),
            config,
            partitions,
            shutdown,
        })
    }

    /// Returns the client's out stream.
    pub(crate) fn origin(&self, client: &ClientId) -> OriginStore {
        let partition = self.partitions.of(client);
        OriginStore::hub(partition.origins.clone(), partition.keys(), client)
    }

    /// Returns the metrics page in Prometheus's text format.
    pub(crate) async fn metrics_page(&self, auth_redis: &Redis) -> String {
        metrics::page::text(HubMetricsSources {
            metrics: &self.metrics,
            budget: &self.budget,
            quota: &self.quota,
            link_paths: &self.link_paths,
            connections: self.connections.count(),
            config: &self.config,
            partitions: &self.partitions,
            auth_redis: self.config.separate_auth_redis().is_some().then_some(auth_redis),
        })
        .await
    }

    /// Returns the optional protocol features that this hub offers.
    pub(crate) fn features(&self) -> Features {
        if self.config.compression { Features::COMPRESSION } else { Features::default() }
    }

    /// Maps a Redis error to the refusal of the request that needed the command.
    ///
    /// # Errors
    /// 503 `unavailable` or `unusable-stream`, see [`Self::unavailable`].
    pub(crate) fn store_result<T>(&self, result: Result<T, StoreError>) -> Result<T, ApiError> {
        result.map_err(|error| self.unavailable(&error))
    }

    /// Counts a Redis error and logs it, unless it is an outage or was logged recently. The refusal
    /// tells the caller to retry later, or that this stream is unusable.
    pub(crate) fn unavailable(&self, error: &StoreError) -> ApiError {
        self.metrics.store_errors.add(1);
        let text = error_chain(error);
        // `spoke_store::health` logs outages and their end.
        if !error.is_outage() && self.store_faults.record(text.clone()) {
            warn!(error = text, "redis request failed");
        }
        if error.is_stream_fault() {
            let message =
                "this stream of the hub is unusable; the hub's log names the key and the repair";
            return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, UNUSABLE_STREAM, message)
                .retry_after(self.reconnect_wait().as_secs());
        }
        self.redis_unavailable()
    }

    fn redis_unavailable(&self) -> ApiError {
        let message = "the hub's redis is unavailable; retry the request later";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
            .retry_after(self.reconnect_wait().as_secs())
    }

    /// Checks that it is known where the keys of clients are.
    ///
    /// # Errors
    /// 503 `unavailable` until Redis has answered once.
    pub(crate) fn check_partitions(&self) -> Result<(), ApiError> {
        if self.partitions.is_checked() { Ok(()) } else { Err(self.redis_unavailable()) }
    }

    /// Counts and logs an unusable stream of one client's session.
    pub(crate) fn handle_unusable(&self, client: &ClientId, error: &StoreError) {
        self.metrics.store_errors.add(1);
        let error = error_chain(error);
        if self.store_faults.record(error.clone()) {
            warn!(%client, error, "stream cannot be used; the other direction continues");
        }
    }

    /// Returns how long a client has to wait before it reconnects.
    pub(crate) fn reconnect_wait(&self) -> Duration {
        reconnect_wait(self.connections.count(), rand::random())
    }

    /// Logs a loss that a request reported or caused, unless one with the same cause was logged
    /// recently.
    pub(crate) fn log_loss(&self, loss: &Loss) {
        if self.logged_losses.record(loss.cause.word()) {
            driver::log_loss(loss);
        }
    }

    /// Logs the counts of repeated faults once a minute, until shutdown.
    pub(crate) async fn log_repeats(&self) {
        let log_sessions = |fault: Option<&SessionFault>, count| match fault {
            Some(SessionFault::Refused(reason)) => info!(reason, count, "more sessions refused"),
            Some(SessionFault::Ended(reason)) => {
                warn!(reason, count, "more sessions ended for the same reason")
            }
            None => {}
        };
        let log_losses = |reason: Option<&&str>, count| {
            warn!(reason, count, "more entries were lost");
        };
        let log_faults = |error: Option<&String>, count| {
            warn!(error, count, "more redis requests failed");
        };
        tokio::join!(
            sum_up(&self.store_faults, &self.shutdown, log_faults),
            sum_up(&self.session_faults, &self.shutdown, log_sessions),
            sum_up(&self.logged_losses, &self.shutdown, log_losses),
            self.link_paths.log_repeats(&self.shutdown),
        );
    }

    /// Checks that a session may start on this process.
    ///
    /// # Errors
    /// 503 `restart` after shutdown began.
    pub(crate) fn check_running(&self) -> Result<(), ApiError> {
        if !self.shutdown.is_begun() {
            return Ok(());
        }
        let Goaway { reason, message, wait_ms } = self.restart_goaway();
        Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, reason.word(), message)
            .retry_after(wait_ms / 1000))
    }

    /// Returns the GOAWAY of a shutdown. The random wait spreads the reconnects and gives a
    /// replacement process time to listen.
    pub(crate) fn restart_goaway(&self) -> Goaway {
        let wait = self.reconnect_wait();
        Goaway {
            reason: GoawayReason::Restart,
            message: "the hub restarts".to_owned(),
            wait_ms: wait.as_millis() as u64,
        }
    }
}

/// Returns the refusal of a request that belongs to an older session.
pub(crate) fn superseded() -> ApiError {
    let message = "a newer session of this client has started; if another device started it, two \
                   devices share one identity";
    ApiError::new(StatusCode::CONFLICT, "superseded", message)
}

/// Returns the refusal of a peer whose epoch is more than one ahead of the hub's.
pub(crate) fn epoch_ahead(known: Epoch) -> ApiError {
    let message = format!(
        "epoch too high: the hub knows epoch {known} of this stream, expected at most the next; if \
         the hub's redis was restored from an old backup, run spoke-hub reset-client"
    );
    ApiError::new(StatusCode::CONFLICT, GoawayReason::EpochAhead.word(), message).with_epoch(known)
}

/// Returns the refusal of a seq more than a day ahead of the hub's clock.
pub(crate) fn seq_ahead() -> ApiError {
    let message = "this seq is more than 24 hours ahead of the hub's clock; correct the clock of \
                   the device that added the entry";
    ApiError::new(StatusCode::CONFLICT, GoawayReason::SeqAhead.word(), message)
}

/// Returns the refusal of a request for an older epoch of the stream.
pub(crate) fn stale_epoch(current: Epoch) -> ApiError {
    let message = format!(
        "stale epoch: this stream is now in epoch {current}; query the cursor and continue there"
    );
    ApiError::new(StatusCode::CONFLICT, "stale-epoch", message).with_epoch(current)
}
