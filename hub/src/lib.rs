//! The hub: collects the entries of all clients in one stream and serves each client its own.
//!
//! `xadd` and `xread` handle requests, `websocket` the WebSockets of agents and other programs,
//! `connections` is the registry of open connections. `client_limits`, `memory_budget` and `quota`
//! limit what one client takes of the hub, of its memory and of Redis.

pub mod limits;
mod ack_level;
mod authenticate;
mod charged_body;
mod client_limits;
mod client_summary;
mod commands;
mod config;
mod connections;
mod cpu_pool;
mod link_paths;
mod memory_budget;
mod metrics;
mod partitions;
mod presence;
mod quota;
mod routes;
mod session_open;
mod state;
mod status_page;
mod token_watch;
mod trim;
mod websocket;
mod xadd;
mod xread;

pub use commands::HubCli;
pub use config::HubConfig;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use futures_util::future::try_join_all;
use spoke_service::{
    config::ConfigError,
    daemon::{
        Daemon, apply_reloads, run_until_shutdown, serve_admin, serve_public, watch_partitions,
        watch_redis,
    },
    server::{Certificate, ConnectionLimit, Listeners, ServeLimits, admin_router, behind},
};
use spoke_store::{
    Redis,
    probe::ready,
    session_tokens::{client_prefix, session_prefix},
};
use tracing::{info, warn};

use crate::{limits::BELLS_MAX, partitions::HubPartitions, state::HubState};

/// Settings that SIGHUP reloads; `tls` only where it is on.
const RELOADABLE: [&str; 3] = ["connections", "connections_per_client", "tls"];

/// Runs the hub until shutdown, and finishes work in progress.
///
/// # Errors
/// [`ConfigError`] if a setting cannot be used; [`std::io::Error`] if an address cannot be bound.
pub async fn run(daemon: Daemon<HubConfig>) -> anyhow::Result<()> {
    let Daemon { config, reloads, shutdown } = daemon;
    // Here rather than with the other settings: the other commands may run without access to the private key.
    let certificate = Certificate::open(&config.tls)?;
    let listeners = Listeners::bind(&config.listen, &config.admin_listen).await?;
    let store = partitions::open(&config)?;
    watch_partitions(&store, "redis", &shutdown).await?;
    let auth_redis = match config.separate_auth_redis() {
        Some(url) => {
            let auth_redis = Redis::open(url, &session_prefix(&config.auth_key_prefix))
                .context("failed to use the setting `auth_redis`")?;
            watch_redis(&auth_redis, "auth_redis", &shutdown).await?;
            auth_redis
        }
        None => store.all()[0].redis.clone(),
    };
    for partition in store.one_per_server() {
        ack_level::require_level(&partition.redis, config.ack).await?;
    }
    let is_checked = partitions::check(&store).await.map_err(partitions::refused)?;
    // The calls outlive the tasks that wait for them, so the shutdown does not track them.
    let (partitions, calls) = HubPartitions::start(store, &config);
    let limit = ConnectionLimit::of(&ServeLimits::of(config.connections));
    let hub = HubState::new(config, partitions, auth_redis.clone(), shutdown.clone());
    hub.partitions.check_until_done(is_checked, &hub.shutdown);
    spawn_tasks(&hub, &auth_redis);

    let admin_app = admin_app(&hub, auth_redis.clone());
    let admin_app = status_page::with_page(admin_app, &hub, &auth_redis);
    let hosts = hub.config.admin_hosts.clone().with_listen(&hub.config.admin_listen);
    serve_admin(listeners.admin, admin_app, hosts, &shutdown)?;
    let app = behind(routes::router(hub.clone()), &hub.config.trusted_proxies);
    serve_public(listeners.public, certificate.clone(), app, limit.clone(), &shutdown)?;
    let live = if certificate.is_some() { &RELOADABLE[..] } else { &RELOADABLE[..2] };
    apply_reloads(reloads, live, reload(hub.clone(), limit, certificate), &shutdown);

    run_until_shutdown(&shutdown).await;
    presence::delete_keys(&hub).await;
    let refusal = hub.partitions.refusal();
    drop(hub);
    // They end on their own, unless a task did not finish.
    match tokio::time::timeout(Duration::from_secs(1), try_join_all(calls)).await {
        Ok(ended) => ended.map(drop).context("failed to join the tasks that call redis")?,
        Err(_) => warn!("shutdown timed out with unfinished redis calls"),
    }
    info!("stopped");
    refusal.map_or(Ok(()), |refusal| Err(refusal.into()))
}

/// Returns the function that applies reloaded settings.
fn reload(
    hub: Arc<HubState>,
    limit: ConnectionLimit,
    certificate: Option<Certificate>,
) -> impl FnMut(&HubConfig) -> Result<(), ConfigError> + Send {
    move |new| {
        if let Some(certificate) = &certificate {
            certificate.reload(&new.tls)?;
        }
        limit.resize(new.connections);
        hub.connections.resize(new.connections_per_client);
        Ok(())
    }
}

/// Starts the background tasks: key notifications from both Redis, presence, trimming.
fn spawn_tasks(hub: &Arc<HubState>, auth_redis: &Redis) {
    let shutdown = &hub.shutdown;
    let keys = hub.partitions.all()[0].keys();
    let (news, bells) = (keys.out_prefix(), keys.bell_prefix());
    let changes = hub.hints.follow(bells.clone(), BELLS_MAX);
    shutdown.spawn("session notifications", presence::handle_notifications(hub.clone(), changes));
    for (at, partition) in hub.partitions.all().iter().enumerate() {
        shutdown.spawn("presence", presence::refresh(hub.clone(), at));
        if hub.config.in_max_len > 0 {
            shutdown.spawn("trim", trim::run(hub.clone(), at));
        }
        let level = partition.writer.clone();
        shutdown.spawn("ack level", level.watch_level(partition.keys().level(), shutdown.token()));
    }
    let state = hub.clone();
    shutdown.spawn("repeated log messages", async move { state.log_repeats().await });
    let state = hub.clone();
    shutdown.spawn("throttled clients", async move {
        state.quota.record_throttled(&state.shutdown).await;
    });
    let auth = &hub.config.auth_key_prefix;
    let (sessions, clients) = (session_prefix(auth), client_prefix(auth));
    let listen = |redis: &Redis, prefixes| {
        hub.hints.clone().listen_forever(redis.clone(), prefixes, shutdown.token())
    };
    let redis = hub.partitions.all()[0].redis();
    if hub.config.separate_auth_redis().is_some() {
        shutdown.spawn("session hints", listen(auth_redis, vec![sessions, clients]));
        shutdown.spawn("hints", listen(redis, vec![news, bells]));
    } else {
        shutdown.spawn("hints", listen(redis, vec![news, bells, sessions, clients]));
    }
}

fn admin_app(hub: &Arc<HubState>, auth_redis: Redis) -> axum::Router {
    let (of_ready, figures) = (hub.clone(), hub.clone());
    let auth_of_figures = auth_redis.clone();
    admin_router(
        hub.shutdown.clone(),
        || Ok(()),
        move || {
            let (hub, auth_redis) = (of_ready.clone(), auth_redis.clone());
            Box::pin(async move {
                tokio::try_join!(hub.partitions.ready(&hub.config), ready(&auth_redis))?;
                Ok(())
            })
        },
        move || {
            let (hub, auth_redis) = (figures.clone(), auth_of_figures.clone());
            Box::pin(async move { hub.metrics_page(&auth_redis).await })
        },
    )
}
