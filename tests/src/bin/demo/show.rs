//! The demo's output, for 80 columns and without colours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::Value;
use spoke_tests::{
    binaries::path_of,
    entries::{Stored, stored},
    redis::RedisServer,
};

use crate::parts::{CLIENT, Demo};

/// The width of a step's left column.
const WHAT: usize = 36;
/// How long an XREAD blocks, below the connection's timeout.
const BLOCK_MS: &str = "5000";

/// Prints the first line.
pub(crate) fn title() {
    println!("Spoke: one device and a cloud, each with a Redis of its own, on this machine.\n");
}

/// Prints one step.
pub(crate) fn step(what: &str, detail: &str) {
    println!("  {what:WHAT$} {detail}");
}

/// Prints a picture of the parts.
pub(crate) fn picture(demo: &Demo) {
    let device = format!("device, Redis :{}", demo.device.port());
    println!(
        "
  {device:42}cloud, Redis :{}

  app ─XADD→ spoke-agent:out:x ─┐           ┌→ spoke-hub:in:x ─XREAD→ app
                                agent ─── hub
  app ←XREAD─ spoke-agent:in:x ←┘           └─ spoke-hub:out:{CLIENT}:x ←XADD─ app",
        demo.cloud.port()
    );
}

/// Prints a heading for what follows.
pub(crate) fn heading(text: &str) {
    println!("\n{text}:\n");
}

/// A `redis-cli` command line as one would type it.
pub(crate) fn command(redis: &RedisServer, words: &[&str]) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_:.".contains(c);
    let quoted = words.iter().map(|word| match word.chars().all(is_plain) {
        true => (*word).to_owned(),
        false => format!("'{word}'"),
    });
    let words: Vec<_> = quoted.collect();
    let line = format!("redis-cli -p {} {}", redis.port(), words.join(" "));
    // A long line is continued after the entry's ID, as a shell accepts it.
    match line.split_once(" '*' ") {
        Some((head, tail)) if line.len() > 74 => format!("{head} '*' \\\n        {tail}"),
        _ => line,
    }
}

/// Prints an entry that has arrived, field by field.
pub(crate) fn arrival(stream: &str, entry: &Stored, after: Duration) {
    println!("  {} ms later it is in {stream}:\n", after.as_millis());
    for (name, value) in &entry.fields {
        println!("    {:8} {}", readable(name), readable(value));
    }
}

/// Prints commands to type in another terminal.
pub(crate) fn lines_to_try(demo: &Demo) {
    let (device, cloud) = (&demo.device, &demo.cloud);
    let out = format!("spoke-hub:out:{CLIENT}:x");
    let hello = r#"{"type":"hello"}"#;
    println!("\nTry it, in another terminal:\n");
    for (what, redis, words) in [
        ("from the device", device, vec!["XADD", "spoke-agent:out:x", "*", "payload", hello]),
        ("from the cloud", cloud, vec!["XADD", &out, "*", "payload", hello]),
        ("read in the cloud", cloud, vec!["XREAD", "STREAMS", "spoke-hub:in:x", "0-0"]),
        ("read on the device", device, vec!["XREAD", "STREAMS", "spoke-agent:in:x", "0-0"]),
    ] {
        println!("  # {what}\n  {}", command(redis, &words));
    }
    let agent = path_of("spoke-agent");
    println!("  # the agent's status\n  {} status --config {}", agent.display(), demo.settings);
    println!("  # the status page, in a browser\n  {}", demo.page);
    println!("\nEntries are shown here as they arrive. Press Ctrl-C to stop everything.\n");
}

/// Prints entries at both ends as they arrive, without end.
pub(crate) async fn arrivals(demo: &Demo) {
    tokio::join!(
        follow(&demo.cloud, "cloud", "spoke-hub:in:x"),
        follow(&demo.device, "device", "spoke-agent:in:x")
    );
}

async fn follow(redis: &RedisServer, place: &str, stream: &str) {
    let newest: Value = redis.command(&["XREVRANGE", stream, "+", "-", "COUNT", "1"]).await;
    let mut last = stored(newest).pop().map_or("0-0".to_owned(), |entry| entry.id);
    loop {
        // On the shared connection, which nothing else uses any more.
        let read = ["XREAD", "BLOCK", BLOCK_MS, "STREAMS", stream, &last];
        let reply: Value = redis.command(&read).await;
        for entry in of_one_stream(reply) {
            let fields = entry.fields.iter();
            let fields =
                fields.map(|(name, value)| format!("{}={}", readable(name), readable(value)));
            let fields: Vec<_> = fields.collect();
            println!("  {}  {place:6}  {stream}  {}", clock(), fields.join(" "));
            last = entry.id;
        }
    }
}

/// The entries of an XREAD reply with one stream.
fn of_one_stream(reply: Value) -> Vec<Stored> {
    let Value::Array(mut streams) = reply else { return Vec::new() };
    match streams.pop() {
        Some(Value::Array(mut parts)) => parts.pop().map(stored).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// The time of day in UTC.
fn clock() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format!("{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

/// The bytes as text, with control characters escaped.
fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}
