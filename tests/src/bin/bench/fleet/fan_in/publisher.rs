//! One client of a system: how it connects, publishes and reads acknowledgements.

mod mqtt;
mod nats;
mod spoke;

use std::{
    io::{self, Write},
    net::TcpStream,
};

use crate::{
    load::{Kind, PAYLOAD_BYTES, Payloads},
    peers::ReadBuffer,
};

pub(super) use self::{
    mqtt::{MqttPublisher, Subscriber},
    nats::{NatsPublisher, SUBJECTS},
    spoke::SpokePublisher,
};

/// The most unacknowledged messages of one client, where the system sets no limit.
const IN_FLIGHT: usize = 1000;
/// Digits at the beginning of a payload: the number of its entry.
const DIGITS: usize = 10;
/// Different payloads, which are used in turn.
const PAYLOADS: usize = 1000;

/// The server has ended a session in a way that a new one resolves.
pub(super) const SESSION_ENDED: io::ErrorKind = io::ErrorKind::ConnectionAborted;

/// The server that the clients connect to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) port: u16,
    /// The seed of the tokens.
    pub(super) seed: u64,
}

/// An entry that is due.
#[derive(Debug, Clone, Copy)]
pub(super) struct DueEntry {
    /// Its number among the entries of all clients.
    pub(super) number: u64,
    /// When it is due, in milliseconds since 1970.
    pub(super) due_ms: u64,
}

/// What differs between the systems.
pub(super) trait Publisher: Send + Sized {
    /// Connects the client of this number.
    ///
    /// # Errors
    /// If the server refuses.
    fn connect(target: Target, n: usize) -> io::Result<(TcpStream, ReadBuffer, Self)>;

    /// Connects a subscriber to the entries of all clients, where the system needs one.
    ///
    /// # Errors
    /// If the server refuses.
    fn subscribe(_target: Target) -> io::Result<Option<Subscriber>> {
        Ok(None)
    }

    /// The number of this client's entries that the server had when it connected.
    fn stored(&self) -> u64 {
        0
    }

    /// The number of entries that may be sent now.
    fn room(&self) -> usize;

    /// Appends entries to the bytes to send.
    fn publish(&mut self, entries: &[DueEntry], payloads: &mut PayloadPool, out: &mut Vec<u8>);

    /// Takes the first message of the server, and appends an answer where it needs one. Returns the
    /// length of the message, 0 if it is not complete, and the number of entries that it acknowledges.
    ///
    /// # Errors
    /// If the server refuses an entry, or acknowledges one that was not sent; [`SESSION_ENDED`] if the
    /// client has to connect again.
    fn handle(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<(usize, usize)>;
}

/// Payloads of the usual size, each with the number of its entry.
pub(super) struct PayloadPool {
    payloads: Vec<Vec<u8>>,
}

impl PayloadPool {
    /// Makes the payloads.
    pub(super) fn new() -> Self {
        let mut random = Payloads::new(Kind::Noise);
        Self { payloads: (0..PAYLOADS).map(|_| random.next().into_bytes()).collect() }
    }

    /// The payload of this entry.
    fn of(&mut self, number: u64) -> &[u8] {
        let payload = &mut self.payloads[number as usize % PAYLOADS];
        let written = write!(&mut payload[..DIGITS], "{number:0DIGITS$}");
        written.expect("a number has at most ten digits");
        payload
    }
}

/// The number of an entry, from its payload.
pub(super) fn number_of(payload: &[u8]) -> Option<u64> {
    let digits = payload.get(..DIGITS).filter(|_| payload.len() == PAYLOAD_BYTES)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_the_number_of_its_entry() {
        let mut payloads = PayloadPool::new();
        for number in [0, 999, 1000, 9_999_999_999] {
            let payload = payloads.of(number);
            assert_eq!(payload.len(), PAYLOAD_BYTES);
            assert_eq!(number_of(payload), Some(number));
        }
        assert_eq!(number_of(b"0000000001"), None);
    }
}
