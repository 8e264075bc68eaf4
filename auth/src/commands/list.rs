//! `spoke-auth list`

use std::fmt::Write;

use super::format::{as_json, now_ms, standing};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// For programs: an array of objects
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let clients = super::store(config)?.list().await?;
    let now_ms = now_ms()?;
    let mut text = String::new();
    if args.json {
        let all: Vec<_> = clients.iter().map(|listed| as_json(listed, now_ms)).collect();
        writeln!(text, "{}", serde_json::to_string_pretty(&all)?)?;
    } else if clients.is_empty() {
        writeln!(text, "no clients yet; `spoke-auth provision NAME` lets the first one in")?;
    } else {
        let names = clients.iter().map(|listed| listed.client.as_str().len());
        let width = names.max().unwrap_or_default().max("CLIENT".len());
        writeln!(text, "{:width$}  {:11}  {:8}  WHEN", "CLIENT", "STANDING", "SESSIONS")?;
        for listed in &clients {
            let (word, when) = standing(listed, now_ms);
            let line = format!(
                "{:width$}  {word:11}  {:<8}  {when}",
                listed.client.as_str(),
                listed.sessions
            );
            writeln!(text, "{}", line.trim_end())?;
        }
    }
    Ok(spoke_service::cli::print(&text)?)
}
