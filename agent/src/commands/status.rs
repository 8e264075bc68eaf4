//! `spoke-agent status`: what the device's Redis tells, and what the running agent tells of itself.

use std::time::Duration;

use anyhow::Context;
use http::{Method, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use spoke_diagnostics::{clock::unix_ms, error_chain::error_chain};
use spoke_protocol::{
    client_id::ClientId,
    seq::{Epoch, Seq},
    sync::sender::path::StuckEntry,
};
use spoke_service::{
    cli::{print, watch},
    config::ServiceUrl,
};
use spoke_store::Redis;

use crate::{
    config::Config,
    dial::{Dialer, ProxySetting},
    http_client::{Http, HttpError, plain},
    status::{Counts, State, Status, Trouble},
    store::{Count, DeviceStore, Facts},
};

#[derive(Debug, clap::Args)]
#[expect(missing_docs, reason = "the texts are for --help")]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Again every two seconds, until Ctrl-C
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

/// What is known of the running agent.
pub(super) enum Live {
    Runs(Box<Status>),
    /// Nothing answers at `admin_listen`, and why.
    Silent(String),
    /// Something else does.
    Other(String),
    /// There is no `admin_listen`.
    Unknown,
}

/// How long the running agent may take to answer.
const LIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of its answer that are read: two texts of errors and some numbers.
const STATUS_BYTES_MAX: usize = 256 * 1024;
/// Columns of the labels, and of a line.
const LABEL: usize = 14;
const WIDTH: usize = 79;

pub(super) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let client = config
        .client
        .clone()
        .context("this device has no client name yet; `spoke-agent enrol` writes the settings")?;
    let redis = Redis::open(&config.redis).context("failed to use `redis`")?;
    let device = DeviceStore::new(redis, &config.keys(), &client);
    let look = async || {
        let (facts, live) = tokio::join!(device.facts(), live(config, &client));
        (facts.map_err(|error| error_chain(&error)), live)
    };
    if args.watch {
        return watch(async || {
            let (facts, live) = look().await;
            Ok(as_text(&client, config, &facts, &live, unix_ms()))
        })
        .await;
    }
    let (facts, live) = look().await;
    let text = match args.json {
        true => format!("{:#}\n", as_json(&client, &facts, &live)),
        false => as_text(&client, config, &facts, &live, unix_ms()),
    };
    print(&text)?;
    match facts {
        Ok(_) => Ok(()),
        Err(problem) => {
            anyhow::bail!("failed to read the redis of this device, {}: {problem}", config.redis)
        }
    }
}

pub(super) async fn live(config: &Config, client: &ClientId) -> Live {
    let listen =
        config.admin_listen.replacen("0.0.0.0:", "127.0.0.1:", 1).replacen("[::]:", "[::1]:", 1);
    if listen.is_empty() {
        return Live::Unknown;
    }
    let url: ServiceUrl = match format!("http://{listen}").parse() {
        Ok(url) => url,
        Err(error) => return Live::Silent(error_chain(&error)),
    };
    match ask(&url).await {
        Ok(Ok(status)) if status.client == client.as_str() => Live::Runs(Box::new(status)),
        Ok(Ok(status)) => Live::Other(format!("the agent of another client, {}", status.client)),
        Ok(Err(what)) => Live::Other(format!("something else ({what})")),
        Err(error) if error.is_connect() => Live::Silent(error_chain(&error)),
        Err(error) => Live::Other(format!("something else ({})", error_chain(&error))),
    }
}

async fn ask(url: &ServiceUrl) -> Result<Result<Status, String>, HttpError> {
    let nobody = RootCertStore::empty();
    let tls = ClientConfig::builder().with_root_certificates(nobody).with_no_client_auth();
    let dialer = Dialer::new(&ProxySetting::None, tls.into()).expect("no proxy is a good one");
    let http = Http::new(&dialer, url);
    let request = plain(http.request(Method::GET, "/status"), None);
    let answer = http.ask(request, LIVE_TIMEOUT, STATUS_BYTES_MAX).await?;
    Ok(match answer.status {
        StatusCode::OK => serde_json::from_slice(&answer.body).map_err(|error| error_chain(&error)),
        status => Err(status.to_string()),
    })
}

