//! `spoke-hub tail`

use std::{fmt::Write, time::Duration};

use futures_util::future::try_join_all;
use serde_json::json;
use spoke_diagnostics::error_chain;
use spoke_protocol::{ClientId, Entry, Seq, limits::BATCH_ENTRIES_MAX, wire::json::ReadBody};
use spoke_service::{Shutdown, cli::print};
use spoke_store::{Hints, StoreError, fleet, partitions::Partition, probe::follow_primary};

use super::redis::open_partitions;
use crate::{client_summary::printable, config::HubConfig};

/// The time to the next look at a partition of a cluster that does not answer.
const RETRY: Duration = Duration::from_secs(1);

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
    let partitions = open_partitions(config).await?;
    let shutdown = Shutdown::on_signals()?;
    let (hints, first) = (Hints::new(), &partitions.all()[0]);
    let listening = hints.clone().listen_forever(
        first.redis.clone(),
        vec![first.keys.inbound_prefix()],
        shutdown.token(),
    );
    shutdown.spawn("hints", listening);
    if first.redis.is_discovered() {
        shutdown.spawn("redis primary", follow_primary(first.redis.clone(), shutdown.token()));
    }
    let tailed = match &args.client {
        Some(client) => std::slice::from_ref(partitions.of(client)),
        None => partitions.all(),
    };
    let is_alone = partitions.all().len() == 1;
    let tails = tailed.iter().map(async |partition| {
        let mut after = None;
        while let Err(error) = tail(partition, &hints, args, &mut after).await {
            // The others go on.
            if is_alone || !error.is::<StoreError>() {
                return Err(error);
            }
            eprintln!("{}: {}; retrying", partition.keys.inbound(), error_chain(&*error));
            tokio::time::sleep(RETRY).await;
        }
        Ok(())
    });
    tokio::select! {
        () = shutdown.begun() => Ok(()),
        ended = try_join_all(tails) => ended.map(drop),
    }
}

/// Prints the entries of a partition behind `after` as they arrive.
async fn tail(
    partition: &Partition,
    hints: &Hints,
    args: &TailArgs,
    after: &mut Option<Seq>,
) -> anyhow::Result<()> {
    let news = hints.watch_stream(partition.keys.inbound());
    let mut at = match *after {
        Some(after) => after,
        None if args.all => Seq::ZERO,
        None => fleet::newest(partition).await?,
    };
    loop {
        *after = Some(at);
        let entries = fleet::inbound(partition, at, BATCH_ENTRIES_MAX).await?;
        let Some(last) = entries.last() else {
            news.changed().await;
            continue;
        };
        at = last.seq;
        news.handle_read_through(at);
        for entry in entries.into_iter().filter(|entry| is_from(entry, args.client.as_ref())) {
            let line = if args.json {
                format!("{}\n", json!(ReadBody::from(entry)))
            } else {
                readable(&entry)
            };
            print(&line)?;
        }
    }
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
