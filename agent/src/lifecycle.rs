//! The driver of the agent's life: let in, connect, carry, wait, and again until it is told to stop.
//!
//! It never ends because of the network, of auth or of the device's own Redis. What to do next is
//! decided by the pure parts (`enrolment`, `transport::Choice`, `ending`); randomness and the clock
//! come in here.

mod connection;
pub mod ending;
pub mod progress;
pub mod trouble;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use spoke_diagnostics::clock::unix_ms;
use spoke_protocol::{backoff::RetryDelay, instance::InstanceId, sync::sender::path::LinkPath};
use spoke_service::shutdown::Shutdown;
use spoke_store::{Redis, copy::CopyStore, hints::Hints, origin::OriginStore};
use tracing::{debug, info, warn};

use self::{
    connection::{Visit, Yield},
    ending::{Cause, Pause},
    progress::Progress,
    trouble::{Say, Trouble},
};
use crate::{
    access::Access,
    config::{Account, Config},
    dial::Dialer,
    enrolment::{Step, Wait, Which},
    http_client::Http,
    limits::STATE_RETRY,
    status::Board,
    transport::{Choice, Kind},
};

/// A session this old has shown that the link works, whatever it carried.
const GOOD_SESSION: Duration = Duration::from_secs(60);
/// Longer than auth, the hub and Redis may take together for one step.
const STEP_WITHIN: Duration = Duration::from_secs(120);

/// What the lifecycle works with.
pub struct Parts {
    /// The settings.
    pub config: Config,
    /// Who this device is and where it belongs.
    pub account: Account,
    /// Its way in.
    pub access: Access,
    /// The way out of this device.
    pub dialer: Dialer,
    /// Asks the hub where a WebSocket cannot be had.
    pub http: Http,
    /// The device's own Redis.
    pub redis: Redis,
    /// Tells of news in the out stream.
    pub hints: Hints,
    /// Where the live status is posted.
    pub board: Board,
    /// Where the watchdog looks.
    pub progress: Arc<Mutex<Progress>>,
    /// Tells it to stop.
    pub shutdown: Shutdown,
}

/// The agent's life.
pub struct Lifecycle {
    parts: Parts,
    /// This process, among others with the same identity.
    instance: InstanceId,
    origin: OriginStore,
    copy: CopyStore,
    choice: Choice,
    /// How much of the out stream gets through to the hub at a time.
    path: LinkPath,
    connect_retry: RetryDelay,
    refused_retry: RetryDelay,
    /// For two devices with one identity: apart from the rest, since each WELCOME ends those.
    twin_retry: RetryDelay,
    trouble: Trouble,
    /// The last ending was a store's trouble, by which a session may begin and end again at once.
    is_store_in_doubt: bool,
}

impl Lifecycle {
    /// A life that has not begun.
    pub fn new(parts: Parts) -> Self {
        let keys = parts.config.keys();
        Self {
            instance: InstanceId(rand::random()),
            origin: OriginStore::device(parts.redis.clone(), &keys, &parts.account.client),
            copy: CopyStore::device(parts.redis.clone(), &keys, &parts.account.client),
            choice: Choice::new(parts.config.transport),
            path: LinkPath::default(),
            connect_retry: parts.config.connect_retry(),
            refused_retry: parts.config.refused_retry(),
            twin_retry: parts.config.refused_retry(),
            trouble: Trouble::default(),
            is_store_in_doubt: false,
            parts,
        }
    }

    /// Lives until the shutdown begins; what is in hand then is finished. Ends before that only where another
    /// state directory has come in the place of this one.
    pub async fn run(mut self) {
        let shutdown = self.parts.shutdown.clone();
        while !shutdown.is_begun() {
            if self.parts.access.is_replaced() {
                info!("another state directory was mounted; starting over with its contents");
                return;
            }
            let step = self.parts.access.poll_step();
            self.parts.board.post_step(step, self.parts.access.is_registered());
            self.parts.board.post_unkept(self.parts.access.keep_again());
            self.move_within(STEP_WITHIN);
            match step {
                Step::Register { .. } | Step::LogIn | Step::Refresh => {
                    debug!(?step, "asking auth");
                    // Both ends bear it when the answer gets lost.
                    tokio::select! {
                        () = shutdown.begun() => {}
                        () = self.parts.access.perform(step) => {}
                    }
                }
                Step::Connect => {
                    let visit = self.connect().await;
                    self.handle_visit(visit).await;
                }
                Step::Wait(wait) => self.wait_for(wait).await,
            }
        }
        self.parts.board.post_stopping();
    }