fn as_json(client: &ClientId, facts: &Result<Facts, String>, live: &Live) -> Value {
    let redis = match facts {
        Ok(Facts { out, inbound, waiting, losses }) => {
            let (entries, is_exact) = match waiting.entries {
                Count::Exactly(count) => (count, true),
                Count::MoreThan(count) => (count, false),
            };
            json!({
                "out": { "epoch": out.memory.epoch, "acked": out.memory.acked.seq,
                    "last": out.extent.last, "length": out.extent.length },
                "in": { "epoch": inbound.epoch, "seq": inbound.seq },
                "waiting": { "entries": entries, "isExact": is_exact, "oldest": waiting.oldest },
                "deadLetters": out.dead,
                "losses": { "up": losses.up, "down": losses.down, "lines": losses.lines },
            })
        }
        Err(error) => json!({ "error": error }),
    };
    let (agent, is_running) = match live {
        Live::Runs(status) => (json!(status), Value::Bool(true)),
        Live::Silent(_) => (Value::Null, Value::Bool(false)),
        Live::Other(_) | Live::Unknown => (Value::Null, Value::Null),
    };
    json!({ "client": client, "isRunning": is_running, "agent": agent, "redis": redis })
}

fn as_text(
    client: &ClientId,
    config: &Config,
    facts: &Result<Facts, String>,
    live: &Live,
    now: u64,
) -> String {
    let mut text = String::new();
    let mut put = |label: &str, value: &str| text.push_str(&row(label, value));
    put("client", client.as_str());
    put("agent", &agent(config, live, now));
    if let Live::Runs(status) = live {
        put("version", &status.version);
        let is_registered = if status.is_registered { "yes" } else { "no" };
        put("registered", &format!("{is_registered}, at {}", status.auth));
        if let Some(why) = &status.unkept {
            put("state folder", &format!("does not hold what auth said: {why}"));
        }
        if let Some(seq) = status.held_back {
            let why =
                "its ID is more than 24 hours ahead of the hub's clock; mend this device's clock";
            put("held back", &format!("{seq} and what follows: {why}"));
        }
        if let Some(StuckEntry { seq, bytes, sessions }) = status.stuck {
            put(
                "stuck",
                &format!(
                    "entry {seq} of {bytes} bytes: the link broke under it alone in {sessions} \
                     sessions, and what follows waits; see what stands in between"
                ),
            );
        }
        let stopped = &status.stopped;
        for (way, why) in [("up", &stopped.out), ("up", &stopped.hub), ("down", &stopped.r#in)] {
            if let Some(why) = why {
                put("stands still", &format!("{way}: {why}"));
            }
        }
        let Counts { carried_up, carried_down, .. } = status.counts;
        let started = ago(status.started_at_ms, now);
        put("carried", &format!("{carried_up} up, {carried_down} down since its start {started}"));
        if status.stalled_sessions > 0 {
            put("progress", &stalled(status.stalled_sessions));
        }
    }
    match facts {
        Ok(facts) => {
            let Facts { out, inbound, waiting, losses } = facts;
            put(
                "waiting",
                &match waiting.oldest {
                    Some(oldest) => {
                        format!("{} entries, the oldest {}", waiting.entries, ago(oldest.ms, now))
                    }
                    None => "nothing".to_owned(),
                },
            );
            put("sent up to", &place(out.memory.acked.seq, out.memory.epoch));
            put("received up to", &place(inbound.seq, inbound.epoch));
            put(
                "dead letters",
                &match out.dead {
                    0 => "none".to_owned(),
                    dead => format!("{dead}, in {}", config.keys().dead()),
                },
            );
            put(
                "losses",
                &match losses.lines {
                    0 => "none".to_owned(),
                    _ => {
                        let (up, down, ledger) = (losses.up, losses.down, config.keys().lost());
                        format!("{up} entries up, {down} down; see {ledger}")
                    }
                },
            );
        }
        Err(problem) => put("redis", &format!("failed to read {}: {problem}", config.redis)),
    }
    if let Live::Runs(status) = live
        && let Some(Trouble { cause, message, at_ms }) = &status.last_error
    {
        put("last error", &format!("{}, {cause}: {message}", ago(*at_ms, now)));
    }
    text
}

fn agent(config: &Config, live: &Live, now: u64) -> String {
    match live {
        Live::Runs(status) => running(status, now),
        Live::Silent(why) => format!(
            "not running: nothing answers at {}: {why} (start it with `systemctl start spoke-agent`, \
             see why it stopped with `journalctl -u spoke-agent`)",
            config.admin_listen
        ),
        Live::Other(what) => format!("not known: at {} answers {what}", config.admin_listen),
        Live::Unknown => "not known: admin_listen is empty, so it cannot be asked".to_owned(),
    }
}

fn running(status: &Status, now: u64) -> String {
    let since = lasted(now.saturating_sub(status.since_ms));
    match (status.state, status.transport, &status.why) {
        (State::Connected, Some(transport), _) => format!(
            "connected to {} over {} for {since} (session {})",
            status.hub,
            transport.word(),
            status.generation.unwrap_or_default()
        ),
        (State::Waiting, _, Some(why)) => {
            let next = status.next_try_ms.unwrap_or(now).saturating_sub(now);
            format!("not connected, next try in {}: {}", lasted(next), why.message)
        }
        (state, _, _) => format!("not connected, {} for {since}", state.words()),
    }
}

fn stalled(sessions: u32) -> String {
    let which = match sessions {
        1 => "the last session was".to_owned(),
        _ => format!("the last {sessions} sessions were"),
    };
    format!("none: {which} given up since the hub acknowledged nothing")
}

fn place(seq: Seq, epoch: Epoch) -> String {
    match (seq.is_zero(), epoch.is_known()) {
        (true, _) => "nothing yet".to_owned(),
        (false, true) => format!("{seq}  (epoch {epoch})"),
        (false, false) => seq.to_string(),
    }
}

/// A label and its value, broken into lines that fit a terminal.
fn row(label: &str, value: &str) -> String {
    let mut text = format!("{label:<LABEL$} ");
    let mut column = LABEL + 1;
    for (at, word) in value.split(' ').enumerate() {
        let length = word.chars().count();
        if at > 0 && column + 1 + length > WIDTH {
            text.push('\n');
            text.push_str(&" ".repeat(LABEL + 1));
            column = LABEL + 1;
        } else if at > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    text.push('\n');
    text
}

fn ago(at_ms: u64, now: u64) -> String {
    match now.checked_sub(at_ms) {
        Some(since) => format!("{} ago", lasted(since)),
        None => "from the future, by this device's clock".to_owned(),
    }
}

/// In its two largest units.
fn lasted(millis: u64) -> String {
    let seconds = millis / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_longer_than_a_terminal_and_no_word_is_lost() {
        let value = "word ".repeat(60);
        let text = row("last error", value.trim_end());
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert_eq!(text.matches("word").count(), 60);
        assert!(text.lines().skip(1).all(|line| line.starts_with("               word")));
    }

    #[test]
    fn times_are_told_in_their_two_largest_units() {
        for (millis, expected) in [
            (999, "0 s"),
            (59_999, "59 s"),
            (61_000, "1 min 1 s"),
            (3_600_000, "1 h 0 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(lasted(millis), expected);
        }
        assert!(ago(2, 1).contains("future"));
    }
}
