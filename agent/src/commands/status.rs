//! `spoke-agent status`: shows the state of the device's Redis and of the running agent.

use std::time::Duration;

use anyhow::Context;
use http::{Method, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use spoke_diagnostics::{error_chain, unix_ms};
use spoke_protocol::{ClientId, Epoch, Seq, sync::StuckEntry};
use spoke_service::{
    cli::{local_address, print, watch},
    config::ServiceUrl,
};
use spoke_store::Redis;

use crate::{
    budget::BudgetUse,
    config::AgentConfig,
    device_store::{BoundedCount, DeviceStore, DeviceSummary},
    dial::{Dialer, ProxySetting},
    http_client::{HttpClient, HttpError, without_body},
    status::{AgentState, AgentStatus, Failure, StatusCounts},
};

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Repeat every two seconds, until Ctrl-C
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

/// The result of a request to the running agent.
pub(super) enum AgentProbe {
    /// The agent of this client responds.
    Running(Box<AgentStatus>),
    /// There is no response at `admin_listen`, with the error.
    NotRunning(String),
    /// Another service responds, with its description.
    OtherService(String),
    /// The setting `admin_listen` is empty.
    Unknown,
}

/// The time limit of a response of the running agent.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum size of its response in bytes: two error texts and some numbers.
const STATUS_BYTES_MAX: usize = 256 * 1024;
/// Width of the labels and of a line, in columns.
const LABEL: usize = 14;
const WIDTH: usize = 79;

pub(super) async fn run(config: &AgentConfig, args: &StatusArgs) -> anyhow::Result<()> {
    let client =
        config.client.clone().context("the setting client is missing. Run `spoke-agent enrol`")?;
    let redis =
        Redis::open(&config.redis, &config.keys().out()).context("failed to use `redis`")?;
    let device = DeviceStore::new(redis, &config.keys(), &client);
    let fetch = async || {
        let (summary, probe) = tokio::join!(device.summary(), probe_agent(config, &client));
        (summary.map_err(|error| error_chain(&error)), probe)
    };
    if args.watch {
        return watch(async || {
            let (summary, probe) = fetch().await;
            Ok(as_text(&client, config, &summary, &probe, unix_ms()))
        })
        .await;
    }
    let (summary, probe) = fetch().await;
    let text = match args.json {
        true => format!("{:#}\n", as_json(&client, &summary, &probe)),
        false => as_text(&client, config, &summary, &probe, unix_ms()),
    };
    print(&text)?;
    match summary {
        Ok(_) => Ok(()),
        Err(problem) => {
            anyhow::bail!("failed to read this device's redis at {}: {problem}", config.redis)
        }
    }
}

pub(super) async fn probe_agent(config: &AgentConfig, client: &ClientId) -> AgentProbe {
    if config.admin_listen.is_empty() {
        return AgentProbe::Unknown;
    }
    let url: ServiceUrl = match format!("http://{}", local_address(&config.admin_listen)).parse() {
        Ok(url) => url,
        Err(error) => return AgentProbe::NotRunning(error_chain(&error)),
    };
    match fetch_status(&url).await {
        Ok(Ok(status)) if status.client == client.as_str() => AgentProbe::Running(Box::new(status)),
        Ok(Ok(status)) => {
            AgentProbe::OtherService(format!("the agent of another client, {}", status.client))
        }
        Ok(Err(response)) => AgentProbe::OtherService(format!("another service ({response})")),
        Err(error) if error.is_connect() => AgentProbe::NotRunning(error_chain(&error)),
        Err(error) => {
            AgentProbe::OtherService(format!("another service ({})", error_chain(&error)))
        }
    }
}

async fn fetch_status(url: &ServiceUrl) -> Result<Result<AgentStatus, String>, HttpError> {
    let no_roots = RootCertStore::empty();
    let tls = ClientConfig::builder().with_root_certificates(no_roots).with_no_client_auth();
    let dialer = Dialer::new(&ProxySetting::None, tls.into()).expect("no proxy is a valid setting");
    let http = HttpClient::new(&dialer, url);
    let request = without_body(http.request(Method::GET, "/status"), None);
    let response = http.fetch(request, PROBE_TIMEOUT, STATUS_BYTES_MAX).await?;
    Ok(match response.status {
        StatusCode::OK => {
            serde_json::from_slice(&response.body).map_err(|error| error_chain(&error))
        }
        status => Err(status.to_string()),
    })
}

fn as_json(
    client: &ClientId,
    summary: &Result<DeviceSummary, String>,
    probe: &AgentProbe,
) -> Value {
    let redis = match summary {
        Ok(DeviceSummary { out, inbound, backlog, losses }) => {
            let (entries, is_exact) = match backlog.entries {
                BoundedCount::Exactly(count) => (count, true),
                BoundedCount::MoreThan(count) => (count, false),
            };
            json!({
                "out": { "epoch": out.memory.epoch, "acked": out.memory.acked.seq,
                    "last": out.extent.last, "length": out.extent.length },
                "in": { "epoch": inbound.epoch, "seq": inbound.seq },
                "waiting": { "entries": entries, "isExact": is_exact, "oldest": backlog.oldest },
                "deadLetters": out.dead,
                "losses": { "up": losses.up, "down": losses.down, "lines": losses.lines },
            })
        }
        Err(error) => json!({ "error": error }),
    };
    let (agent, is_running) = match probe {
        AgentProbe::Running(status) => (json!(status), Value::Bool(true)),
        AgentProbe::NotRunning(_) => (Value::Null, Value::Bool(false)),
        AgentProbe::OtherService(_) | AgentProbe::Unknown => (Value::Null, Value::Null),
    };
    json!({ "client": client, "isRunning": is_running, "agent": agent, "redis": redis })
}

fn as_text(
    client: &ClientId,
    config: &AgentConfig,
    summary: &Result<DeviceSummary, String>,
    probe: &AgentProbe,
    now: u64,
) -> String {
    let mut text = String::new();
    let mut put = |label: &str, value: &str| text.push_str(&row(label, value));
    put("client", client.as_str());
    put("agent", &format_agent(config, probe, now));
    if let AgentProbe::Running(status) = probe {
        put("version", &status.version);
        let is_registered = if status.is_registered { "yes" } else { "no" };
        put("registered", &format!("{is_registered}, at {}", status.auth));
        if let Some(problem) = &status.unsaved_state {
            put("unsaved state", &format!("session not saved to state_dir: {problem}"));
        }
        if let Some(seq) = status.held_back {
            let help =
                "its ID is more than 24 hours ahead of the hub's clock. Set this device's clock";
            put("held back", &format!("{seq} and all later entries: {help}"));
        }
        if let Some(StuckEntry { seq, bytes, sessions }) = status.stuck {
            put(
                "stuck",
                &format!(
                    "entry {seq} of {bytes} bytes: the link broke in {sessions} sessions that \
                     sent only this entry. Later entries wait. Check the proxies in between"
                ),
            );
        }
        let stopped = &status.stopped;
        for (direction, problem) in
            [("up", &stopped.out), ("up", &stopped.hub), ("down", &stopped.r#in)]
        {
            if let Some(problem) = problem {
                put("stopped", &format!("{direction}: {problem}"));
            }
        }
        if let Some(usage) = &status.budget {
            put("budget", &budget(usage, now));
        }
        let StatusCounts { carried_up, carried_down, .. } = status.counts;
        let started = ago(status.started_at_ms, now);
        put("carried", &format!("{carried_up} up, {carried_down} down since the start {started}"));
        if status.stalled_sessions > 0 {
            put("progress", &stalled(status.stalled_sessions));
        }
    }
    match summary {
        Ok(summary) => {
            let DeviceSummary { out, inbound, backlog, losses } = summary;
            put(
                "waiting",
                &match backlog.oldest {
                    Some(oldest) => {
                        format!("{} entries, the oldest {}", backlog.entries, ago(oldest.ms, now))
                    }
                    None => "nothing".to_owned(),
                },
            );
            put("sent up to", &format_position(out.memory.acked.seq, out.memory.epoch));
            put("received up to", &format_position(inbound.seq, inbound.epoch));
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
    if let AgentProbe::Running(status) = probe
        && let Some(Failure { cause, message, at_ms }) = &status.last_error
    {
        put("last error", &format!("{}, {cause}: {message}", ago(*at_ms, now)));
    }
    text
}

fn format_agent(config: &AgentConfig, probe: &AgentProbe, now: u64) -> String {
    match probe {
        AgentProbe::Running(status) => running(status, now),
        AgentProbe::NotRunning(problem) => format!(
            "not running: no response at {}: {problem} (start it with `systemctl start \
             spoke-agent`, see its log with `journalctl -u spoke-agent`)",
            config.admin_listen
        ),
        AgentProbe::OtherService(found) => {
            format!("unknown: {} is used by {found}", config.admin_listen)
        }
        AgentProbe::Unknown => "unknown: admin_listen is empty".to_owned(),
    }
}

fn running(status: &AgentStatus, now: u64) -> String {
    let since = format_duration(now.saturating_sub(status.since_ms));
    match (status.state, status.transport, &status.why) {
        (AgentState::Connected, Some(transport), _) => format!(
            "connected to {} over {} for {since} (session {})",
            status.hub,
            transport.word(),
            status.generation.unwrap_or_default()
        ),
        (AgentState::Waiting, _, Some(why)) => {
            let next = status.next_try_ms.unwrap_or(now).saturating_sub(now);
            format!("not connected, next attempt in {}: {}", format_duration(next), why.message)
        }
        (state, _, _) => format!("not connected, {} for {since}", state.text()),
    }
}

fn budget(usage: &BudgetUse, now: u64) -> String {
    let BudgetUse { budget, used, until_ms, .. } = usage;
    let rest = format_duration(until_ms.saturating_sub(now));
    format!("{:.1} MB of {budget} used; the period ends in {rest}", *used as f64 / 1e6)
}

fn stalled(sessions: u32) -> String {
    let which = match sessions {
        1 => "the last session was".to_owned(),
        _ => format!("the last {sessions} sessions were"),
    };
    format!("none: {which} closed because the hub acknowledged nothing")
}

fn format_position(seq: Seq, epoch: Epoch) -> String {
    match (seq.is_zero(), epoch.is_known()) {
        (true, _) => "nothing yet".to_owned(),
        (false, true) => format!("{seq}  (epoch {epoch})"),
        (false, false) => seq.to_string(),
    }
}

/// Formats a label and its value, wrapped to the width of a terminal.
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
        Some(since) => format!("{} ago", format_duration(since)),
        None => "in the future, by this device's clock".to_owned(),
    }
}

/// Formats a duration in its two largest units.
fn format_duration(millis: u64) -> String {
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
    fn no_line_is_wider_than_the_terminal_and_no_word_is_lost() {
        let value = "word ".repeat(60);
        let text = row("last error", value.trim_end());
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert_eq!(text.matches("word").count(), 60);
        assert!(text.lines().skip(1).all(|line| line.starts_with("               word")));
    }

    #[test]
    fn durations_show_their_two_largest_units() {
        for (millis, expected) in [
            (999, "0 s"),
            (59_999, "59 s"),
            (61_000, "1 min 1 s"),
            (3_600_000, "1 h 0 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(format_duration(millis), expected);
        }
        assert!(ago(2, 1).contains("future"));
    }
}
