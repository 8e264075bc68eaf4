//! Whether the hub's Redis can give the acknowledgement level that the settings ask for.

use std::time::{Duration, Instant};

use spoke_shared::{
    config::ConfigError,
    limits::REPLICAS_PATIENCE,
    shutdown::Shutdown,
    store::{
        Redis, StoreError,
        level::{AckLevel, Lack},
        soundness,
    },
};
use tracing::warn;

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Why Redis cannot give the level now; none if it can.
///
/// # Errors
/// `StoreError` when it does not say.
pub async fn lack(redis: &Redis, level: AckLevel) -> Result<Option<Lack>, StoreError> {
    if level == AckLevel::Memory {
        return Ok(None);
    }
    let facts = soundness::look(&mut redis.connection()).await?;
    Ok(level.barrier(&facts).err())
}

/// Refuses to start on a Redis that cannot give the level; replicas that are still on their way get
/// a little time. Where Redis does not answer the hub starts all the same: nothing is acknowledged
/// before the committer has looked, too.
///
/// # Errors
/// The setting `ack` cannot be kept, with the mend.
pub async fn require(
    redis: &Redis,
    level: AckLevel,
    shutdown: &Shutdown,
) -> Result<(), ConfigError> {
    let deadline = Instant::now() + REPLICAS_PATIENCE;
    loop {
        let lack = match lack(redis, level).await {
            Ok(None) => return Ok(()),
            Ok(Some(lack)) => lack,
            Err(error) => {
                warn!(%level, %error, "redis does not show yet whether it can give this level");
                return Ok(());
            }
        };
        let may_pass = matches!(lack, Lack::Replicas { .. }) && Instant::now() < deadline;
        if !may_pass || shutdown.is_begun() {
            return Err(ConfigError::bad("ack", format!("it is \"{level}\", but {lack}")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
