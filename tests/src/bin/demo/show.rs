//! What a newcomer sees, at 80 columns and without colours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::Value;
use spoke_tests::{
    binaries::path_of,
    entries::{Stored, stored},
    redis::RedisServer,
};

use crate::parts::{CLIENT, Demo};

/// Columns of the left half of a step.
const WHAT: usize = 36;
/// How long one look for news waits at Redis; the connection gives up on an answer later than that.
const BLOCK_MS: &str = "5000";

/// The first line.
pub(crate) fn title() {
    println!("Spoke: one device and a cloud, each with a Redis of its own, on this machine.\n");
}

/// One thing that has been started or done.
pub(crate) fn step(what: &str, detail: &str) {
    println!("  {what:WHAT$} {detail}");
}

/// What stands now.
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

/// What comes next.
pub(crate) fn heading(text: &str) {
    println!("\n{text}:\n");
}

/// A `redis-cli` line as it would be typed.
pub(crate) fn command(redis: &RedisServer, words: &[&str]) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_:.".contains(c);
    let quoted = words.iter().map(|word| match word.chars().all(is_plain) {
        true => (*word).to_owned(),
        false => format!("'{word}'"),
    });
    let words: Vec<_> = quoted.collect();
    let line = format!("redis-cli -p {} {}", redis.port(), words.join(" "));
    // A long one goes on behind the entry's ID, in a way that a shell takes.
    match line.split_once(" '*' ") {
        Some((head, tail)) if line.len() > 74 => format!("{head} '*' \\\n        {tail}"),
        _ => line,
    }
}

/// An entry that has arrived, field by field.
pub(crate) fn arrival(stream: &str, entry: &Stored, after: Duration) {
    println!("  {} ms later it is in {stream}:\n", after.as_millis());
    for (name, value) in &entry.fields {
        println!("    {:8} {}", readable(name), readable(value));
    }
}

/// What to type in another terminal.
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
    println!("  # how the agent is\n  {} status --config {}", agent.display(), demo.settings);
    println!("  # the status page, in a browser\n  {}", demo.page);
    println!("\nEntries are shown here as they arrive. Ctrl-C ends everything.\n");
}

/// Shows entries at both ends as they arrive, for good.
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
        // On the shared connection: nothing else is asked of it any more.
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

/// XREAD answers with a list of streams.
fn of_one_stream(reply: Value) -> Vec<Stored> {
    let Value::Array(mut streams) = reply else { return Vec::new() };
    match streams.pop() {
        Some(Value::Array(mut parts)) => parts.pop().map(stored).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// Hours, minutes and seconds of UTC.
fn clock() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format!("{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

/// As text, with what a terminal would take for a command escaped.
fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}
