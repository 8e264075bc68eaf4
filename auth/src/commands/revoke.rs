//! `spoke-auth revoke C`

use anyhow::Context;
use spoke_protocol::client_id::ClientId;

use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The client's name
    client: ClientId,
}

pub(super) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let client = &args.client;
    let ended = super::store(config)?.revoke(client).await?;
    let ended = ended.with_context(|| super::unknown(client))?;
    let sessions = super::sessions(ended);
    Ok(spoke_service::cli::print(&format!("{client} is revoked; {sessions} ended\n"))?)
}
