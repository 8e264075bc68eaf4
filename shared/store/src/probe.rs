//! Probes whether a Redis accepts writes, so that its health is known while nothing is written.

use tokio_util::sync::CancellationToken;

use super::Redis;
use crate::limits::{PROBE_INTERVAL, PROBE_INTERVAL_DOWN, PROBE_TIMEOUT};
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
