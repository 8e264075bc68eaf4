//! The start and the end of a service process, the same in all three services.
//!
//! 1. The command line reads the settings and starts logging ([`SettingsReader::read_and_log`]).
//! 2. [`Daemon::start`] catches SIGTERM, SIGINT and SIGHUP, and gives a [`Daemon`] to the service's `run`.
//! 3. `run` opens what a bad setting can break first ([`Certificate::open`](crate::server::Certificate::open)), so
//!    that the process ends with 78 before it listens, then binds ([`Listeners::bind`]; an agent calls
//!    [`bind`](crate::server::bind) for its admin listener alone).
//! 4. [`watch_redis`] refuses an unsupported Redis and starts the tasks that watch a good one.
//! 5. [`serve_public`] and [`serve_admin`] start the listeners, [`apply_reloads`] the reloads at SIGHUP.
//! 6. [`run_until_shutdown`] tells systemd that the service is ready, feeds its watchdog, waits for the shutdown and
//!    drains. A service that feeds the watchdog itself (the agent, only while it makes progress) calls
//!    [`systemd::ready`] and, when its own loop has ended, [`drain`].
//!
//! Everything else of a service stands between 3 and 6:
//!
//! ```ignore
//! pub async fn run(daemon: Daemon<HubConfig>) -> anyhow::Result<()> {
//!     let Daemon { config, reloads, shutdown } = daemon;
//!     let certificate = Certificate::open(&config.tls)?;
//!     let redis = Redis::open_to_write(&config.redis, keys.probe()).context("failed to use `redis`")?;
//!     watch_redis(&redis, "redis", &shutdown).await?;
//!     let listeners = Listeners::bind(&config.listen, &config.admin_listen).await?;
//!     // The state, the routes and the tasks of the hub.
//!     serve_public(listeners.public, certificate, app, limit, &shutdown)?;
//!     let hosts = config.admin_hosts.with_listen(&config.admin_listen);
//!     serve_admin(listeners.admin, admin_app, hosts, &shutdown)?;
//!     apply_reloads(reloads, &LIVE, apply, &shutdown);
//!     run_until_shutdown(&shutdown).await;
//!     Ok(())
//! }
//! ```
//!
//! [`Listeners::bind`]: crate::server::Listeners::bind

use std::{io, time::Duration};

use anyhow::Context;
use axum::Router;
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::{
    cli::SettingsReader,
    config::{AdminHosts, ConfigError},
    limits::DRAIN_TIMEOUT,
    preflight::{require_supported, warn_once},
    reload::{Reloads, Settings},
    server::{self, Certificate, ConnectionLimit, serve_devices},
    service_config::ServiceConfig,
    shutdown::Shutdown,
    systemd,
};
use spoke_store::{
    Redis,
    partitions::Partitions,
    probe::{follow_primary, log_partitions, watch},
};

/// Beyond [`DRAIN_TIMEOUT`], which the listeners use up, for the tasks around them.
const DRAIN_SLACK: Duration = Duration::from_secs(2);

/// A process that has its settings and catches its signals.
pub struct Daemon<T> {
    /// The settings that it starts with.
    pub config: T,
    /// SIGHUP, for [`apply_reloads`].
    pub reloads: Reloads<T>,
    /// Begins with SIGTERM or SIGINT.
    pub shutdown: Shutdown,
}

impl<T: ServiceConfig> Daemon<T> {
    /// Catches the signals from this call on. `reader` reads the settings again at each SIGHUP.
    ///
    /// # Errors
    /// [`io::Error`] if the operating system gives no signal handler.
    pub fn start(config: T, reader: SettingsReader<T>) -> anyhow::Result<Self> {
        const FAILED: &str = "failed to listen for signals";
        let shutdown = Shutdown::on_signals().context(FAILED)?;
        let reloads = Reloads::on_sighup(&config, move || reader.read()).context(FAILED)?;
        Ok(Self { config, reloads, shutdown })
    }
}

