//! `spoke-auth show C`

use anyhow::Context;
use spoke_protocol::ClientId;
use spoke_service::cli::print;

use super::{
    format::{as_json, now_ms, rate, standing, unknown},
    open_store::open_store,
};
use crate::config::AuthConfig;

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// The client's name
    client: ClientId,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &AuthConfig, args: &ShowArgs) -> anyhow::Result<()> {
    let client = &args.client;
    let listing = open_store(config)?.show(client).await?;
    let listing = listing.with_context(|| unknown(client))?;
    let now_ms = now_ms()?;
    let text = if args.json {
        format!("{}\n", serde_json::to_string_pretty(&as_json(&listing, now_ms))?)
    } else {
        let (word, when) = standing(&listing, now_ms);
        let standing = format!("{word} {when}");
        let sessions = listing.sessions;
        let rate = rate(&listing).map(|rate| format!("rate      {rate}\n")).unwrap_or_default();
        let standing = standing.trim_end();
        format!("client    {client}\nstanding  {standing}\nsessions  {sessions}\n{rate}")
    };
    Ok(print(&text)?)
}
