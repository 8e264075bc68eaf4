//! What all routes share, and how the faults beneath them become refusals.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::StatusCode;
use spoke_diagnostics::{
    error_chain::error_chain,
    log_limit::{Outage, SharedLogLimiter},
};
use spoke_protocol::{backoff::reconnect_wait, client_id::ClientId};
use spoke_service::{
    api_error::ApiError,
    log_summary::sum_up,
    server::{PeerAddress, PeerNet},
    shutdown::Shutdown,
};
use spoke_store::{StoreError, session_tokens::digest};
use tracing::{debug, error, info, warn};

use crate::{
    config::ThrottleSettings,
    limits::WRONG_CODES_ALL_MAX,
    metrics::Metrics,
    pool::{Party, Pool, PoolError},
    secret::DeviceSecret,
    store::{ClientRecord, Counted, Store},
    throttle::{Action, Because, Standing, Throttle, Visit},
};

/// One auth service.
pub struct Service {
    /// Clients and sessions.
    pub store: Store,
    /// The threads that hash.
    pub pool: Pool,
    /// The life of a session, for the answers.
    pub session_ttl: Duration,
    /// What has been answered.
    pub metrics: Metrics,
    throttle: Mutex<Throttle>,
    /// Makes the tag that stands in for one that a client does not have.
    stand_in: u128,
    held_back: SharedLogLimiter<(Because, PeerNet)>,
    store_wrong: Outage,
    hash_wrong: Outage,
}

impl Service {
    /// A service that nobody has come to yet.
    pub fn new(store: Store, pool: Pool, throttle: Throttle, session_ttl: Duration) -> Self {
        Self {
            store,
            pool,
            session_ttl,
            metrics: Metrics::default(),
            throttle: Mutex::new(throttle),
            stand_in: rand::random(),
            held_back: SharedLogLimiter::default(),
            store_wrong: Outage::new(),
            hash_wrong: Outage::new(),
        }
    }

    /// What this secret shows of a visitor before bcrypt is run. A name that nobody has has a tag too, so
    /// that it cannot be told from one that somebody has.
    pub fn standing(
        &self,
        record: &ClientRecord,
        client: &ClientId,
        secret: Option<&DeviceSecret>,
    ) -> Standing {
        let mut stand_in = digest(&format!("{:032x}:{client}", self.stand_in));
        stand_in.truncate(DeviceSecret::TAG_DIGITS);
        match record.is_likely(secret, &stand_in) {
            true => Standing::Likely,
            false => Standing::Stranger,
        }
    }

