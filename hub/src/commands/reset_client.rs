//! `spoke-hub reset-client`

use anyhow::bail;
use spoke_protocol::ClientId;
use spoke_service::cli::print;
use spoke_store::{partitions::Partition, presence};

use super::redis::open_partitions;
use crate::config::HubConfig;

#[derive(Debug, clap::Args)]
pub(super) struct ResetClientArgs {
    /// The client
    client: ClientId,
}

pub(super) async fn run(config: &HubConfig, args: &ResetClientArgs) -> anyhow::Result<()> {
    let (partitions, client) = (open_partitions(config).await?, &args.client);
    let Partition { redis, keys } = partitions.of(client);
    match presence::reset_client(redis, keys, client).await? {
        Some(epoch) => Ok(print(&format!(
            "{client} is in epoch {epoch} now. Its device sends unacknowledged entries again; the hub \
             drops those that it has.\n"
        ))?),
        None => bail!("unknown client {client}; list clients with `spoke-hub clients`"),
    }
}
