//! `spoke-auth revoke C`

use anyhow::Context;
use spoke_protocol::ClientId;
use spoke_service::cli::print;

use super::{
    format::{sessions, unknown},
    open_store::open_store,
};
use crate::config::AuthConfig;

#[derive(Debug, clap::Args)]
pub(super) struct RevokeArgs {
    /// The client's name
    client: ClientId,
}

pub(super) async fn run(config: &AuthConfig, args: &RevokeArgs) -> anyhow::Result<()> {
    let client = &args.client;
    let ended = open_store(config)?.revoke(client).await?;
    let ended = sessions(ended.with_context(|| unknown(client))?);
    Ok(print(&format!("{client} is revoked; {ended} ended\n"))?)
}
