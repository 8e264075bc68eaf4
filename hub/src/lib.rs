//! The hub: takes the entries of all clients into one stream and serves each client its own.
//!
//! Read `entries` and `xread` for what a request may do, `session` for a WebSocket of an agent, `live`
//! for who is connected to this process and how they are told to go; `share`, `budget` and `quota` for
//! what one client may take of the hub, of its memory and of Redis.

pub mod limits;
pub mod arrival;
pub mod bearer;
pub mod body;
pub mod budget;
pub mod commands;
pub mod config;
pub mod entries;
pub mod facts;
pub mod frames;
pub mod hub;
pub mod intake;
pub mod json_socket;
pub mod level;
pub mod live;
pub mod metrics;
pub mod offload;
pub mod page;
pub mod paths;
pub mod presence;
pub mod quota;
pub mod routes;
pub mod session;
pub mod share;
pub mod socket;
pub mod trim;
pub mod xread;

use std::time::Duration;

use anyhow::Context;
use spoke_service::{
    limits::DRAIN_TIMEOUT,
    preflight::{require_supported, warn_once},
    reload::Reloads,
    server::{
        Certificate, ConnectionLimit, Listeners, ServeLimits, admin_router, behind, serve_admin,
        serve_devices,
    },
    shutdown::Shutdown,
    systemd,
};
use spoke_store::{
    Redis,
    group_commit::CommitWriter,
    keys::HubKeys,
    probe::{ready, watch},
    session_tokens::{client_prefix, session_prefix},
};
use tracing::{info, warn};

use crate::{config::Config, hub::Hub, limits::BELLS_MAX};

/// What SIGHUP changes; TLS only where it is on.
const LIVE: [&str; 3] = ["connections", "connections_per_client", "tls"];

/// Runs the hub until the shutdown begins, and finishes what is in hand.
///
/// # Errors
/// Settings that cannot be used.
pub async fn run(
    config: Config,
    reloads: Reloads<Config>,
    listeners: Listeners,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let certificate = Certificate::open(&config.tls)?;
    let keys = HubKeys::new(&config.key_prefix);
    let redis = Redis::open_writable(&config.redis, keys.probe());
    let redis = redis.context("failed to use the setting `redis`")?;
    require_supported(&redis, "redis").await?;
    let auth_redis = match &config.auth_redis {
        Some(url) => {
            let auth_redis = Redis::open(url).context("failed to use the setting `auth_redis`")?;
            require_supported(&auth_redis, "auth_redis").await?;
            auth_redis
        }
        None => redis.clone(),
    };
    level::require(&redis, config.ack).await?;
    let (writer, committer) = CommitWriter::new(redis.clone(), config.ack);
    // It outlives those whose writes it carries, so it is no part of what the shutdown waits for.
    let commits = tokio::spawn(committer.run());
    let room = ConnectionLimit::of(&ServeLimits::of(config.connections));
    let hub = Hub::new(config, (redis, writer), auth_redis.clone(), shutdown.clone());
    let admin_routes = admin_app(&hub, auth_redis.clone());
    let admin_routes = page::with_page(admin_routes, &hub, &auth_redis);
    attend(&hub, &auth_redis);

    let (address, is_tls) = (listeners.public.local_addr()?, certificate.is_some());
    if let Some(admin) = listeners.admin {
        let admin_address = admin.local_addr()?;
        let hosts = hub.config.admin_hosts.clone().with_listen(&hub.config.admin_listen);
        let serving = serve_admin(admin, admin_routes, hosts, shutdown.clone());
        shutdown.spawn("admin listener", serving);
        info!(address = %admin_address, "listening for health and metrics");
    }
    let app = behind(routes::router(hub.clone()), &hub.config.trusted_proxies);
    let stop = shutdown.clone();
    let serving = serve_devices(listeners.public, certificate.clone(), app, room.clone(), stop);
    shutdown.spawn("listener", serving);
    reload(&hub, reloads, room, certificate);
    info!(%address, tls = is_tls, "listening for devices");
    systemd::ready();
    shutdown.spawn("watchdog", systemd::feed_watchdog(shutdown.clone()));

    shutdown.begun().await;
    systemd::stopping();
    // The last connections say goodbye themselves; a little over their own limit.
    if !shutdown.finish(DRAIN_TIMEOUT + Duration::from_secs(2)).await {
        warn!("not everything in hand could be finished in time");
    }
    presence::end(&hub).await;
    drop(hub);
    // Only where something could not be finished does it not end by itself.
    match tokio::time::timeout(Duration::from_secs(1), commits).await {
        Ok(ended) => ended.context("the task that writes to redis failed")?,
        Err(_) => warn!("writes to redis were still under way"),
    }
    info!("stopped");
    Ok(())
}

