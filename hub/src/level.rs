//! Whether the hub's Redis can give the acknowledgement level that the settings ask for.

use spoke_service::config::ConfigError;
use spoke_store::{
    Redis, StoreError,
    ack_level::{AckLevel, UnmetLevel},
    limits::PROBE_TIMEOUT,
    server_info,
};

/// Why Redis cannot give the level now; none if it can.
///
/// # Errors
/// `StoreError` when it does not say.
async fn lack(redis: &Redis, level: AckLevel) -> Result<Option<UnmetLevel>, StoreError> {
    if level == AckLevel::Memory {
        return Ok(None);
    }
    let facts = server_info::query_server_info(&mut redis.connection()).await?;
    Ok(level.barrier(&facts).err())
}

/// Refuses to start on a Redis whose settings cannot give the level. Replicas may come later, and a Redis
/// that does not answer may be a good one: the hub starts, is not ready, and acknowledges nothing until then.
///
/// # Errors
/// The setting `ack` cannot be kept, with the mend.
pub async fn require(redis: &Redis, level: AckLevel) -> Result<(), ConfigError> {
    match tokio::time::timeout(PROBE_TIMEOUT, lack(redis, level)).await {
        Ok(Ok(None | Some(UnmetLevel::Replicas { .. })) | Err(_)) | Err(_) => Ok(()),
        Ok(Ok(Some(lack))) => {
            Err(ConfigError::bad("ack", format!("it is \"{level}\", but {lack}")))
        }
    }
}
