//! Opens the hub's Redis for a command.

use anyhow::bail;
use spoke_store::partitions::{OtherPartitions, Partitions};

use crate::{config::HubConfig, partitions};

/// Opens the partitions of the settings.
///
/// # Errors
/// [`anyhow::Error`] if the fleet has another number of them, so that the command would look in the wrong keys.
pub(super) async fn open_partitions(config: &HubConfig) -> anyhow::Result<Partitions> {
    let store = partitions::open(config)?;
    match store.check_record().await? {
        Ok(()) => Ok(store),
        Err(OtherPartitions(other)) => {
            bail!("the fleet has {other} partitions; set the setting `partitions` to that")
        }
    }
}
