//! `spoke-auth list`

use std::fmt::Write;

use spoke_service::cli::print;

use super::{
    format::{as_json, now_ms, standing},
    open_store::open_store,
};
use crate::config::AuthConfig;

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Print an array of JSON objects
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &AuthConfig, args: &ListArgs) -> anyhow::Result<()> {
    let clients = open_store(config)?.list().await?;
    let now_ms = now_ms()?;
    let mut text = String::new();
    if args.json {
        let all: Vec<_> = clients.iter().map(|listing| as_json(listing, now_ms)).collect();
        writeln!(text, "{}", serde_json::to_string_pretty(&all)?)?;
    } else if clients.is_empty() {
        writeln!(text, "no clients yet; `spoke-auth provision NAME` adds the first one")?;
    } else {
        let names = clients.iter().map(|listing| listing.client.as_str().len());
        let width = names.max().unwrap_or_default().max("CLIENT".len());
        writeln!(text, "{:width$}  {:11}  {:8}  WHEN", "CLIENT", "STANDING", "SESSIONS")?;
        for listing in &clients {
            let (word, when) = standing(listing, now_ms);
            let (client, sessions) = (listing.client.as_str(), listing.sessions);
            let line = format!("{client:width$}  {word:11}  {sessions:<8}  {when}");
            writeln!(text, "{}", line.trim_end())?;
        }
    }
    Ok(print(&text)?)
}
