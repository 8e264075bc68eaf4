//! The main loop of the agent: authenticate, connect, carry entries, wait, and start again until
//! shutdown.
//!
//! It never ends because of the network, auth or the device's own Redis. The pure modules
//! ([`crate::auth_flow`], [`crate::transport::TransportSelector`], [`crate::disconnect`]) decide
//! what to do next; this module adds randomness and the clock.

mod budget_gate;
mod connection;
mod handshake;
pub(crate) mod systemd_watchdog;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use spoke_diagnostics::{OutageLog, unix_ms};
use spoke_protocol::{InstanceId, RetryDelay, sync::LinkPath};
use spoke_service::Shutdown;
use spoke_store::{CopyStore, Hints, OriginStore, Redis};
use tracing::{debug, info, warn};

use self::{
    connection::{ConnectAttempt, SessionProgress},
    systemd_watchdog::Watchdog,
};
use crate::{
    account::DeviceAccount,
    auth_flow::{AuthStep, AuthWait, RejectedToken},
    authenticator::Authenticator,
    budget::{BudgetPass, UrgentScan},
    config::AgentConfig,
    dial::Dialer,
    disconnect::{DisconnectCause, ReconnectDelay},
    http_client::HttpClient,
    limits::STATE_RETRY,
    status::StatusHandle,
    transport::{TransportKind, TransportSelector},
};

/// A session of this duration shows that the link works, even without entries.
const STABLE_SESSION: Duration = Duration::from_secs(60);
/// The watchdog deadline of a step: longer than auth, the hub and Redis may take together.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);

/// The dependencies of the lifecycle.
pub(crate) struct LifecycleParts {
    /// The settings.
    pub config: AgentConfig,
    /// The device's name and services.
    pub account: DeviceAccount,
    /// Authenticates this device.
    pub authenticator: Authenticator,
    /// Opens connections.
    pub dialer: Dialer,
    /// Sends requests to the hub over the HTTP transport.
    pub http: HttpClient,
    /// The device's own Redis.
    pub redis: Redis,
    /// Signals new entries in the out stream.
    pub hints: Hints,
    /// The live status.
    pub status: StatusHandle,
    /// The progress that the systemd watchdog checks.
    pub watchdog: Arc<Mutex<Watchdog>>,
    /// Signals the shutdown.
    pub shutdown: Shutdown,
}

/// The main loop.
pub(crate) struct Lifecycle {
    parts: LifecycleParts,
    /// Identifies this process among others with the same identity.
    instance: InstanceId,
    origin: OriginStore,
    copy: CopyStore,
    transport: TransportSelector,
    /// The batch size that gets through to the hub.
    path: LinkPath,
    connect_retry: RetryDelay,
    refused_retry: RetryDelay,
    /// The backoff of two devices with one identity. Separate, since each WELCOME resets the
    /// others.
    duplicate_retry: RetryDelay,
    outage: OutageLog,
    /// Whether the last disconnect was a Redis failure, which may end the next session at once.
    is_redis_suspect: bool,
    /// What the budget allows the next session to send.
    pass: BudgetPass,
    urgent: UrgentScan,
}

impl Lifecycle {
    /// Creates a lifecycle that has not started.
    pub(crate) fn new(parts: LifecycleParts) -> Self {
        let keys = parts.config.keys();
        Self {
            instance: InstanceId(rand::random()),
            origin: OriginStore::device(parts.redis.clone(), &keys, &parts.account.client),
            copy: CopyStore::device(parts.redis.clone(), &keys, &parts.account.client),
            transport: TransportSelector::new(parts.config.transport),
            path: LinkPath::default(),
            connect_retry: parts.config.connect_retry(),
            refused_retry: parts.config.refused_retry(),
            duplicate_retry: parts.config.refused_retry(),
            outage: OutageLog::default(),
            is_redis_suspect: false,
            pass: BudgetPass::All,
            urgent: UrgentScan::default(),
            parts,
        }
    }

    /// Runs until the shutdown begins, and finishes the batch in hand. Returns before that only if
    /// another state directory was mounted.
    pub(crate) async fn run(mut self) {
        let shutdown = self.parts.shutdown.clone();
        while !shutdown.is_begun() {
            if self.parts.authenticator.is_replaced() {
                info!("another state directory was mounted; starting again with it");
                return;
            }
            let Some(pass) = self.wait_for_budget().await else { continue };
            self.pass = pass;
            let step = self.parts.authenticator.poll_step();
            self.parts.status.post_step(step, self.parts.authenticator.is_registered());
            self.parts.status.post_unsaved_state(self.parts.authenticator.retry_save());
            self.extend_watchdog(STEP_TIMEOUT);
            match step {
                AuthStep::Register { .. } | AuthStep::LogIn | AuthStep::Refresh => {
                    debug!(?step, "sending request to auth");
                    // Both ends tolerate a lost response.
                    tokio::select! {
                        () = shutdown.begun() => {}
                        () = self.parts.authenticator.perform(step) => {}
                    }
                }
                AuthStep::Connect => {
                    let attempt = self.connect().await;
                    self.handle_attempt(attempt).await;
                }
                AuthStep::Wait(wait) => self.wait_for(wait).await,
            }
        }
        self.parts.status.post_stopping();
    }

