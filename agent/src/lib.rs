//! The agent: the daemon on a device that carries its streams to the hub and back.
//!
//! The modules are listed in reading order: settings and identity, authentication, connection,
//! lifecycle, status and metrics, commands.

mod limits;
mod account;
mod budget;
mod config;
mod atomic_file;
mod identity;

mod totp;
mod auth_flow;
mod secret_rotation;
mod error_response;
mod tls;
mod dial;
mod http_headers;
mod http_client;
mod auth_client;
mod authenticator;

mod transport;

mod disconnect;
mod lifecycle;

mod metrics;
mod status;
mod device_store;
mod metrics_page;

mod commands;

use std::{
    env,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use axum::{Json, Router, routing::get};
use spoke_diagnostics::{error_chain, unix_ms};
use spoke_service::{
    Shutdown,
    config::ConfigError,
    daemon::{Daemon, apply_reloads, drain, serve_admin, watch_redis},
    server::{admin_router, bind},
    systemd,
};
use spoke_store::{Hints, Redis, probe::ready};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

pub use self::{
    account::DeviceAccount,
    auth_flow::AuthWait,
    budget::{BadTrafficBudget, BadUrgentField, TrafficBudget, UrgentField},
    commands::AgentCli,
    config::AgentConfig,
    dial::{
        Dialer, ProxySetting,
        websocket::{WebSocketError, open_websocket},
    },
    disconnect::{Disconnect, DisconnectCause, ReconnectDelay},
    limits::{CONNECT_RETRY, REFUSED_RETRY},
    tls::{TrustError, client_config},
    transport::{FrameChannel, websocket::websocket_frames},
};
use self::{
    authenticator::{Authenticator, AuthenticatorError, one_time_secret::OneTimeSecretSource},
    budget::BudgetKeeper,
    device_store::{CountLimit, DeviceStore},
    http_client::HttpClient,
    lifecycle::{Lifecycle, LifecycleParts, systemd_watchdog::Watchdog},
    limits::STATE_RETRY,
    metrics_page::AgentMetricsPage,
    status::{AgentState, AgentStatus, StatusHandle},
};
/// The time limit for the first step of the lifecycle.
const START_WITHIN: Duration = Duration::from_secs(120);
/// The interval at which the status line of `systemctl status` is refreshed.
const STATUS_LINE_EVERY: Duration = Duration::from_secs(60);

/// Runs the agent until the shutdown begins, then finishes the batch in hand.
///
/// # Errors
/// Invalid settings, and a state directory that cannot be used.
pub async fn run(daemon: Daemon<AgentConfig>) -> anyhow::Result<()> {
    let Daemon { config, reloads, shutdown } = daemon;
    let account = config.validate()?;
    // Before the listener is bound: an invalid CA is a settings error.
    let dialer = config.dialer(&account)?;
    let one_time = OneTimeSecretSource::from_config(&config);
    let admin = match config.admin_listen.as_str() {
        "" => None,
        listen => Some(bind(listen).await.context("failed to open admin_listen")?),
    };
    let keys = config.keys();
    let redis =
        Redis::open_writable(&config.redis, keys.probe()).context("failed to use `redis`")?;
    watch_redis(&redis, "redis", &shutdown).await?;
    let status = StatusHandle::new(&account);
    let watchdog = Arc::new(Mutex::new(Watchdog::new(Instant::now(), START_WITHIN)));
    let hints = Hints::new();

    let listening = hints.clone();
    let (hints_redis, end) = (redis.clone(), shutdown.clone());
    shutdown.spawn("hints", listening.listen_forever(hints_redis, vec![keys.out()], end.token()));
    // Only the log level is reloaded, and the service applies it.
    apply_reloads(reloads, &[], |_| Ok(()), &shutdown);
    let device = DeviceStore::new(redis.clone(), &keys, &account.client);
    let page = AgentMetricsPage {
        status: status.clone(),
        redis: redis.clone(),
        keys: keys.clone(),
        device: device.clone(),
        meter: dialer.meter().clone(),
    };
    let hosts = config.admin_hosts.clone().with_listen(&config.admin_listen);
    serve_admin(admin, admin_app(page, watchdog.clone(), shutdown.clone()), hosts, &shutdown)?;
    if env::var_os("NOTIFY_SOCKET").is_some() {
        shutdown.spawn("status line", status_line(status.clone(), device, shutdown.clone()));
    }

    let (running, ended) = oneshot::channel();
    if let Some(budget) = config.budget {
        let has_reserve = config.budget_urgent.is_some();
        let (meter, redis, keys) = (dialer.meter().clone(), redis.clone(), keys.clone());
        let keeper = BudgetKeeper { budget, has_reserve, meter, redis, keys };
        let status = status.clone();
        let report = move |usage| status.post_budget(usage);
        shutdown.spawn("traffic budget", keeper.run(ended, report));
    }
    info!(client = %account.client, hub = %account.hub, version = env!("CARGO_PKG_VERSION"), "started");
    systemd::ready();
    let lifecycle = async {
        let open = || Authenticator::open(&account, &config.state_dir, one_time.clone(), &dialer);
        while let Some(authenticator) =
            open_authenticator(&open, &status, &watchdog, &shutdown).await?
        {
            let parts = LifecycleParts {
                config: config.clone(),
                account: account.clone(),
                authenticator,
                http: HttpClient::new(&dialer, &account.hub),
                dialer: dialer.clone(),
                redis: redis.clone(),
                hints: hints.clone(),
                status: status.clone(),
                watchdog: watchdog.clone(),
                shutdown: shutdown.clone(),
            };
            Lifecycle::new(parts).run().await;
        }
        anyhow::Ok(())
    };
    feed_watchdog(lifecycle, &watchdog).await?;
    drop(running);
    drain(&shutdown).await;
    info!("stopped");
    Ok(())
}

/// Opens the state directory, and retries while it is read-only or not mounted. Returns none if the
/// shutdown begins first.
async fn open_authenticator(
    open: &impl Fn() -> Result<Authenticator, AuthenticatorError>,
    status: &StatusHandle,
    watchdog: &Mutex<Watchdog>,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Authenticator>> {
    let began = Instant::now();
    let mut logged = None;
    while !shutdown.is_begun() {
        let error = match open() {
            Ok(authenticator) => {
                if logged.is_some() {
                    let down_for_seconds = began.elapsed().as_secs_f64();
                    info!(down_for_seconds, "state directory became usable");
                }
                return Ok(Some(authenticator));
            }
            Err(error) if error.is_transient() => error_chain(&error),
            Err(error) => return Err(setting_error(error)),
        };
        if logged.as_ref() != Some(&error) {
            warn!(error, "state directory is not usable; retrying");
            status.post_fault("state-dir", &error);
            logged = Some(error);
        }
        status.post_waiting(unix_ms().saturating_add(STATE_RETRY.as_millis() as u64));
        watchdog
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .handle_progress(Instant::now(), START_WITHIN);
        let _ = tokio::time::timeout(STATE_RETRY, shutdown.begun()).await;
    }
    Ok(None)
}

/// Turns a failure that needs an operator into a settings error, after which systemd does not
/// restart the agent.
fn setting_error(error: AuthenticatorError) -> anyhow::Error {
    match error.needs_operator() {
        true => ConfigError::bad("state_dir", error_chain(&error)).into(),
        false => error.into(),
    }
}

fn admin_app(page: AgentMetricsPage, watchdog: Arc<Mutex<Watchdog>>, shutdown: Shutdown) -> Router {
    let (ready_status, live_status) = (page.status.clone(), page.status.clone());
    let own_redis = page.redis.clone();
    let alive = move || {
        let watchdog = watchdog.lock().unwrap_or_else(PoisonError::into_inner);
        watchdog.problem(Instant::now()).map_or(Ok(()), Err)
    };
    let ready = move || {
        let (redis, status) = (own_redis.clone(), ready_status.status());
        Box::pin(async move {
            ready(&redis).await.map_err(|problem| format!("this device's redis: {problem}"))?;
            readiness(&status)
        }) as futures_util::future::BoxFuture<'static, _>
    };
    let metrics = move || {
        let page = page.clone();
        Box::pin(async move { page.text().await }) as futures_util::future::BoxFuture<'static, _>
    };
    let status = get(move || {
        let status = live_status.status();
        async move { Json(status) }
    });
    admin_router(shutdown, alive, ready, metrics).merge(Router::new().route("/status", status))
}

fn readiness(status: &AgentStatus) -> Result<(), String> {
    match (status.state, &status.why) {
        (AgentState::Connected, _) => Ok(()),
        (state, Some(why)) => Err(format!("not connected, {}: {}", state.text(), why.message)),
        (state, None) => Err(format!("not connected, {}", state.text())),
    }
}

/// Runs the lifecycle and notifies the systemd watchdog from the same task, so that a task that
/// hangs stops both.
async fn feed_watchdog<T>(lifecycle: impl Future<Output = T>, watchdog: &Mutex<Watchdog>) -> T {
    let Some(interval) = systemd::watchdog_interval() else { return lifecycle.await };
    let mut lifecycle = pin!(lifecycle);
    let mut ticks = tokio::time::interval(interval);
    let mut is_stopped = false;
    loop {
        tokio::select! {
            ended = &mut lifecycle => return ended,
            _ = ticks.tick() => {
                let watchdog = watchdog.lock().unwrap_or_else(PoisonError::into_inner);
                match watchdog.problem(Instant::now()) {
                    None => {
                        systemd::watchdog();
                        if std::mem::replace(&mut is_stopped, false) {
                            info!("progress resumed; notifying the systemd watchdog again");
                        }
                    }
                    Some(error) if !std::mem::replace(&mut is_stopped, true) => error!(
                        error,
                        "no progress; stopped notifying the systemd watchdog, expecting a restart"
                    ),
                    Some(_) => {}
                }
            }
        }
    }
}

/// Refreshes the status line of `systemctl status`.
async fn status_line(status: StatusHandle, device: DeviceStore, shutdown: Shutdown) {
    let mut changes = status.subscribe();
    while !shutdown.is_begun() {
        let status = changes.borrow_and_update().clone();
        let waiting = match device.backlog(CountLimit::STATUS_LINE).await {
            Ok(backlog) => format!("{} waiting", backlog.entries),
            Err(error) => format!("failed to read this device's redis ({})", error_chain(&error)),
        };
        systemd::status(&match (status.state, &status.why) {
            (AgentState::Connected, _) => format!("connected to {}, {waiting}", status.hub),
            (state, Some(why)) => format!("{}, {waiting}: {}", state.text(), why.message),
            (state, None) => format!("{}, {waiting}", state.text()),
        });
        tokio::select! {
            () = shutdown.begun() => return,
            _ = tokio::time::sleep(STATUS_LINE_EVERY) => {}
            Ok(()) = changes.changed() => {}
        }
    }
}
