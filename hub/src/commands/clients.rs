//! `spoke-hub clients`

use std::{fmt::Write, io};

use serde_json::{Value, json};
use spoke_diagnostics::unix_ms;
use spoke_service::cli::{print, watch};
use spoke_store::{
    fleet::{self, ClientRow, DuplicateIdentities, Fleet, MissingPartitions},
    partitions::Partitions,
};

use super::redis::open_partitions;
use crate::{
    client_summary::{
        ClientPresence, FleetTotals, Lag, age, printable, recent_duplicates, recent_throttle,
        short, throttle_reason,
    },
    config::HubConfig,
};

#[derive(Debug, clap::Args)]
pub(super) struct ClientsArgs {
    /// Only clients with this text in their name
    name: Option<String>,
    /// Print a JSON list
    #[arg(long)]
    json: bool,
    /// Refresh every two seconds, limited to the height of the terminal, until Ctrl-C
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

/// Width of the name column; a longer name has its own line.
const NAME: usize = 19;

pub(super) async fn run(config: &HubConfig, args: &ClientsArgs) -> anyhow::Result<()> {
    let partitions = open_partitions(config).await?;
    if args.watch {
        return watch(async || {
            Ok(clip_to_terminal(&table(&look(&partitions, args).await?, unix_ms())))
        })
        .await;
    }
    let fleet = look(&partitions, args).await?;
    if let (Some(missing), true) = (&fleet.missing, args.json) {
        eprint!("{}", missing_line(missing));
    }
    let text = if args.json {
        let rows: Vec<Value> = fleet.rows.iter().map(|row| to_json(row, unix_ms())).collect();
        format!("{}\n", serde_json::to_string_pretty(&rows)?)
    } else {
        table(&fleet, unix_ms())
    };
    Ok(print(&text)?)
}

async fn look(partitions: &Partitions, args: &ClientsArgs) -> anyhow::Result<Fleet> {
    // Where it fails, the list says what is missing.
    let _ = partitions.find_servers().await;
    let mut fleet = fleet::list_clients(partitions, unix_ms()).await?;
    if let Some(part) = &args.name {
        fleet.rows.retain(|row| row.client.as_str().contains(part.as_str()));
    }
    Ok(fleet)
}

fn to_json(row: &ClientRow, unix_ms: u64) -> Value {
    let up = match Lag::up(row, unix_ms) {
        Lag::Unknown => Value::Null,
        Lag::None | Lag::Late(_) => json!(0),
        Lag::Waiting(waiting) => json!(waiting.entries),
    };
    json!({
        "client": row.client,
        "connectedSince": row.connected_since,
        "transport": row.transport,
        "hub": row.hub,
        "lastSeen": row.last_seen,
        "version": row.version,
        "address": row.address,
        "clones": row.duplicates.as_ref().map(|clones| json!({
            "refused": clones.refused,
            "address": clones.address,
            "at": clones.at_ms,
        })),
        "throttled": recent_throttle(row, unix_ms).map(|mark| json!({
            "cause": mark.cause,
            "since": mark.since_ms,
            "at": mark.at_ms,
        })),
        "in": {
            "epoch": row.cursor.0,
            "seq": row.cursor.1,
            "at": row.received_at,
            "received": row.received,
            "waiting": up,
            "oldest": row.up.and_then(|waiting| waiting.oldest_ms),
            "lost": row.lost,
        },
        "out": {
            "epoch": row.origin.memory.epoch,
            "last": row.origin.extent.last,
            "acked": row.origin.memory.acked.seq,
            "length": row.origin.extent.length,
            "waiting": row.down.entries,
            "oldest": row.down.oldest_ms,
            "isCaughtUp": row.origin.memory.acked.seq >= row.origin.extent.last,
            "dead": row.origin.dead,
            "lost": row.origin.lost,
            "isUsable": !row.is_origin_unusable,
        },
    })
}

fn table(fleet: &Fleet, unix_ms: u64) -> String {
    let missing = fleet.missing.as_ref().map(missing_line).unwrap_or_default();
    if fleet.rows.is_empty() {
        return if missing.is_empty() { "no clients yet\n".to_owned() } else { missing };
    }
    let mut text = totals(fleet, unix_ms) + &missing;
    let _ = writeln!(
        text,
        "{:<NAME$} {:<10} {:>11} {:>11} {:>8} {:>6} VERSION",
        "CLIENT", "PRESENCE", "UP", "DOWN", "RECEIVED", "LOST",
    );
    for row in &fleet.rows {
        let name = row.client.as_str();
        if name.len() > NAME {
            let _ = writeln!(text, "{name}");
        }
        let presence = match ClientPresence::of(row) {
            ClientPresence::Connected(since) => {
                format!("{} {}", row.transport.as_deref().unwrap_or("ws"), age(unix_ms, since))
            }
            ClientPresence::Away(seen) => format!("away {}", age(unix_ms, seen)),
            ClientPresence::Never => "never".to_owned(),
        };
        let version: String = printable(row.version.as_bytes()).chars().take(8).collect();
        let line = format!(
            "{:<NAME$} {presence:<10} {:>11} {:>11} {:>8} {:>6} {version}",
            if name.len() > NAME { "" } else { name },
            Lag::up(row, unix_ms).words(unix_ms),
            Lag::down(row).words(unix_ms),
            short(row.received),
            short(row.lost.saturating_add(row.origin.lost)),
        );
        let _ = writeln!(text, "{}", line.trim_end());
        text.push_str(&problem_lines(row, unix_ms));
    }
    text
}

fn totals(fleet: &Fleet, unix_ms: u64) -> String {
    let FleetTotals { clients, connected, behind, throttled, received, lost, .. } =
        FleetTotals::of(fleet, unix_ms);
    let throttled = if throttled > 0 { format!("{throttled} throttled\n") } else { String::new() };
    let more = if fleet.is_cut { " and more" } else { "" };
    let noun = if clients == 1 { "client" } else { "clients" };
    format!(
        "{clients} {noun}{more}: {connected} connected, {behind} behind; {} received, {} lost\n\
         {throttled}",
        short(received),
        short(lost)
    )
}

fn missing_line(MissingPartitions { count, problem }: &MissingPartitions) -> String {
    let noun = if *count == 1 { "partition does" } else { "partitions do" };
    format!("! {count} {noun} not answer, and their clients are missing: {problem}\n")
}

/// Lines below a client with a problem.
fn problem_lines(row: &ClientRow, unix_ms: u64) -> String {
    let unusable = match row.is_origin_unusable {
        true => "  ! the key of its out stream has another type: RENAME or DEL it\n",
        false => "",
    };
    let throttled = recent_throttle(row, unix_ms).map(|mark| {
        let since = age(unix_ms, mark.since_ms);
        format!("  ! throttled for {since}: {}\n", throttle_reason(mark))
    });
    format!("{unusable}{}{}", throttled.unwrap_or_default(), duplicate_lines(row, unix_ms))
}

fn duplicate_lines(row: &ClientRow, unix_ms: u64) -> String {
    let Some(DuplicateIdentities { refused, address, at_ms }) = recent_duplicates(row, unix_ms)
    else {
        return String::new();
    };
    format!(
        "  ! two devices share this identity\n    connected {}\n    refused   {}\n    {refused} times, the \
         last {} ago\n",
        printable(row.address.as_bytes()),
        printable(address.as_bytes()),
        age(unix_ms, *at_ms),
    )
}

/// Limits the text to the height of the terminal.
fn clip_to_terminal(text: &str) -> String {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
    let most = size.map_or(usize::MAX, |size| usize::from(size.ws_row.max(4)));
    clip(text, most)
}

/// The last line is left for the cursor.
fn clip(text: &str, most: usize) -> String {
    let count = text.lines().count();
    if count < most {
        return text.to_owned();
    }
    let kept: Vec<&str> = text.lines().take(most - 2).collect();
    format!("{}\n… and {} more lines\n", kept.join("\n"), count - kept.len())
}

#[cfg(test)]
mod tests {
    use spoke_protocol::Seq;
    use spoke_store::{fleet::PendingEntries, throttle_mark::ThrottleMark};

