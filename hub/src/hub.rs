//! What all routes share.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::StatusCode;
use spoke_diagnostics::{error_chain::error_chain, log_limit::SharedLogLimiter};
use spoke_protocol::{
    backoff::reconnect_wait,
    client_id::ClientId,
    loss::Loss,
    message::{Features, Goaway, GoawayReason},
    seq::Epoch,
    wire::json::UNUSABLE_STREAM,
};
use spoke_service::{api_error::ApiError, log_summary::sum_up, shutdown::Shutdown};
use spoke_store::{
    Redis, StoreError, copy::CopyStore, driver, group_commit::CommitWriter, hints::Hints,
    keys::HubKeys, origin::OriginStore, quota::ClientQuotas, session_tokens::SessionTokens,
};
use tracing::{info, warn};

use crate::{
    bearer::Caller,
    budget::Budget,
    config::Config,
    live::Live,
    metrics::Metrics,
    paths::Paths,
    quota::Quota,
    share::{Places, Shares},
};

/// What befalls many sessions at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionFault {
    /// They were refused, for this reason.
    Refused(&'static str),
    /// They ended, for this cause.
    Ended(&'static str),
}

/// One hub process. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

/// What a hub process has one of.
pub struct Shared {
    /// Its settings.
    pub config: Config,
    /// Where the streams are.
    pub redis: Redis,
    /// Through which it writes what it acknowledges.
    pub writer: CommitWriter,
    /// Its keys.
    pub keys: HubKeys,
    /// Whose tokens live.
    pub sessions: SessionTokens,
    /// Who waits for which key.
    pub hints: Hints,
    /// Who is connected here.
    pub live: Live,
    /// What each client takes.
    pub shares: Shares,
    /// What each client may ask of the in stream.
    pub guards: ClientQuotas,
    /// The large batches that Redis has in hand.
    pub places: Places,
    /// What all have in hand.
    pub budget: Budget,
    /// How fast each may fill Redis.
    pub quota: Quota,
    /// How much gets through to each at a time.
    pub paths: Paths,
    /// What was done.
    pub metrics: Metrics,
    /// When to stop.
    pub shutdown: Shutdown,
    /// What Redis refuses and is no outage, by what it says.
    store_faults: SharedLogLimiter<String>,
    /// Sessions that were refused, and such that ended since nothing came, each by cause.
    pub session_faults: SharedLogLimiter<SessionFault>,
    /// Losses told by requests, by cause: the first is said, the rest are counted.
    told_losses: SharedLogLimiter<&'static str>,
    /// This process, among several on one Redis.
    pub name: String,
}

impl std::ops::Deref for Hub {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Hub {
    /// A hub that nobody has come to yet.
    pub fn new(
        config: Config,
        (redis, writer): (Redis, CommitWriter),
        auth_redis: Redis,
        shutdown: Shutdown,
    ) -> Self {
        let keys = HubKeys::new(&config.key_prefix);
        let sessions = SessionTokens::new(auth_redis, &config.auth_key_prefix);
        let live = Live::new(config.connections_per_client);
        Self(Arc::new(Shared {
            keys,
            sessions,
            hints: Hints::new(),
            live,
            guards: ClientQuotas::default(),
            shares: Shares::default(),
            places: Places::at(config.ack),
            budget: Budget::new(config.budget_mib * 1024 * 1024),
            quota: Quota::new(redis.clone(), config.reserve()),
            paths: Paths::default(),
            metrics: Metrics::default(),
            store_faults: SharedLogLimiter::default(),
            session_faults: SharedLogLimiter::default(),
            told_losses: SharedLogLimiter::default(),
            name: format!("{:08x}", rand::random::<u32>()),
            config,
            redis,
            writer,
            shutdown,
        }))
    }

    /// A client's out stream.
    pub fn origin(&self, client: &ClientId) -> OriginStore {
        OriginStore::hub(self.redis.clone(), &self.keys, client)
    }

    /// The in stream, for what a client sends in the session of this generation.
    pub fn copy(&self, caller: &Caller, generation: Option<u64>) -> CopyStore {
        let client = (&caller.client, caller.registered_at_ms);
        let guard = self.guards.client(&caller.client, Instant::now());
        CopyStore::hub(self.writer.clone(), &self.keys, client, generation, guard)
    }

    /// What this hub can do beyond its protocol version.
    pub fn features(&self) -> Features {
        if self.config.compression { Features::COMPRESSION } else { Features::default() }
    }

    /// What a command to Redis gave, or the refusal of the request that needed it.
    ///
    /// # Errors
    /// 503.
    pub fn checked<T>(&self, result: Result<T, StoreError>) -> Result<T, ApiError> {
        result.map_err(|error| self.unavailable(&error))
    }

    /// Counts a fault of Redis, and logs it unless it came lately or is an outage; who asked hears only
    /// that it may come again, or that this one stream cannot be used.
    pub fn unavailable(&self, error: &StoreError) -> ApiError {
        self.metrics.store_errors.add(1);
        let told = error_chain(error);
        // An outage is said by `store::health`, with its end.
        if !error.is_outage() && self.store_faults.record(told.clone()) {
            warn!(error = told, "redis request failed");
        }
        if error.is_stream_fault() {
            let message = "this stream of the hub cannot be used as it is; the hub's log names the key, and the mend";
            return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, UNUSABLE_STREAM, message)
                .retry_after(self.return_wait().as_secs());
        }
        let message = "the hub's store cannot take anything now; what you sent may be sent again";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
            .retry_after(self.return_wait().as_secs())
    }

    /// A stream that one client's session cannot use as it is.
    pub fn handle_unusable(&self, client: &ClientId, error: &StoreError) {
        self.metrics.store_errors.add(1);
        let error = error_chain(error);
        if self.store_faults.record(error.clone()) {
            warn!(%client, error, "stream cannot be used; the other direction goes on");
        }
    }

    /// How long a client is sent away for at this moment.
    pub fn return_wait(&self) -> Duration {
        reconnect_wait(self.live.count(), rand::random())
    }

    /// Logs a loss that a request told of or met, unless another of its cause was lately.
    pub fn say_loss(&self, loss: &Loss) {
        if self.told_losses.record(loss.cause.word()) {
            driver::say_loss(loss);
        }
    }

    /// Says once a minute what befalls sessions still, until the shutdown begins.
    pub async fn sum_up(self) {
        let say = |fault: Option<&SessionFault>, count| match fault {
            Some(SessionFault::Refused(reason)) => info!(reason, count, "sessions refused again"),
            Some(SessionFault::Ended(cause)) => warn!(cause, count, "sessions end so again"),
            None => {}
        };
        let say_losses = |cause: Option<&&str>, count| {
            warn!(cause, count, "more ranges of entries were lost; they are in the loss ledger");
        };
        let say_faults = |error: Option<&String>, count| {
            warn!(error, count, "redis requests failed again");
        };
        tokio::join!(
            sum_up(&self.store_faults, &self.shutdown, say_faults),
            sum_up(&self.session_faults, &self.shutdown, say),
            sum_up(&self.told_losses, &self.shutdown, say_losses),
            self.paths.sum_up(&self.shutdown),
        );
    }

    /// Whether a session may begin here.
    ///
    /// # Errors
    /// 503 when this process stops.
    pub fn check_stays(&self) -> Result<(), ApiError> {
        if !self.shutdown.is_begun() {
            return Ok(());
        }
        let Goaway { reason, message, wait_ms } = self.restart();
        Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, reason.word(), message)
            .retry_after(wait_ms / 1000))
    }

    /// What a session is told when this process stops: to come back, but not all at once, and not
    /// before another may listen in its place.
    pub fn restart(&self) -> Goaway {
        let wait = self.return_wait();
        Goaway {
            reason: GoawayReason::Restart,
            message: "the hub restarts".to_owned(),
            wait_ms: wait.as_millis() as u64,
        }
    }
}

