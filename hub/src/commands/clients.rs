//! `spoke-hub clients`

use std::fmt::Write;

use serde_json::{Value, json};
use spoke_shared::{
    cli::print,
    link::now_ms,
    store::{
        fleet::{self, ClientRow, Clones},
        keys::HubKeys,
    },
};

use crate::config::Config;

/// So long after its last try a second device is shown: one that is still there comes back sooner.
const MARKED_MS: u64 = 24 * 60 * 60 * 1000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As a JSON list
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let redis = super::redis(config)?;
    let rows = fleet::clients(&redis, &HubKeys::new(&config.key_prefix), now_ms()).await?;
    let text = if args.json {
        let rows: Vec<Value> = rows.iter().map(form).collect();
        format!("{}\n", serde_json::to_string_pretty(&rows)?)
    } else {
        table(&rows, now_ms())
    };
    Ok(print(&text)?)
}

fn form(row: &ClientRow) -> Value {
    json!({
        "client": row.client,
        "connectedSince": row.connected_since,
        "transport": row.transport,
        "hub": row.hub,
        "lastSeen": row.last_seen,
        "version": row.version,
        "address": row.address,
        "clones": row.clones.as_ref().map(|clones| json!({
            "refused": clones.refused,
            "address": clones.address,
            "at": clones.at_ms,
        })),
        "in": {
            "epoch": row.cursor.0,
            "seq": row.cursor.1,
            "received": row.received,
            "lost": row.lost,
        },
        "out": {
            "epoch": row.out.memory.epoch,
            "last": row.out.extent.last,
            "acked": row.out.memory.acked.0,
            "length": row.out.extent.length,
            "isCaughtUp": is_caught_up(row),
            "dead": row.out.dead,
            "lost": row.out.lost,
        },
    })
}

fn is_caught_up(row: &ClientRow) -> bool {
    row.out.memory.acked.0 >= row.out.extent.last
}

fn table(rows: &[ClientRow], now_ms: u64) -> String {
    if rows.is_empty() {
        return "no client has been here yet\n".to_owned();
    }
    let mut text = format!(
        "{:<20} {:<9} {:>9} {:>9} {:>6} {:<6} {:<15}\n",
        "CLIENT", "CONNECTED", "LAST SEEN", "RECEIVED", "LOST", "DOWN", "VERSION"
    );
    for row in rows {
        let since = |then: Option<u64>| then.map_or("-".to_owned(), |then| ago(now_ms, then));
        let down = if is_caught_up(row) { "ok" } else { "behind" };
        let _ = writeln!(
            text,
            "{:<20} {:<9} {:>9} {:>9} {:>6} {down:<6} {:<15}",
            row.client.as_str(),
            since(row.connected_since),
            since(row.last_seen),
            row.received,
            row.lost + row.out.lost,
            row.version.escape_debug().to_string(),
        );
        text.push_str(&mark(row, now_ms));
    }
    text
}

/// Below a client that shares its identity with another device.
fn mark(row: &ClientRow, now_ms: u64) -> String {
    let fresh = |clones: &&Clones| now_ms.saturating_sub(clones.at_ms) < MARKED_MS;
    let Some(Clones { refused, address, at_ms }) = row.clones.as_ref().filter(fresh) else {
        return String::new();
    };
    format!(
        "  ! two devices share this identity: here {}\n    kept out {address}, {refused} times, the \
         last {} ago\n",
        row.address,
        ago(now_ms, *at_ms),
    )
}

/// One number and one unit: `42s`, `3h`.
fn ago(now_ms: u64, then_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_one_number_and_one_unit() {
        let ages = [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172_800, "2d")];
        for (seconds, text) in ages {
            assert_eq!(ago(1_000_000_000, 1_000_000_000 - seconds * 1000), text);
        }
    }
}
