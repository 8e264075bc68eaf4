//! Entries with numbers, which show whether a stream has each once and in order.

use std::time::Duration;

use spoke_tests::{entries::fields, redis::RedisServer, wait::eventually};

/// Adds entries with the numbers `from` to `to`.
pub(super) async fn add(redis: &RedisServer, stream: &str, (from, to): (usize, usize)) {
    for n in from..=to {
        redis.add(stream, &fields([("n", &*n.to_string())])).await;
    }
}

/// Waits until the stream has the numbers from 0 to `last` in order, each once.
pub(super) async fn wait_for_numbers(
    redis: &RedisServer,
    stream: &str,
    last: usize,
    within: Duration,
    what: &str,
) {
    let expected: Vec<_> = (0..=last).map(|n| n.to_string()).collect();
    eventually(what, within, async || {
        let entries = redis.entries(stream).await;
        let fields = entries.iter().flat_map(|entry| &entry.fields);
        let found: Vec<_> = fields
            .filter(|(name, _)| &name[..] == b"n")
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            .collect();
        if found == expected { Ok(()) } else { Err(format!("{} of {}", found.len(), last + 1)) }
    })
    .await;
}