/// The refusal of a request whose session is not the newest.
pub fn superseded() -> ApiError {
    let message = "a newer session of this client has begun; if that is another device, two devices \
                   share one identity";
    ApiError::new(StatusCode::CONFLICT, "superseded", message)
}

/// The refusal of one that tells of a life of the stream further on than the next.
pub fn epoch_ahead(known: Epoch) -> ApiError {
    let message = format!(
        "the hub knows this stream in epoch {known}, and a new one is the next after that; if the \
         hub's redis was restored from an old backup, run spoke-hub reset-client"
    );
    ApiError::new(StatusCode::CONFLICT, GoawayReason::EpochAhead.word(), message).with_epoch(known)
}

/// The refusal of one that names a seq more than a day ahead of the hub's clock.
pub fn seq_ahead() -> ApiError {
    let message = "this seq is more than 24 hours ahead of the hub's clock; mend the clock of the one \
                   that made it";
    ApiError::new(StatusCode::CONFLICT, GoawayReason::SeqAhead.word(), message)
}

/// The refusal of a request of an older life of the stream.
pub fn stale_epoch(current: Epoch) -> ApiError {
    let message =
        format!("this stream is in epoch {current} now; ask where it stands and go on there");
    ApiError::new(StatusCode::CONFLICT, "stale-epoch", message).with_epoch(current)
}
