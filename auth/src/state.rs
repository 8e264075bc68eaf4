//! [`AuthState`]: what all routes share, and how faults of the store and the hash pool become responses.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::StatusCode;
use spoke_diagnostics::{Outage, SharedLogLimiter, error_chain};
use spoke_protocol::{ClientId, reconnect_wait};
use spoke_service::{
    Shutdown,
    api_error::ApiError,
    server::{PeerAddress, PeerNet},
    sum_up,
};
use spoke_store::{StoreError, session_tokens::digest};
use tracing::{debug, error, info, warn};

use crate::{
    config::RateLimitSettings,
    device_secret::DeviceSecret,
    hash_pool::{HashCaller, HashPool, HashPoolError},
    limits::WRONG_CODES_ALL_MAX,
    metrics::AuthMetrics,
    rate_limit::{AuthAction, AuthAttempt, LimitKind, Precheck, RateLimiter},
    store::{AttemptCount, AuthStore, ClientRecord},
};

/// The state of one auth service.
pub(crate) struct AuthState {
    /// Clients and sessions.
    pub(crate) store: AuthStore,
    /// The threads that run bcrypt.
    pub(crate) hash_pool: HashPool,
    /// The life of a session, for the responses.
    pub(crate) session_ttl: Duration,
    /// Counters since the start.
    pub(crate) metrics: AuthMetrics,
    rate_limiter: Mutex<RateLimiter>,
    /// Makes the tag of a client that has none.
    stand_in: u128,
    throttled: SharedLogLimiter<(LimitKind, PeerNet)>,
    store_outage: Outage,
    hash_outage: Outage,
}

impl AuthState {
    /// Returns a state without any attempt yet.
    pub(crate) fn new(
        store: AuthStore,
        hash_pool: HashPool,
        rate_limiter: RateLimiter,
        session_ttl: Duration,
    ) -> Self {
        Self {
            store,
            hash_pool,
            session_ttl,
            metrics: AuthMetrics::default(),
            rate_limiter: Mutex::new(rate_limiter),
            stand_in: rand::random(),
            throttled: SharedLogLimiter::default(),
            store_outage: Outage::new(),
            hash_outage: Outage::new(),
        }
    }

    /// Checks a secret by its tag, before bcrypt runs. An unknown client has a tag too, so that it cannot be told
    /// from a known one.
    pub(crate) fn precheck(
        &self,
        record: &ClientRecord,
        client: &ClientId,
        secret: Option<&DeviceSecret>,
    ) -> Precheck {
        let mut stand_in = digest(&format!("{:032x}:{client}", self.stand_in));
        stand_in.truncate(DeviceSecret::TAG_DIGITS);
        match record.matches_tag(secret, &stand_in) {
            true => Precheck::Passed,
            false => Precheck::Failed,
        }
    }

