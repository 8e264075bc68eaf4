//! Checks that the hub's Redis supports the acknowledgement level of the settings.

use spoke_service::config::ConfigError;
use spoke_store::{AckLevel, Redis, StoreError, UnmetLevel, limits::PROBE_TIMEOUT, redis_settings};

/// Returns why Redis does not support the level now, or `None` if it does.
///
/// # Errors
/// [`StoreError`] if the query fails.
async fn unmet_level(redis: &Redis, level: AckLevel) -> Result<Option<UnmetLevel>, StoreError> {
    if level == AckLevel::Memory {
        return Ok(None);
    }
    let facts = redis_settings::query_server_info(&mut redis.connection()).await?;
    Ok(level.barrier(&facts).err())
}

/// Refuses to start on a Redis whose settings cannot support the level. Replicas may connect later,
/// and an unreachable Redis may support it: then the hub starts, is not ready, and acknowledges
/// nothing until the level is met.
///
/// # Errors
/// [`ConfigError`] if Redis does not support the setting `ack`, with help.
pub(crate) async fn require_level(redis: &Redis, level: AckLevel) -> Result<(), ConfigError> {
    match tokio::time::timeout(PROBE_TIMEOUT, unmet_level(redis, level)).await {
        Ok(Ok(None | Some(UnmetLevel::Replicas { .. })) | Err(_)) | Err(_) => Ok(()),
        Ok(Ok(Some(lack))) => {
            Err(ConfigError::bad("ack", format!("\"{level}\" is not possible: {lack}")))
        }
    }
}
