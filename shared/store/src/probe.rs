//! Probes whether a Redis accepts writes, so that its health is known while nothing is written, and follows the primary
//! that Sentinels or the nodes of a cluster name.

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::Redis;
use crate::limits::{DISCOVERY_INTERVAL, PROBE_INTERVAL, PROBE_INTERVAL_DOWN, PROBE_TIMEOUT};
use spoke_diagnostics::error_chain;

/// Probes this Redis until `ended`: rarely while it is healthy, often while it is not.
pub async fn watch(redis: Redis, ended: CancellationToken) {
    loop {
        let wait = match redis.probe().await {
            Ok(()) => PROBE_INTERVAL,
            Err(_) => PROBE_INTERVAL_DOWN,
        };
        tokio::select! {
            () = ended.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            () = redis.health().began(), if wait == PROBE_INTERVAL => {
                tokio::time::sleep(PROBE_INTERVAL_DOWN).await;
            }
        }
    }
}

/// Follows the primary that is named, until `ended`. A server that hangs closes no connection: it is left as soon as
/// another one is named.
pub async fn follow_primary(redis: Redis, ended: CancellationToken) {
    let mut look = interval(DISCOVERY_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = ended.cancelled() => return,
            _ = look.tick() => {}
            () = redis.new_primary_announced() => {}
        }
        if let Some(address) = redis.leave_old_primary().await {
            info!(%address, "redis primary changed; reconnecting");
            // Its success lets all other connections follow.
            let _ = redis.probe().await;
        }
    }
}

/// Checks that a Redis accepts writes now.
///
/// # Errors
/// The problem, for a person.
pub async fn ready(redis: &Redis) -> Result<(), String> {
    match tokio::time::timeout(PROBE_TIMEOUT, redis.probe()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error_chain(&error)),
        Err(_) => Err(format!("redis did not reply within {} s", PROBE_TIMEOUT.as_secs())),
    }
}