/// Changes at SIGHUP what can be changed.
fn reload(
    hub: &Hub,
    reloads: Reloads<Config>,
    room: ConnectionLimit,
    certificate: Option<Certificate>,
) {
    let live = if certificate.is_some() { &LIVE[..] } else { &LIVE[..2] };
    let this = hub.clone();
    let apply = move |new: &Config| {
        if let Some(certificate) = &certificate {
            certificate.reload(&new.tls)?;
        }
        room.resize(new.connections);
        this.live.resize(new.connections_per_client);
        Ok(())
    };
    hub.shutdown.spawn("settings", reloads.serve(live, apply, hub.shutdown.clone()));
}

/// Hears of news in both Redis, and looks once whether they suit.
fn attend(hub: &Hub, auth_redis: &Redis) {
    let shutdown = &hub.shutdown;
    let (news, bells) = (hub.keys.out_prefix(), hub.keys.bell_prefix());
    let rung = hub.hints.follow(bells.clone(), BELLS_MAX);
    shutdown.spawn("bells", presence::hear_bells(hub.clone(), rung));
    shutdown.spawn("presence", presence::keep(hub.clone()));
    if hub.config.in_max_len > 0 {
        shutdown.spawn("trimming", trim::keep(hub.clone()));
    }
    shutdown.spawn("faults of sessions", hub.clone().sum_up());
    let auth = &hub.config.auth_key_prefix;
    let (sessions, clients) = (session_prefix(auth), client_prefix(auth));
    let listen = |redis: &Redis, prefixes| {
        hub.hints.clone().listen_forever(redis.clone(), prefixes, shutdown.token())
    };
    let look = |redis: &Redis, setting| warn_once(redis.clone(), setting, shutdown.clone());
    shutdown.spawn("soundness", look(&hub.redis, "redis"));
    shutdown.spawn("health", watch(hub.redis.clone(), shutdown.token()));
    shutdown.spawn("level", hub.writer.clone().watch_level(hub.keys.level(), shutdown.token()));
    if hub.config.auth_redis.is_some() {
        shutdown.spawn("health of auth_redis", watch(auth_redis.clone(), shutdown.token()));
        shutdown.spawn("soundness of auth_redis", look(auth_redis, "auth_redis"));
        shutdown.spawn("hints of sessions", listen(auth_redis, vec![sessions, clients]));
        shutdown.spawn("hints", listen(&hub.redis, vec![news, bells]));
    } else {
        shutdown.spawn("hints", listen(&hub.redis, vec![news, bells, sessions, clients]));
    }
}

fn admin_app(hub: &Hub, auth_redis: Redis) -> axum::Router {
    let (of_ready, figures) = (hub.clone(), hub.clone());
    let auth_of_figures = auth_redis.clone();
    admin_router(
        hub.shutdown.clone(),
        move || {
            let (hub, auth_redis) = (of_ready.clone(), auth_redis.clone());
            Box::pin(async move {
                tokio::try_join!(ready(&hub.redis), ready(&auth_redis))?;
                match hub.writer.level_health().problem() {
                    Some(problem) => Err(format!("ack is \"{}\", but {problem}", hub.config.ack)),
                    None => Ok(()),
                }
            })
        },
        move || {
            let (hub, auth_redis) = (figures.clone(), auth_of_figures.clone());
            Box::pin(async move { metrics::text(&hub, &auth_redis).await })
        },
    )
}