/// Refuses a Redis that Spoke cannot work with, and starts the tasks that watch another one: its health, and a
/// warning if it may lose data. `setting` names it. A Redis that does not answer now is not refused.
///
/// # Errors
/// [`ConfigError`] for `setting`.
pub async fn watch_redis(
    redis: &Redis,
    setting: &'static str,
    shutdown: &Shutdown,
) -> Result<(), ConfigError> {
    require_supported(redis, setting).await?;
    shutdown.spawn("redis health", watch(redis.clone(), shutdown.token()));
    if redis.is_discovered() {
        shutdown.spawn("redis primary", follow_primary(redis.clone(), shutdown.token()));
    }
    shutdown.spawn("redis preflight", warn_once(redis.clone(), setting, shutdown.clone()));
    Ok(())
}

/// Does the same for the partitions of a hub.
///
/// # Errors
/// As [`watch_redis`].
pub async fn watch_partitions(
    partitions: &Partitions,
    setting: &'static str,
    shutdown: &Shutdown,
) -> Result<(), ConfigError> {
    let each = partitions.all();
    let first = &each[0].redis;
    if each.len() == 1 || !first.is_clustered() {
        return watch_redis(first, setting, shutdown).await;
    }
    require_supported(first, setting).await?;
    for partition in each {
        shutdown.spawn("redis health", watch(partition.redis.clone(), shutdown.token()));
    }
    shutdown.spawn("partitions health", log_partitions(partitions.clone(), shutdown.token()));
    shutdown.spawn("redis primary", follow_primary(first.clone(), shutdown.token()));
    for partition in partitions.one_per_server() {
        let redis = partition.redis.clone();
        shutdown.spawn("redis preflight", warn_once(redis, setting, shutdown.clone()));
    }
    Ok(())
}

/// Starts the listener for devices, with TLS where there is a certificate.
///
/// # Errors
/// [`io::Error`] if the listener has no address.
pub fn serve_public(
    listener: TcpListener,
    certificate: Option<Certificate>,
    app: Router,
    limit: ConnectionLimit,
    shutdown: &Shutdown,
) -> io::Result<()> {
    let (address, tls) = (listener.local_addr()?, certificate.is_some());
    info!(%address, tls, "listening for devices");
    let serving = serve_devices(listener, certificate, app, limit, shutdown.clone());
    shutdown.spawn("public listener", serving);
    Ok(())
}

/// Starts the listener for health and metrics, if there is one. It answers under `hosts`; add the name that it is
/// bound to by [`AdminHosts::with_listen`].
///
/// # Errors
/// [`io::Error`] if the listener has no address.
pub fn serve_admin(
    listener: Option<TcpListener>,
    app: Router,
    hosts: AdminHosts,
    shutdown: &Shutdown,
) -> io::Result<()> {
    let Some(listener) = listener else { return Ok(()) };
    info!(address = %listener.local_addr()?, "listening for health and metrics");
    let serving = server::serve_admin(listener, app, hosts, shutdown.clone());
    shutdown.spawn("admin listener", serving);
    Ok(())
}

/// Starts the task that reloads the settings at SIGHUP. `apply` changes the settings that `live` names: keys, or the
/// names of tables. `log.level` always changes.
pub fn apply_reloads<T: Settings + Send + 'static>(
    reloads: Reloads<T>,
    live: &'static [&'static str],
    apply: impl FnMut(&T) -> Result<(), ConfigError> + Send + 'static,
    shutdown: &Shutdown,
) {
    shutdown.spawn("reloads", reloads.serve(live, apply, shutdown.clone()));
}

/// Notifies systemd that the service is ready, feeds its watchdog, waits for the shutdown and drains.
pub async fn run_until_shutdown(shutdown: &Shutdown) {
    systemd::ready();
    shutdown.spawn("watchdog", systemd::feed_watchdog(shutdown.clone()));
    shutdown.begun().await;
    drain(shutdown).await;
}

/// Notifies systemd that the service is stopping, and waits for its tasks: [`DRAIN_TIMEOUT`] and a little more.
pub async fn drain(shutdown: &Shutdown) {
    systemd::stopping();
    if !shutdown.finish(DRAIN_TIMEOUT + DRAIN_SLACK).await {
        warn!("shutdown timed out; unfinished tasks were dropped");
    }
}
