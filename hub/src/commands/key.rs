//! `spoke-hub key`

use spoke_protocol::ClientId;
use spoke_service::cli::print;
use spoke_store::keys::HubKeys;

use super::redis::open_partitions;
use crate::config::HubConfig;

#[derive(Debug, clap::Args)]
pub(super) struct KeyArgs {
    /// The client; none for the in streams of all partitions
    client: Option<ClientId>,
}

pub(super) async fn run(config: &HubConfig, args: &KeyArgs) -> anyhow::Result<()> {
    let partitions = open_partitions(config).await?;
    let lines: Vec<String> = match &args.client {
        Some(client) => {
            let keys = &partitions.of(client).keys;
            let named = [
                ("out", keys.out(client)),
                ("in", keys.inbound()),
                ("dead", keys.dead()),
                ("lost", keys.lost()),
                ("client", keys.client(client)),
            ];
            named.iter().map(|(name, key)| format!("{name:<6} {key}\n")).collect()
        }
        None => {
            let keys = partitions.all().iter().map(|it| &it.keys);
            keys.map(HubKeys::inbound).map(|key| format!("{key}\n")).collect()
        }
    };
    Ok(print(&lines.concat())?)
}
