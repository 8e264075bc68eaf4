//! `spoke-hub tail`

use std::fmt::Write;

use serde_json::json;
use spoke_protocol::{ClientId, Entry, Seq, limits::BATCH_ENTRIES_MAX, wire::json::ReadBody};
use spoke_service::{Shutdown, cli::print};
use spoke_store::{Hints, fleet, keys::HubKeys};

use super::redis::open_redis;
use crate::{client_summary::printable, config::HubConfig};

#[derive(Debug, clap::Args)]
pub(super) struct TailArgs {
    /// Only entries from this client
    #[arg(long)]
    client: Option<ClientId>,
    /// Start with the oldest entry instead of now
    #[arg(long)]
    all: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &HubConfig, args: &TailArgs) -> anyhow::Result<()> {
    let (redis, keys) = (open_redis(config)?, HubKeys::new(&config.key_prefix));
    let shutdown = Shutdown::on_signals()?;
    let hints = Hints::new();
    let news = hints.watch_stream(keys.inbound());
    let listening = hints.listen_forever(redis.clone(), vec![keys.inbound()], shutdown.token());
    shutdown.spawn("hints", listening);
    let mut after = if args.all { Seq::ZERO } else { fleet::newest(&redis, &keys).await? };
    while !shutdown.is_begun() {
        let entries = fleet::inbound(&redis, &keys, after, BATCH_ENTRIES_MAX).await?;
        let Some(last) = entries.last() else {
            tokio::select! {
                () = news.changed() => continue,
                () = shutdown.begun() => break,
            }
        };
        after = last.seq;
        news.handle_read_through(after);
        for entry in entries.into_iter().filter(|entry| is_from(entry, args.client.as_ref())) {
            let line = if args.json {
                format!("{}\n", json!(ReadBody::from(entry)))
            } else {
                readable(&entry)
            };
            print(&line)?;
        }
    }
    Ok(())
}

fn is_from(entry: &Entry, client: Option<&ClientId>) -> bool {
    let Some(client) = client else { return true };
    let sender = entry.fields.iter().find(|(name, _)| name.as_ref() == b"client");
    sender.is_some_and(|(_, value)| value.as_ref() == client.as_str().as_bytes())
}

/// `1700000000000-0  client=dev1 epoch=1 seq=…  topic=test payload={"type":"x"}`. Escapes bytes
/// that are not printable, so that an entry cannot send terminal commands.
fn readable(entry: &Entry) -> String {
    let mut line = entry.seq.to_string();
    if entry.fields.is_empty() {
        line.push_str("  (not shown: too large for an entry of a client)");
    }
    for (at, (name, value)) in entry.fields.iter().enumerate() {
        let gap = if at == 0 || at == 3 { "  " } else { " " };
        let _ = write!(line, "{gap}{}={}", printable(name), printable(value));
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use spoke_protocol::Field;

    use super::*;

    #[test]
    fn control_characters_of_an_entry_are_escaped() {
        let field =
            |name: &'static str, value: &'static [u8]| -> Field { (name.into(), value.into()) };
        let fields = vec![
            field("client", b"dev1"),
            field("epoch", b"1"),
            field("seq", b"5-0"),
            field("text", "é {\"a\":1}".as_bytes()),
            field("evil", b"\x1b[2J\xff"),
        ];
        assert_eq!(
            readable(&Entry { seq: Seq::new(7, 0), fields }),
            "7-0  client=dev1 epoch=1 seq=5-0  text=é {\"a\":1} evil=\\x1b[2J\\xff\n"
        );
    }
}
