//! The agent: the daemon on a device that carries its streams to the hub and back.
//!
//! Modules stand in the order to read them: the settings and this device's identity; how it is let
//! in; how it reaches the hub; its life; what it tells of itself; the commands.

pub mod limits;
pub mod config;
pub mod durable;
pub mod identity;

pub mod passcode;
pub mod enrolment;
pub mod rotation;
pub mod denial;
pub mod tls;
pub mod dial;
pub mod http_client;
pub mod auth;
pub mod access;

pub mod transport;

pub mod lifecycle;

pub mod status;
pub mod figures;
pub mod store;

pub mod commands;

use std::{
    env,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use axum::{Json, Router, routing::get};
use spoke_diagnostics::{clock::unix_ms, error_chain::error_chain};
use spoke_service::{
    config::ConfigError,
    limits::DRAIN_TIMEOUT,
    preflight::{require_supported, warn_once},
    reload::Reloads,
    server::{admin_router, serve_admin},
    shutdown::Shutdown,
    systemd,
};
use spoke_store::{
    Redis,
    hints::Hints,
    probe::{ready, watch},
};
use tokio::net::TcpListener;
use tracing::{error, info, warn};

use crate::{
    access::{Access, AccessError, OneTimeSource},
    config::Config,
    figures::Sources,
    http_client::Http,
    lifecycle::{Lifecycle, Parts, progress::Progress},
    limits::STATE_RETRY,
    status::{Board, State, Status},
    store::{Bound, DeviceStore},
};

/// Where the agent is asked about itself, bound already.
#[derive(Debug)]
pub struct Listeners {
    /// For health, metrics and live status, if wanted.
    pub admin: Option<TcpListener>,
}

/// The first step has to be under way by then.
const START_WITHIN: Duration = Duration::from_secs(120);
/// How often the line in `systemctl status` is made anew.
const STATUS_LINE_EVERY: Duration = Duration::from_secs(60);

/// Runs the agent until the shutdown begins; what is in hand then is finished.
///
/// # Errors
/// Only bad settings, and a state directory that cannot be used.
pub async fn run(
    config: Config,
    reloads: Reloads<Config>,
    listeners: Listeners,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let account = config.validate()?;
    let dialer = config.dialer(&account)?;
    let one_time = OneTimeSource::of(&config);
    let keys = config.keys();
    let redis =
        Redis::open_writable(&config.redis, keys.probe()).context("failed to use `redis`")?;
    require_supported(&redis, "redis").await?;
    let board = Board::new(&account);
    let progress = Arc::new(Mutex::new(Progress::new(Instant::now(), START_WITHIN)));
    let hints = Hints::new();

    let listening = hints.clone();
    let (redis_of_hints, ends) = (redis.clone(), shutdown.clone());
    shutdown
        .spawn("hints", listening.listen_forever(redis_of_hints, vec![keys.out()], ends.token()));
    shutdown.spawn("health", watch(redis.clone(), shutdown.token()));
    shutdown.spawn("soundness", warn_once(redis.clone(), "redis", shutdown.clone()));
    // Nothing but the log's level, which goes by itself.
    shutdown.spawn("settings", reloads.serve(&[], |_| Ok(()), shutdown.clone()));
    let device = DeviceStore::new(redis.clone(), &keys, &account.client);
    if let Some(admin) = listeners.admin {
        let (board, redis, device) = (board.clone(), redis.clone(), device.clone());
        let app = admin_app(Sources { board, redis, keys: keys.clone(), device }, shutdown.clone());
        let hosts = config.admin_hosts.clone().with_listen(&config.admin_listen);
        shutdown.spawn("admin", serve_admin(admin, app, hosts, shutdown.clone()));
    }
    if env::var_os("NOTIFY_SOCKET").is_some() {
        shutdown.spawn("status line", status_line(board.clone(), device, shutdown.clone()));
    }

    info!(client = %account.client, hub = %account.hub, version = env!("CARGO_PKG_VERSION"), "started");
    systemd::ready();
    let living = async {
        let open = || Access::open(&account, &config.state_dir, one_time.clone(), &dialer);
        while let Some(access) = open_access(&open, &board, &progress, &shutdown).await? {
            let parts = Parts {
                config: config.clone(),
                account: account.clone(),
                access,
                http: Http::new(&dialer, &account.hub),
                dialer: dialer.clone(),
                redis: redis.clone(),
                hints: hints.clone(),
                board: board.clone(),
                progress: progress.clone(),
                shutdown: shutdown.clone(),
            };
            Lifecycle::new(parts).run().await;
        }
        anyhow::Ok(())
    };
    watched(living, &progress).await?;
    systemd::stopping();
    if !shutdown.finish(DRAIN_TIMEOUT).await {
        warn!("some tasks did not end in time");
    }
    info!("stopped");
    Ok(())
}

/// Waits for a state directory that cannot be used yet: it may be read-only or not mounted at boot. None
/// when the shutdown begins.
async fn open_access(
    open: &impl Fn() -> Result<Access, AccessError>,
    board: &Board,
    progress: &Mutex<Progress>,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Access>> {
    let begun = Instant::now();
    let mut said = None;
    while !shutdown.is_begun() {
        let error = match open() {
            Ok(access) => {
                if said.is_some() {
                    let down_for_seconds = begun.elapsed().as_secs_f64();
                    info!(down_for_seconds, "state directory can be used");
                }
                return Ok(Some(access));
            }
            Err(error) if error.may_pass() => error_chain(&error),
            Err(error) => return Err(refusal(error)),
        };
        if said.as_ref() != Some(&error) {
            warn!(error, "state directory cannot be used yet; waiting for it");
            board.post_fault("state-dir", &error);
            said = Some(error);
        }
        board.post_waiting(unix_ms().saturating_add(STATE_RETRY.as_millis() as u64));
        progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .handle_move(Instant::now(), START_WITHIN);
        let _ = tokio::time::timeout(STATE_RETRY, shutdown.begun()).await;
    }
    Ok(None)
}

/// What a person has to mend ends like a bad setting, after which systemd does not try again.
fn refusal(error: AccessError) -> anyhow::Error {
    match error.needs_a_person() {
        true => ConfigError::bad("state_dir", error_chain(&error)).into(),
        false => error.into(),
    }
}

fn admin_app(sources: Sources, shutdown: Shutdown) -> Router {
    let (of_ready, of_status) = (sources.board.clone(), sources.board.clone());
    let own_redis = sources.redis.clone();
    let ready = move || {
        let (redis, status) = (own_redis.clone(), of_ready.status());
        Box::pin(async move {
            let own_redis = ready(&redis).await;
            own_redis.map_err(|problem| format!("this device's own redis: {problem}"))?;
            readiness(&status)
        }) as futures_util::future::BoxFuture<'static, _>
    };
    let metrics = move || {
        let sources = sources.clone();
        Box::pin(async move { sources.text().await }) as futures_util::future::BoxFuture<'static, _>
    };
    let status = get(move || {
        let status = of_status.status();
        async move { Json(status) }
    });
    admin_router(shutdown, ready, metrics).merge(Router::new().route("/status", status))
}

fn readiness(status: &Status) -> Result<(), String> {
    match (status.state, &status.why) {
        (State::Connected, _) => Ok(()),
        (state, Some(why)) => Err(format!("not connected, {}: {}", state.words(), why.message)),
        (state, None) => Err(format!("not connected, {}", state.words())),
    }
}

/// Runs the lifecycle and feeds the watchdog beside it, in the same task: where one hangs, both do.
async fn watched<T>(lifecycle: impl Future<Output = T>, progress: &Mutex<Progress>) -> T {
    let Some(interval) = systemd::watchdog_interval() else { return lifecycle.await };
    let mut lifecycle = pin!(lifecycle);
    let mut ticks = tokio::time::interval(interval);
    let mut is_hungry = false;
    loop {
        tokio::select! {
            ended = &mut lifecycle => return ended,
            _ = ticks.tick() => {
                let progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
                match progress.complaint(Instant::now()) {
                    None => {
                        systemd::watchdog();
                        if std::mem::replace(&mut is_hungry, false) {
                            info!("the agent gets on again; the watchdog is fed");
                        }
                    }
                    Some(complaint) if !std::mem::replace(&mut is_hungry, true) => error!(
                        complaint,
                        "the agent gets nowhere; the watchdog is not fed any more, so that systemd \
                         starts it anew"
                    ),
                    Some(_) => {}
                }
            }
        }
    }
}

/// Keeps the line that `systemctl status` shows.
async fn status_line(board: Board, device: DeviceStore, shutdown: Shutdown) {
    let mut changes = board.subscribe();
    while !shutdown.is_begun() {
        let status = changes.borrow_and_update().clone();
        let waiting = match device.waiting(Bound::FOR_A_LINE).await {
            Ok(waiting) => format!("{} waiting", waiting.entries),
            Err(error) => format!("failed to read the own redis ({})", error_chain(&error)),
        };
        systemd::status(&match (status.state, &status.why) {
            (State::Connected, _) => format!("connected to {}, {waiting}", status.hub),
            (state, Some(why)) => format!("{}, {waiting}: {}", state.words(), why.message),
            (state, None) => format!("{}, {waiting}", state.words()),
        });
        tokio::select! {
            () = shutdown.begun() => return,
            _ = tokio::time::sleep(STATUS_LINE_EVERY) => {}
            Ok(()) = changes.changed() => {}
        }
    }
}
