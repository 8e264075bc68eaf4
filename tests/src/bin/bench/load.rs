//! Entries made from a seed, and handed to a Redis as fast as one client can.

use std::fmt::Write;

use rand::{Rng, SeedableRng, rngs::StdRng};
use redis::{Cmd, Connection, Value, cmd, pipe};

/// Bytes of one payload.
pub(crate) const PAYLOAD_BYTES: usize = 100;
/// What is in an entry beside its payload.
pub(crate) const TOPIC: (&str, &str) = ("topic", "test");
/// The field of the payload.
pub(crate) const PAYLOAD: &str = "payload";
/// Bytes of the fields and values of an entry.
pub(crate) const ENTRY_BYTES: usize = TOPIC.0.len() + TOPIC.1.len() + PAYLOAD.len() + PAYLOAD_BYTES;

/// What payloads are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Random digits, of which a compressor saves half and no more.
    Noise,
    /// A sensor's readings as JSON, each a little off the one before.
    Readings,
}

/// Payloads without end, the same for the same seed.
pub(crate) struct Payloads {
    random: StdRng,
    kind: Kind,
    at_ms: u64,
    temperature: f64,
}

impl Payloads {
    /// The payloads of this kind.
    pub(crate) fn new(kind: Kind) -> Self {
        let random = StdRng::seed_from_u64(0x5eed);
        Self { random, kind, at_ms: 1_700_000_000_000, temperature: 21.0 }
    }

    /// The next one, of `PAYLOAD_BYTES` bytes.
    pub(crate) fn next(&mut self) -> String {
        match self.kind {
            Kind::Noise => self.noise(),
            Kind::Readings => self.reading(),
        }
    }

    fn noise(&mut self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let bytes: [u8; PAYLOAD_BYTES / 2] = self.random.random();
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
    }

    fn reading(&mut self) -> String {
        self.at_ms += self.random.random_range(900..1100);
        self.temperature =
            (self.temperature + self.random.random_range(-0.1..0.1)).clamp(10.0, 35.0);
        let humidity = self.random.random_range(47.0..49.0);
        let (at, temperature) = (self.at_ms, self.temperature);
        let mut text = format!(
            "{{\"at\":{at},\"sensor\":\"kitchen\",\"temperature\":{temperature:.2},\
             \"humidity\":{humidity:.1},\"unit\":\"C\""
        );
        // JSON takes blanks where a number came out shorter.
        let _ = write!(text, "{:1$}", "}", PAYLOAD_BYTES - text.len());
        text
    }
}

/// The commands that add `count` entries as an app does.
pub(crate) fn entries(stream: &str, kind: Kind, count: usize) -> impl Iterator<Item = Cmd> {
    let mut payloads = Payloads::new(kind);
    (0..count).map(move |_| entry(stream, &[], &payloads.next()))
}

/// The command that adds one, with fields in front of the app's.
pub(crate) fn entry(stream: &str, front: &[(&str, &str)], payload: &str) -> Cmd {
    let mut xadd = cmd("XADD");
    xadd.arg(stream).arg("*");
    for (field, value) in front.iter().chain(&[TOPIC, (PAYLOAD, payload)]) {
        xadd.arg(field).arg(value);
    }
    xadd
}

/// Commands as they are sent together.
pub(crate) struct Pack {
    bytes: Vec<u8>,
    commands: usize,
}

/// Packs of so many commands each.
pub(crate) fn packs(
    commands: impl Iterator<Item = Cmd>,
    pipeline: usize,
) -> impl Iterator<Item = Pack> {
    let mut commands = commands.fuse();
    std::iter::from_fn(move || {
        let mut pack = pipe();
        for command in commands.by_ref().take(pipeline) {
            pack.add_command(command);
        }
        let bytes = pack.get_packed_pipeline();
        (!pack.is_empty()).then(|| Pack { bytes, commands: pack.len() })
    })
}

/// Hands packs to Redis. While it works on one the next is sent.
///
/// # Panics
/// When it does not take a command.
pub(crate) fn feed(connection: &mut Connection, packs: impl Iterator<Item = Pack>) {
    let mut under_way = 0;
    for pack in packs {
        connection.send_packed_command(&pack.bytes).expect("redis takes commands");
        take_answers(connection, under_way);
        under_way = pack.commands;
    }
    take_answers(connection, under_way);
}

fn take_answers(connection: &mut Connection, count: usize) {
    for _ in 0..count {
        match connection.recv_response() {
            Ok(Value::BulkString(_)) => {}
            other => panic!("redis did not take an entry: {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_of_one_size_and_the_same_again() {
        for kind in [Kind::Noise, Kind::Readings] {
            let (mut payloads, mut again) = (Payloads::new(kind), Payloads::new(kind));
            let mut before = String::new();
            for _ in 0..1000 {
                let payload = payloads.next();
                assert_eq!(payload.len(), PAYLOAD_BYTES, "{payload}");
                assert_eq!(payload, again.next());
                assert_ne!(payload, before);
                before = payload;
            }
        }
    }

    #[test]
    fn readings_are_json() {
        let text = Payloads::new(Kind::Readings).next();
        let reading: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(reading["temperature"].is_number(), "{text}");
    }
}
