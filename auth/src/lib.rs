//! Auth: lets devices in. A device registers its own secret once, with a one-time code that an
//! operator gave out, and trades that secret for session tokens, which the hub asks Redis about.

pub mod limits;
pub mod passcode;
pub mod registration;
pub mod secret;
pub mod pool;
pub mod throttle;
pub mod token;
pub mod valid_for;

pub mod config;
pub mod metrics;
pub mod store;

pub mod commands;
pub mod routes;
pub mod service;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use axum::Router;
use spoke_service::{
    config::ConfigError,
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
    probe::{ready, watch},
};
use tracing::{info, warn};

use crate::{
    config::Config, limits::THROTTLE_KEYS_MAX, pool::Pool, service::Service, store::Store,
    throttle::Throttle,
};

/// What SIGHUP changes; TLS only where it is on.
const LIVE: [&str; 4] = ["throttle", "bcrypt_workers", "bcrypt_queue", "tls"];
/// Beyond the drain of the listeners, for the tasks around them.
const FINISH_SLACK: Duration = Duration::from_secs(2);

/// Serves until the shutdown begins, finishes what is in hand and returns. Redis need not be there
/// at the start: until it is, requests are answered 503.
///
/// # Errors
/// When a setting turns out to be unusable.
pub async fn run(
    config: Config,
    reloads: Reloads<Config>,
    listeners: Listeners,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let certificate = Certificate::open(&config.tls)?;
    let redis = Redis::open_writable(&config.redis, Store::probe_key(&config.key_prefix));
    let redis = redis.context("failed to use `redis`")?;
    require_supported(&redis, "redis").await?;
    shutdown.spawn("health", watch(redis.clone(), shutdown.token()));
    shutdown.spawn("soundness", warn_once(redis.clone(), "redis", shutdown.clone()));
    let service = Arc::new(service(&config, redis).await?);
    let Listeners { public, admin } = listeners;

    let is_tls = certificate.is_some();
    info!(address = %public.local_addr()?, tls = is_tls, "listening for devices");
    let app = behind(routes::router(Arc::clone(&service)), &config.trusted_proxies);
    let (room, stop) = (ConnectionLimit::of(&ServeLimits::default()), shutdown.clone());
    shutdown.spawn("listener", serve_devices(public, certificate.clone(), app, room, stop));
    let live = if is_tls { &LIVE[..] } else { &LIVE[..3] };
    let apply = reload(Arc::clone(&service), certificate);
    shutdown.spawn("settings", reloads.serve(live, apply, shutdown.clone()));
    let (summing, stop) = (Arc::clone(&service), shutdown.clone());
    shutdown.spawn("held back", async move { summing.sum_up(&stop).await });
    if let Some(admin) = admin {
        info!(address = %admin.local_addr()?, "listening for health and metrics");
        let app = admin_routes(service, shutdown.clone());
        let hosts = config.admin_hosts.clone().with_listen(&config.admin_listen);
        shutdown.spawn("admin listener", serve_admin(admin, app, hosts, shutdown.clone()));
    }
    systemd::ready();
    shutdown.spawn("watchdog", systemd::feed_watchdog(shutdown.clone()));

    shutdown.begun().await;
    systemd::stopping();
    if !shutdown.finish(DRAIN_TIMEOUT + FINISH_SLACK).await {
        warn!("stopped before all requests were finished");
    }
    Ok(())
}

/// Changes at SIGHUP what can be changed.
fn reload(
    service: Arc<Service>,
    certificate: Option<Certificate>,
) -> impl FnMut(&Config) -> Result<(), ConfigError> + Send {
    move |new| {
        if let Some(certificate) = &certificate {
            certificate.reload(&new.tls)?;
        }
        service.set_throttle(&new.throttle);
        service.pool.resize(new.bcrypt_workers, new.bcrypt_queue);
        Ok(())
    }
}

async fn service(config: &Config, redis: Redis) -> anyhow::Result<Service> {
    let session_ttl = Duration::from_secs(config.session_ttl_seconds);
    let store = Store::new(redis, &config.key_prefix, session_ttl);
    let (cost, workers, queue) = (config.bcrypt_cost, config.bcrypt_workers, config.bcrypt_queue);
    let pool = tokio::task::spawn_blocking(move || Pool::new(cost, workers, queue)).await??;
    let throttle = Throttle::new(&config.throttle, THROTTLE_KEYS_MAX);
    Ok(Service::new(store, pool, throttle, session_ttl))
}

fn admin_routes(service: Arc<Service>, shutdown: Shutdown) -> Router {
    let store = service.store.clone();
    let ready = move || -> futures_util::future::BoxFuture<'static, Result<(), String>> {
        let store = store.clone();
        Box::pin(async move { ready(store.redis()).await })
    };
    admin_router(shutdown, ready, move || {
        let service = Arc::clone(&service);
        Box::pin(async move { metrics::text(&service).await })
    })
}
