//! `spoke-auth show C`

use anyhow::Context;
use spoke_protocol::client_id::ClientId;

use super::format::{as_json, now_ms, standing};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The client's name
    client: ClientId,
    /// For programs: an object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let client = &args.client;
    let listed = super::store(config)?.show(client).await?;
    let listed = listed.with_context(|| super::unknown(client))?;
    let now_ms = now_ms()?;
    let text = if args.json {
        format!("{}\n", serde_json::to_string_pretty(&as_json(&listed, now_ms))?)
    } else {
        let (word, when) = standing(&listed, now_ms);
        let standing = format!("{word} {when}");
        let sessions = listed.sessions;
        format!("client    {client}\nstanding  {}\nsessions  {sessions}\n", standing.trim_end())
    };
    Ok(spoke_service::cli::print(&text)?)
}
