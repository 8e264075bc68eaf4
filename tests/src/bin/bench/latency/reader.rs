//! Follows the end of a stream and finds marked entries in the bytes of the replies.
//!
//! Rejected: a client library's parser. Under load it needs as much CPU time for an entry as agent and
//! hub together, and would take it from them.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use spoke_tests::{redis::RedisServer, wait::PATIENCE};

/// The field that distinguishes a measured entry from the load.
pub(super) const MARK: &str = "mark";
/// The longest wait for an entry.
const BLOCK: Duration = Duration::from_secs(10);
/// The most entries of one reply.
const AT_MOST: usize = 10_000;
/// The answer to the PING after each XREAD, which marks the end of the reply.
const END: &[u8] = b"+PONG\r\n";

/// The consumer group of a reader that has one.
pub(super) const GROUP: &str = "bench";

/// Reads a stream from its current position.
pub(super) struct Reader {
    stream: TcpStream,
    key: &'static str,
    place: Place,
    reply: Vec<u8>,
}

/// Where a reader is in its stream.
enum Place {
    /// After this ID.
    Id(String),
    /// Where its consumer group is. What it was given counts as read.
    Group,
}

impl Reader {
    /// Begins after the newest entry.
    pub(super) async fn new(redis: &RedisServer, key: &'static str) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", redis.port())).expect("redis listens");
        stream.set_nodelay(true).expect("delays can be turned off");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let newest: Vec<(String, Vec<String>)> =
            redis.command(&["XREVRANGE", key, "+", "-", "COUNT", "1"]).await;
        let after = newest.into_iter().next().map_or("0-0".to_owned(), |(id, _)| id);
        Self { stream, key, place: Place::Id(after), reply: Vec::new() }
    }

    /// Begins after the newest entry, with a consumer group of its own.
    pub(super) async fn in_group(redis: &RedisServer, key: &'static str) -> Self {
        redis.command::<()>(&["XGROUP", "CREATE", key, GROUP, "$", "MKSTREAM"]).await;
        Self { place: Place::Group, ..Self::new(redis, key).await }
    }

    /// Waits for entries and returns their marks.
    pub(super) fn marks(&mut self) -> Vec<u64> {
        let (key, block, count) = (self.key, BLOCK.as_millis(), AT_MOST);
        let read = format!("BLOCK {block} COUNT {count}");
        let xread = match &self.place {
            Place::Id(after) => format!("XREAD {read} STREAMS {key} {after}\r\nPING\r\n"),
            Place::Group => {
                format!("XREADGROUP GROUP {GROUP} {GROUP} {read} NOACK STREAMS {key} >\r\nPING\r\n")
            }
        };
        self.stream.write_all(xread.as_bytes()).expect("a request can be sent to redis");
        self.reply.clear();
        let mut part = [0; 64 * 1024];
        while !self.reply.ends_with(END) {
            let length = self.stream.read(&mut part).expect("redis answers");
            assert!(length > 0, "redis closed the connection");
            self.reply.extend_from_slice(&part[..length]);
        }
        let (last, marks) = parse(&self.reply);
        let last = last.unwrap_or_else(|| panic!("nothing came to {key} within {BLOCK:?}"));
        if let Place::Id(after) = &mut self.place {
            *after = last;
        }
        marks
    }
}

/// The ID of the last entry, and the marks. Needs entries of more than one field, without line ends
/// and without values such as `*2` or `mark`.
fn parse(reply: &[u8]) -> (Option<String>, Vec<u64>) {
    let text = |line: Option<&[u8]>| {
        String::from_utf8_lossy(line.unwrap_or_default()).trim_end().to_owned()
    };
    let mut lines = reply.split(|byte| *byte == b'\n');
    let (mut last, mut marks) = (None, Vec::new());
    while let Some(line) = lines.next() {
        match line.strip_suffix(b"\r") {
            // The stream's name or an entry's ID, and its contents. Lengths are skipped.
            Some(b"*2") => last = Some(text(lines.nth(1))),
            Some(word) if word == MARK.as_bytes() => {
                marks.push(text(lines.nth(1)).parse().expect("a mark is a number"));
            }
            _ => {}
        }
    }
    (last, marks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_id_and_all_marks_are_found() {
        let entry = |id, name, value| {
            format!(
                "*2\r\n$3\r\n{id}\r\n*4\r\n$4\r\n{name}\r\n$2\r\n{value}\r\n$1\r\na\r\n$1\r\nb\r\n"
            )
        };
        let entries = [("7-1", "load", "xx"), ("7-2", "mark", "41"), ("7-3", "load", "xx")];
        let entries: String = entries.map(|(id, name, value)| entry(id, name, value)).concat();
        let reply = format!("*1\r\n*2\r\n$1\r\ns\r\n*3\r\n{entries}+PONG\r\n");
        assert_eq!(parse(reply.as_bytes()), (Some("7-3".to_owned()), vec![41]));
        assert_eq!(parse(b"*-1\r\n+PONG\r\n"), (None, vec![]));
    }
}