    use super::*;

    fn row(name: &str) -> ClientRow {
        ClientRow {
            client: name.parse().unwrap(),
            connected_since: None,
            transport: None,
            hub: None,
            last_seen: Some(1),
            version: "\x1b[31m10.20.30-alpha".to_owned(),
            address: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".to_owned(),
            duplicates: Some(DuplicateIdentities {
                refused: 1_000_000,
                address: "x".repeat(47),
                at_ms: NOW - 1,
            }),
            cursor: (Default::default(), Seq::ZERO),
            received_at: None,
            received: u64::MAX / 1_000_000,
            lost: 999_999,
            up: Some(PendingEntries { entries: 1_234_567, oldest_ms: Some(NOW - 1_000_000_000) }),
            down: PendingEntries { entries: 99_999, oldest_ms: Some(1) },
            origin: Default::default(),
            is_origin_unusable: true,
            throttled: Some(ThrottleMark {
                cause: "rate".to_owned(),
                since_ms: NOW - 100_000,
                at_ms: NOW - 20_000,
            }),
        }
    }

    const NOW: u64 = 100_000_000_000;

    #[test]
    fn no_line_is_wider_than_the_terminal_and_no_name_is_truncated() {
        let long = "n".repeat(64);
        let rows = vec![row("dev1"), row(&long)];

        let fleet = Fleet { rows, is_cut: true, missing: None };
        let text = table(&fleet, NOW);

        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains(&long) && text.contains("1.2M, 11d"), "{text}");
        assert!(!text.contains('\x1b'), "the version is not escaped");
        assert!(text.contains("2 throttled\n"), "{text}");
        assert!(text.contains("! throttled for 100s: it exceeds its rate\n"), "{text}");
        let after_a_crash = table(&fleet, NOW + 60_000);
        assert!(!after_a_crash.contains("throttled"), "an old mark is not shown: {after_a_crash}");
    }

    #[test]
    fn lines_that_do_not_fit_the_terminal_are_counted() {
        assert_eq!(clip("a\nb\nc\n", 4), "a\nb\nc\n");
        assert_eq!(clip("a\nb\nc\nd\n", 4), "a\nb\n… and 2 more lines\n");
    }
}