    async fn handle_visit(&mut self, visit: Visit) {
        let Visit { ending, kind, serial, welcomed } = visit;
        let now = Instant::now();
        if let Some(welcomed) = &welcomed {
            self.parts.board.figures().ended.add(ending.cause.word(), 1);
            debug!(lived = ?welcomed.lived, carried = welcomed.carried, "session ended");
            if welcomed.carried > 0 || welcomed.lived > GOOD_SESSION {
                self.connect_retry.reset();
            }
            if welcomed.lived.as_millis() > self.parts.config.refused_retry_longest_ms.into() {
                self.twin_retry.reset();
            }
            match welcomed.yielded {
                Yield::Something => self.choice.handle_fruitful(kind),
                Yield::Nothing => self.choice.handle_fruitless(kind, now, rand::random()),
                Yield::Unclear => {}
            }
        } else if kind == Kind::Http {
            self.choice.handle_http_failed();
        }
        match ending.cause {
            Cause::Left => return info!(reason = ending.message, "left the hub"),
            Cause::Unauthorized => match self.parts.access.handle_unauthorized(serial) {
                Which::Present => {}
                Which::Older => return info!("the session's token has ended; on with the new one"),
            },
            Cause::NoWebSocket => self.choice.handle_refused(now, rand::random()),
            Cause::Broken if kind == Kind::WebSocket => {
                self.choice.handle_broken(now, rand::random());
            }
            Cause::Stalled => {
                self.progress(Progress::handle_stalled);
                self.parts.board.post_stalled();
            }
            Cause::Store
            | Cause::Unreachable
            | Cause::Untrusted
            | Cause::Broken
            | Cause::Superseded
            | Cause::Clone
            | Cause::Version
            | Cause::Busy
            | Cause::Unavailable
            | Cause::Confused
            | Cause::ForeignCursor
            | Cause::Lost => {}
        }
        self.is_store_in_doubt = matches!(ending.cause, Cause::Store | Cause::Unavailable);
        self.handle_fault(ending.cause.word(), &ending.message);
        if ending.cause == Cause::NoWebSocket && self.choice.kind(now) == Kind::Http {
            return;
        }
        let random = rand::random();
        let wait = match ending.pause() {
            Pause::None => return,
            Pause::Connect(hint) => self.connect_retry.next(hint, random),
            Pause::Told(wait) => RetryDelay::after_hint(wait, random),
            Pause::Twin(hint) => {
                let longest = Duration::from_millis(self.parts.config.refused_retry_longest_ms);
                self.twin_retry.next(hint.map(|hint| hint.min(longest)), random)
            }
            Pause::Refused => self.refused_retry.next(None, random),
        };
        self.pause(wait).await;
        if !matches!(self.parts.access.poll_step(), Step::Wait(_)) {
            self.parts.access.handle_waited();
        }
    }

    async fn wait_for(&mut self, wait: Wait) {
        let random = rand::random();
        let problem = self.parts.access.problem().to_owned();
        let word = wait.word();
        let (problem, wait) = match wait {
            Wait::Refused(refused) => {
                let mend = self.parts.access.mend(refused);
                (mend, self.refused_retry.next(None, random))
            }
            Wait::Unavailable(wait) => (problem, RetryDelay::after_hint(wait, random)),
            Wait::Busy(hint) => (problem, self.connect_retry.next(hint, random)),
            Wait::Unreachable | Wait::Odd => (problem, self.connect_retry.next(None, random)),
        };
        self.handle_fault(word, &problem);
        self.pause(wait).await;
        self.parts.access.handle_waited();
    }

    async fn pause(&mut self, wait: Duration) {
        let wait_ms = wait.as_millis() as u64;
        debug!(wait_ms, "waiting");
        self.parts.board.post_waiting(unix_ms().saturating_add(wait_ms));
        self.move_within(wait + STEP_WITHIN);
        let mut looks = tokio::time::interval(STATE_RETRY);
        let ended = tokio::time::sleep(wait);
        tokio::pin!(ended);
        loop {
            tokio::select! {
                () = self.parts.shutdown.begun() => return,
                () = &mut ended => return,
                _ = looks.tick() => {
                    if self.parts.access.is_replaced() {
                        return;
                    }
                }
            }
        }
    }

    fn handle_fault(&mut self, cause: &'static str, error: &str) {
        self.parts.board.post_fault(cause, error);
        match self.trouble.handle_fault(cause, Instant::now()) {
            Say::Aloud => warn!(
                cause,
                error, "not connected; trying again, and silent about it until it is over"
            ),
            Say::Nothing => debug!(cause, error, "not connected"),
        }
    }

    fn move_within(&self, within: Duration) {
        let now = Instant::now();
        self.progress(|progress| progress.handle_move(now, within));
    }

    fn progress(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.parts.progress.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