    async fn handle_attempt(&mut self, attempt: ConnectAttempt) {
        let ConnectAttempt { disconnect, kind, serial, session } = attempt;
        let now = Instant::now();
        if let Some(session) = &session {
            self.parts.status.metrics().ended.add(disconnect.cause.word(), 1);
            debug!(duration = ?session.duration, carried = session.carried, "session ended");
            if session.carried > 0 || session.duration > STABLE_SESSION {
                self.connect_retry.reset();
            }
            if session.duration.as_millis() > self.parts.config.refused_retry_longest_ms.into() {
                self.duplicate_retry.reset();
            }
            match session.progress {
                SessionProgress::Made => self.transport.handle_progress(kind),
                SessionProgress::None => {
                    self.transport.handle_no_progress(kind, now, rand::random());
                }
                SessionProgress::Unknown => {}
            }
        } else if kind == TransportKind::Http {
            self.transport.handle_http_failed();
        }
        match disconnect.cause {
            DisconnectCause::Left => return info!(detail = disconnect.message, "session closed"),
            DisconnectCause::Unauthorized => {
                match self.parts.authenticator.handle_unauthorized(serial) {
                    RejectedToken::Current => {}
                    RejectedToken::Older => {
                        return info!("session token expired; using the refreshed token");
                    }
                }
            }
            DisconnectCause::NoWebSocket => self.transport.handle_refused(now, rand::random()),
            DisconnectCause::Broken if kind == TransportKind::WebSocket => {
                self.transport.handle_broken(now, rand::random());
            }
            DisconnectCause::Stalled => {
                self.update_watchdog(Watchdog::handle_stalled);
                self.parts.status.post_stalled();
            }
            DisconnectCause::OwnRedis
            | DisconnectCause::Unreachable
            | DisconnectCause::Untrusted
            | DisconnectCause::Broken
            | DisconnectCause::Superseded
            | DisconnectCause::Clone
            | DisconnectCause::Version
            | DisconnectCause::Busy
            | DisconnectCause::Unavailable
            | DisconnectCause::Confused
            | DisconnectCause::ForeignCursor
            | DisconnectCause::Lost => {}
        }
        self.is_redis_suspect =
            matches!(disconnect.cause, DisconnectCause::OwnRedis | DisconnectCause::Unavailable);
        self.handle_fault(disconnect.cause.word(), &disconnect.message);
        if disconnect.cause == DisconnectCause::NoWebSocket
            && self.transport.kind(now) == TransportKind::Http
        {
            return;
        }
        let random = rand::random();
        let wait = match disconnect.reconnect_delay() {
            ReconnectDelay::None => return,
            ReconnectDelay::Backoff(retry_after) => self.connect_retry.next(retry_after, random),
            ReconnectDelay::Fixed(wait) => RetryDelay::after_hint(wait, random),
            ReconnectDelay::DuplicateIdentity(retry_after) => {
                let longest = Duration::from_millis(self.parts.config.refused_retry_longest_ms);
                self.duplicate_retry
                    .next(retry_after.map(|retry_after| retry_after.min(longest)), random)
            }
            ReconnectDelay::Refused => self.refused_retry.next(None, random),
        };
        self.pause(wait).await;
        if !matches!(self.parts.authenticator.poll_step(), AuthStep::Wait(_)) {
            self.parts.authenticator.handle_waited();
        }
    }

    async fn wait_for(&mut self, wait: AuthWait) {
        let random = rand::random();
        let problem = self.parts.authenticator.problem().to_owned();
        let word = wait.word();
        let (problem, wait) = match wait {
            AuthWait::Refused(refusal) => {
                let help = self.parts.authenticator.refusal_help(refusal);
                (help, self.refused_retry.next(None, random))
            }
            AuthWait::Unavailable(wait) => (problem, RetryDelay::after_hint(wait, random)),
            AuthWait::Busy(retry_after) => (problem, self.connect_retry.next(retry_after, random)),
            AuthWait::Unreachable | AuthWait::Odd => {
                (problem, self.connect_retry.next(None, random))
            }
        };
        self.handle_fault(word, &problem);
        self.pause(wait).await;
        self.parts.authenticator.handle_waited();
    }

    async fn pause(&mut self, wait: Duration) {
        let wait_ms = wait.as_millis() as u64;
        debug!(wait_ms, "waiting");
        self.parts.status.post_waiting(unix_ms().saturating_add(wait_ms));
        self.extend_watchdog(wait + STEP_TIMEOUT);
        let mut state_checks = tokio::time::interval(STATE_RETRY);
        let end = tokio::time::sleep(wait);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = self.parts.shutdown.begun() => return,
                () = &mut end => return,
                _ = state_checks.tick() => {
                    if self.parts.authenticator.is_replaced() {
                        return;
                    }
                }
            }
        }
    }

    fn handle_fault(&mut self, reason: &'static str, error: &str) {
        self.parts.status.post_fault(reason, error);
        if self.outage.handle_fault(reason, Instant::now()) {
            warn!(
                reason,
                error,
                repeats = "suppressed until reconnected",
                "connection to hub failed; retrying"
            );
        } else {
            debug!(reason, error, "connection to hub failed again");
        }
    }

    fn extend_watchdog(&self, within: Duration) {
        let now = Instant::now();
        self.update_watchdog(|watchdog| watchdog.handle_progress(now, within));
    }

    fn update_watchdog(&self, change: impl FnOnce(&mut Watchdog)) {
        change(&mut self.parts.watchdog.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
