//! Auth: registers devices and gives them session tokens. A device registers its own secret once, with a one-time
//! code from an operator. It trades that secret for session tokens, which the hub checks in Redis.
//!
//! Modules stand in the order to read them: bounds and settings; the pure rules of registration and rate limits;
//! the pool that hashes; Redis; the state that all routes share; metrics and commands.

pub mod limits;
mod config;
mod commands;

mod validity;
mod totp;
mod device_secret;
mod session_token;
mod registration;
mod rate_limit;
mod hash_pool;
mod store;
mod metrics;
mod state;
mod metrics_page;
mod routes;

pub use commands::AuthCli;
pub use config::AuthConfig;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use axum::Router;
use spoke_service::{
    Shutdown,
    config::ConfigError,
    daemon::{Daemon, apply_reloads, run_until_shutdown, serve_admin, serve_public, watch_redis},
    server::{Certificate, ConnectionLimit, Listeners, ServeLimits, admin_router, behind},
};
use spoke_store::{Redis, probe::ready};

use crate::{
    hash_pool::HashPool, limits::RATE_LIMIT_KEYS_MAX, rate_limit::RateLimiter, state::AuthState,
    store::AuthStore,
};

/// The settings that SIGHUP changes; `tls` only where it is on.
const LIVE: [&str; 4] = ["throttle", "bcrypt_workers", "bcrypt_queue", "tls"];

/// Serves until the shutdown begins, finishes the requests in progress and returns. Redis may be down at the start:
/// until it is up, requests are answered 503.
///
/// # Errors
/// [`ConfigError`] if a setting cannot be used; [`std::io::Error`] if an address cannot be bound.
pub async fn run(daemon: Daemon<AuthConfig>) -> anyhow::Result<()> {
    let Daemon { config, reloads, shutdown } = daemon;
    // Here rather than with the other settings: a user who only lists clients may not read the key.
    let certificate = Certificate::open(&config.tls)?;
    let listeners = Listeners::bind(&config.listen, &config.admin_listen).await?;
    let redis = Redis::open_writable(&config.redis, AuthStore::probe_key(&config.key_prefix));
    let redis = redis.context("failed to use `redis`")?;
    watch_redis(&redis, "redis", &shutdown).await?;
    let state = Arc::new(open_state(&config, redis).await?);

    let app = behind(routes::router(Arc::clone(&state)), &config.trusted_proxies);
    let limit = ConnectionLimit::of(&ServeLimits::default());
    serve_public(listeners.public, certificate.clone(), app, limit, &shutdown)?;
    let hosts = config.admin_hosts.with_listen(&config.admin_listen);
    serve_admin(listeners.admin, admin_app(&state, &shutdown), hosts, &shutdown)?;
    let live = if certificate.is_some() { &LIVE[..] } else { &LIVE[..3] };
    apply_reloads(reloads, live, reload(Arc::clone(&state), certificate), &shutdown);
    let stop = shutdown.clone();
    shutdown.spawn("log counts", async move { state.log_counts(&stop).await });

    run_until_shutdown(&shutdown).await;
    Ok(())
}

/// Returns the function that applies reloaded settings.
fn reload(
    state: Arc<AuthState>,
    certificate: Option<Certificate>,
) -> impl FnMut(&AuthConfig) -> Result<(), ConfigError> + Send {
    move |new| {
        if let Some(certificate) = &certificate {
            certificate.reload(&new.tls)?;
        }
        state.set_rate_limits(&new.throttle);
        state.hash_pool.resize(new.bcrypt_workers, new.bcrypt_queue);
        Ok(())
    }
}

async fn open_state(config: &AuthConfig, redis: Redis) -> anyhow::Result<AuthState> {
    let session_ttl = Duration::from_secs(config.session_ttl_seconds);
    let store = AuthStore::new(redis, &config.key_prefix, session_ttl);
    let (cost, workers, queue) = (config.bcrypt_cost, config.bcrypt_workers, config.bcrypt_queue);
    let pool = tokio::task::spawn_blocking(move || HashPool::new(cost, workers, queue)).await??;
    let limiter = RateLimiter::new(&config.throttle, RATE_LIMIT_KEYS_MAX);
    Ok(AuthState::new(store, pool, limiter, session_ttl))
}

fn admin_app(state: &Arc<AuthState>, shutdown: &Shutdown) -> Router {
    let (store, state) = (state.store.clone(), Arc::clone(state));
    let ready = move || -> futures_util::future::BoxFuture<'static, Result<(), String>> {
        let store = store.clone();
        Box::pin(async move { ready(store.redis()).await })
    };
    admin_router(
        shutdown.clone(),
        || Ok(()),
        ready,
        move || {
            let state = Arc::clone(&state);
            Box::pin(async move { metrics_page::text(&state).await })
        },
    )
}
