//! `spoke-hub reset-client`

use anyhow::bail;
use spoke_protocol::client_id::ClientId;
use spoke_service::cli::print;
use spoke_store::{keys::HubKeys, presence};

use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The client
    client: ClientId,
}

pub(super) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let (redis, keys) = (super::redis(config)?, HubKeys::new(&config.key_prefix));
    let client = &args.client;
    match presence::reset_client(&redis, &keys, client).await? {
        Some(epoch) => Ok(print(&format!(
            "{client} is in epoch {epoch} now. What its device has not seen acknowledged comes again, and \
             what the hub has of it is left out.\n"
        ))?),
        None => bail!(
            "the hub has nothing of a client {client}: `spoke-hub clients` shows who there is"
        ),
    }
}
