//! Asks a Redis whether it takes writes, so that its health is known while nothing is written.

use tokio_util::sync::CancellationToken;

use super::Redis;
use crate::limits::{PROBE_INTERVAL, PROBE_INTERVAL_DOWN, PROBE_TIMEOUT};
use spoke_diagnostics::error_chain::error_chain;

/// Probes this Redis until `ended`: slowly while it is well, often while it is not.
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

/// Whether a Redis takes writes at this moment.
///
/// # Errors
/// Why not, for a person.
pub async fn ready(redis: &Redis) -> Result<(), String> {
    match tokio::time::timeout(PROBE_TIMEOUT, redis.probe()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error_chain(&error)),
        Err(_) => Err(format!("redis did not answer within {} s", PROBE_TIMEOUT.as_secs())),
    }
}
