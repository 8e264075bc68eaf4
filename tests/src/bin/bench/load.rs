//! Entries generated from a seed, and sent to a Redis as fast as one client can.

use std::fmt::Write;

use rand::{Rng, SeedableRng, rngs::StdRng};
use redis::{Cmd, Connection, Value, cmd, pipe};

/// Bytes of one payload.
pub(crate) const PAYLOAD_BYTES: usize = 100;
/// The field of an entry beside its payload.
pub(crate) const TOPIC: (&str, &str) = ("topic", "test");
/// The name of the payload's field.
pub(crate) const PAYLOAD: &str = "payload";
/// Bytes of an entry's field names and values.
pub(crate) const ENTRY_BYTES: usize = TOPIC.0.len() + TOPIC.1.len() + PAYLOAD.len() + PAYLOAD_BYTES;

/// The content of payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Random hex digits, which compress to half their size and no further.
    Noise,
    /// A sensor's readings as JSON, each a little different from the one before.
    Readings,
}

/// An endless sequence of payloads, the same for the same seed.
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

    /// The next payload, of `PAYLOAD_BYTES` bytes.
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
        // Pads with blanks, which JSON allows, where a number is shorter.
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
pub(crate) fn entry(stream: &str, leading: &[(&str, &str)], payload: &str) -> Cmd {
    let mut xadd = cmd("XADD");
    xadd.arg(stream).arg("*");
    for (field, value) in leading.iter().chain(&[TOPIC, (PAYLOAD, payload)]) {
        xadd.arg(field).arg(value);
    }
    xadd
}

/// Commands that are sent together, encoded.
pub(crate) struct Pack {
    bytes: Vec<u8>,
    commands: usize,
}

/// Encodes packs of `pipeline` commands each.
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

/// Sends packs to Redis. While Redis works on one, the next is sent.
///
/// # Panics
/// If Redis refuses a command.
pub(crate) fn feed(connection: &mut Connection, packs: impl Iterator<Item = Pack>) {
    let mut in_flight = 0;
    for pack in packs {
        connection.send_packed_command(&pack.bytes).expect("redis takes commands");
        read_replies(connection, in_flight);
        in_flight = pack.commands;
    }
    read_replies(connection, in_flight);
}

fn read_replies(connection: &mut Connection, count: usize) {
    for _ in 0..count {
        match connection.recv_response() {
            Ok(Value::BulkString(_)) => {}
            other => panic!("redis refused an entry: {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_one_size_and_are_reproducible() {
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