    /// Admits an attempt within the rate limits. It counts as a failure until
    /// [`handle_success`](Self::handle_success) or [`handle_no_verdict`](Self::handle_no_verdict).
    ///
    /// # Errors
    /// 429 "throttled", with the time to wait.
    pub(crate) fn admit(&self, attempt: &AuthAttempt) -> Result<(), ApiError> {
        self.rate_limiter().admit(attempt, Instant::now()).map_err(|error| {
            let (client, peer) = (attempt.client.as_ref().map(ClientId::as_str), attempt.peer);
            let (action, reason) = (attempt.action, error.kind.word());
            self.metrics.throttled.add(reason, 1);
            let wait_seconds = seconds_up(error.wait);
            match (self.throttled.record((error.kind, peer)), error.kind) {
                (true, LimitKind::ClientFailures | LimitKind::AddressFailures) => {
                    warn!(
                        client,
                        %peer,
                        ?action,
                        reason,
                        wait_seconds,
                        "requests throttled after failures"
                    );
                }
                (true, _) => {
                    info!(client, %peer, ?action, reason, wait_seconds, "requests throttled");
                }
                (false, _) => {
                    debug!(client, %peer, ?action, reason, wait_seconds, "request throttled");
                }
            }
            let message = "too many requests from this client or address; retry later";
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "throttled", message)
                .retry_after(wait_seconds)
        })
    }

    /// Logs once a minute how many requests are throttled still, and which faults go on.
    pub(crate) async fn log_counts(&self, shutdown: &Shutdown) {
        let throttled = |kind: Option<&(LimitKind, PeerNet)>, count| match kind {
            Some((kind, peer)) => {
                info!(%peer, reason = kind.word(), count, "more requests throttled");
            }
            None => info!(count, "more requests throttled, from further addresses"),
        };
        let invalid_hashes = |_: Option<&()>, count| {
            warn!(count, "more stored secrets are not valid bcrypt hashes");
        };
        tokio::join!(
            sum_up(&self.throttled, shutdown, throttled),
            sum_up(self.hash_pool.invalid_hashes(), shutdown, invalid_hashes)
        );
    }

    /// Forgives the failures of a client that has proven its identity.
    pub(crate) fn handle_success(&self, attempt: &AuthAttempt) {
        self.rate_limiter().handle_success(attempt, Instant::now());
    }

    /// No longer counts the attempt as a failure, since it was found neither right nor wrong.
    pub(crate) fn handle_no_verdict(&self, attempt: &AuthAttempt) {
        self.rate_limiter().handle_no_verdict(attempt, Instant::now());
    }

    /// Counts and logs a wrong code or proof.
    pub(crate) fn handle_wrong_code(&self, client: &ClientId, count: AttemptCount) {
        let AttemptCount::Wrong { count, all, is_last } = count else { return };
        self.metrics.wrong_codes.add(1);
        if all == WRONG_CODES_ALL_MAX {
            let help = "a client's codes are locked after its first wrong one until there are fewer; \
                        find the addresses that send them";
            warn!(count = all, help, "wrong registration codes reached the limit for all clients");
        }
        if is_last {
            self.metrics.codes_locked.add(1);
            let help = "`spoke-auth extend` unlocks them; an agent can register without codes";
            warn!(%client, count, help, "registration codes locked");
        }
    }

    /// Turns a fault of the store into a response. An outage is logged when it begins and when it ends.
    ///
    /// # Errors
    /// 503 "unavailable" while Redis cannot answer, 500 "internal" if it rejects the request.
    pub(crate) fn store_result<T>(&self, result: Result<T, StoreError>) -> Result<T, ApiError> {
        let fault = match result {
            Ok(answer) => {
                if let Some(count) = self.store_outage.handle_success() {
                    info!(count, "redis accepts requests again");
                }
                return Ok(answer);
            }
            Err(fault) => fault,
        };
        let error = error_chain(&fault);
        // `spoke_store::health` logs the begin and the end of an outage.
        if fault.is_outage() {
            debug!(error, "redis unavailable");
            return Err(unavailable());
        }
        if self.store_outage.handle_fault() {
            error!(error, "redis rejected a request");
        } else {
            debug!(error, "redis rejected a request");
        }
        Err(internal())
    }

    /// Turns a fault of the hash pool into a response.
    ///
    /// # Errors
    /// 503 "busy" if its queue is full, 500 "internal" if bcrypt fails.
    pub(crate) fn hash_result<T>(&self, result: Result<T, HashPoolError>) -> Result<T, ApiError> {
        if result.is_ok()
            && let Some(count) = self.hash_outage.handle_success()
        {
            info!(count, "secret hashing recovered");
        }
        result.map_err(|fault| match fault {
            HashPoolError::Full { retry_after } => {
                let message = "too many registrations and logins in progress; retry later";
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
                    .retry_after(seconds_up(retry_after))
            }
            HashPoolError::Stopped => unavailable(),
            HashPoolError::Bcrypt(_) => {
                if self.hash_outage.handle_fault() {
                    error!(error = error_chain(&fault), "failed to hash a secret");
                }
                internal()
            }
        })
    }

    /// Logs that no token could be made, and returns the response.
    pub(crate) fn handle_no_randomness(fault: rand::rand_core::OsError) -> ApiError {
        error!(error = error_chain(&fault), "failed to read random bytes");
        internal()
    }

    /// Applies these rate limits from now on. The counts so far stay.
    pub(crate) fn set_rate_limits(&self, settings: &RateLimitSettings) {
        self.rate_limiter().set_rules(settings);
    }

    /// Returns how many clients and addresses have a rate limit in use.
    pub(crate) fn rate_limit_keys(&self) -> usize {
        self.rate_limiter().keys()
    }

    fn rate_limiter(&self) -> MutexGuard<'_, RateLimiter> {
        self.rate_limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AuthAttempt {
    /// Returns an attempt from this peer.
    pub(crate) fn new(
        action: AuthAction,
        peer: PeerAddress,
        client: Option<&ClientId>,
        precheck: Precheck,
    ) -> Self {
        Self { action, peer: peer.net(), client: client.cloned(), precheck }
    }

    /// Returns the party whose turn in the hash pool this attempt takes.
    pub(crate) fn hash_caller(&self) -> HashCaller {
        match (&self.client, self.precheck) {
            (Some(client), Precheck::Passed) => HashCaller::Client(client.clone()),
            (_, Precheck::Failed) | (None, Precheck::Passed) => HashCaller::Peer(self.peer),
        }
    }
}

fn unavailable() -> ApiError {
    let message = "auth cannot reach its database; retry later";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
        .retry_after(reconnect_wait(0, rand::random()).as_secs())
}

fn internal() -> ApiError {
    let message = "internal error of auth; see its log";
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
}

fn seconds_up(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}