    /// Lets a visit pass, or refuses it with 429. It counts as a failure until `handle_success` or
    /// `handle_no_verdict`.
    ///
    /// # Errors
    /// The refusal.
    pub fn admit(&self, visit: &Visit) -> Result<(), ApiError> {
        self.throttle().admit(visit, Instant::now()).map_err(|refused| {
            let (client, site) = (visit.client.as_ref().map(ClientId::as_str), visit.site);
            let (action, because) = (visit.action, refused.because);
            self.metrics.held_back.add(because.word(), 1);
            let wait_seconds = seconds_up(refused.wait);
            match (self.held_back.record((because, site)), because) {
                (true, Because::ClientFailures | Because::AddressFailures) => {
                    warn!(client, %site, ?action, ?because, wait_seconds, "held back after failures");
                }
                (true, _) => {
                    info!(client, %site, ?action, ?because, wait_seconds, "held back");
                }
                (false, _) => {
                    debug!(client, %site, ?action, ?because, wait_seconds, "held back");
                }
            }
            let message = "this client or address came too often; come back later";
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "throttled", message)
                .retry_after(wait_seconds)
        })
    }

    /// Says once a minute who is held back still, and which faults go on.
    pub async fn sum_up(&self, shutdown: &Shutdown) {
        let say = |kind: Option<&(Because, PeerNet)>, count| match kind {
            Some((because, site)) => info!(%site, ?because, count, "held back again"),
            None => info!(count, "held back, of more addresses than are listed"),
        };
        let odd = |_: Option<&()>, count| {
            warn!(count, "clients' stored secrets are no bcrypt hash again");
        };
        tokio::join!(
            sum_up(&self.held_back, shutdown, say),
            sum_up(self.pool.odd_hashes(), shutdown, odd)
        );
    }

    /// Forgives the failures of a client that has shown who it is.
    pub fn handle_success(&self, visit: &Visit) {
        self.throttle().handle_success(visit, Instant::now());
    }

    /// Takes back that the visit counted as a failure, where it was found neither right nor wrong.
    pub fn handle_no_verdict(&self, visit: &Visit) {
        self.throttle().handle_no_verdict(visit, Instant::now());
    }

    /// Counts and says a wrong code or proof.
    pub fn handle_wrong_code(&self, client: &ClientId, counted: Counted) {
        let Counted::Wrong { count, all, is_last } = counted else { return };
        self.metrics.wrong_codes.add(1);
        if all == WRONG_CODES_ALL_MAX {
            let help = "codes of a client are locked after its first wrong one until there are fewer; \
                        see from which addresses they come";
            warn!(wrong = all, help, "too many wrong registration codes for all clients together");
        }
        if is_last {
            self.metrics.codes_locked.add(1);
            let help = "`spoke-auth extend` unlocks them; an agent registers all the same";
            warn!(%client, wrong = count, help, "registration codes locked");
        }
    }

    /// Passes on what the store answered, or makes a refusal of its fault. The fault is logged when
    /// it begins and when it ends.
    ///
    /// # Errors
    /// 503 while Redis cannot answer, 500 when it answers what it never should.
    pub fn answered<T>(&self, result: Result<T, StoreError>) -> Result<T, ApiError> {
        let fault = match result {
            Ok(answer) => {
                if let Some(count) = self.store_wrong.handle_success() {
                    info!(count, "redis does what auth asks of it again");
                }
                return Ok(answer);
            }
            Err(fault) => fault,
        };
        let error = error_chain(&fault);
        // `store::health` says when an outage begins and when it ends.
        if fault.is_outage() {
            debug!(error, "redis cannot serve auth");
            return Err(unavailable());
        }
        if self.store_wrong.handle_fault() {
            error!(error, "redis refuses what auth asks of it");
        } else {
            debug!(error, "redis refuses what auth asks of it");
        }
        Err(internal())
    }

    /// Passes on what the pool made, or makes a refusal of its fault.
    ///
    /// # Errors
    /// 503 when it is full, 500 when bcrypt fails.
    pub fn hashed<T>(&self, result: Result<T, PoolError>) -> Result<T, ApiError> {
        if result.is_ok()
            && let Some(count) = self.hash_wrong.handle_success()
        {
            info!(count, "secrets are hashed again");
        }
        result.map_err(|fault| match fault {
            PoolError::Full { retry_after } => {
                let message = "too many devices register or log in at this moment; come back later";
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
                    .retry_after(seconds_up(retry_after))
            }
            PoolError::Stopped => unavailable(),
            PoolError::Bcrypt(_) => {
                if self.hash_wrong.handle_fault() {
                    error!(error = error_chain(&fault), "failed to hash");
                }
                internal()
            }
        })
    }

    /// A new token could not be made.
    pub fn no_randomness(fault: rand::rand_core::OsError) -> ApiError {
        error!(error = error_chain(&fault), "the operating system gives no random bytes");
        internal()
    }

    /// Goes by these limits from now on; what is known of who came how often stays.
    pub fn set_throttle(&self, settings: &ThrottleSettings) {
        self.throttle().set_rules(settings);
    }

    /// Names and addresses whose rate is watched.
    pub fn throttle_keys(&self) -> usize {
        self.throttle().keys()
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A visit to an endpoint, as it is counted.
pub fn visit(
    action: Action,
    peer: PeerAddress,
    client: Option<&ClientId>,
    standing: Standing,
) -> Visit {
    Visit { action, site: peer.site(), client: client.cloned(), standing }
}

impl Visit {
    /// Among whom it waits for a thread that hashes.
    pub fn party(&self) -> Party {
        match (&self.client, self.standing) {
            (Some(client), Standing::Likely) => Party::Likely(client.clone()),
            (_, Standing::Stranger) | (None, Standing::Likely) => Party::Stranger(self.site),
        }
    }
}

fn unavailable() -> ApiError {
    let message = "auth cannot reach its database; come back later";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
        .retry_after(reconnect_wait(0, rand::random()).as_secs())
}

fn internal() -> ApiError {
    let message = "something is wrong with auth itself; its log says what";
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
}

fn seconds_up(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}
