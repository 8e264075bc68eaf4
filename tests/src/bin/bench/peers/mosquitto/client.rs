//! The part of MQTT 3.1.1 that is needed here.

use std::{
    io::{self, Write},
    net::TcpStream,
};

use spoke_tests::wait::PATIENCE;

use crate::peers::{READ_BYTES, ReadBuffer};

const CONNECT: u8 = 1 << 4;
const CONNACK: u8 = 2 << 4;
const PUBLISH: u8 = 3 << 4;
const PUBACK: u8 = 4 << 4;
/// With the flags that the protocol requires.
const SUBSCRIBE: u8 = 8 << 4 | 2;
const SUBACK: u8 = 9 << 4;
/// The flag of a PUBLISH for quality of service 1.
const AT_LEAST_ONCE: u8 = 1 << 1;

/// The quality of service of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quality {
    AtMostOnce,
    AtLeastOnce,
}

/// What a broker sends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    /// A message; with an identifier if it has to be acknowledged.
    Message { id: Option<u16>, payload: &'a [u8] },
    /// The acknowledgement of the message with this identifier.
    Acknowledgement(u16),
    /// Any other packet, by its first byte.
    Other(u8),
}

/// One connection, blocking.
pub(crate) struct Client {
    stream: TcpStream,
    unread: ReadBuffer,
    scratch: Box<[u8]>,
}

impl Client {
    /// Connects with a clean session.
    pub(crate) fn connect(port: u16, name: &str) -> io::Result<Self> {
        const CLEAN: u8 = 2;
        Self::connect_with(port, name, CLEAN)
    }

    /// Connects with a session that outlives the connection.
    pub(crate) fn connect_persistent(port: u16, name: &str) -> io::Result<Self> {
        Self::connect_with(port, name, 0)
    }

    fn connect_with(port: u16, name: &str, flags: u8) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let scratch = vec![0; READ_BYTES].into();
        let mut client = Self { stream, unread: ReadBuffer::default(), scratch };
        // Level 4, no keep-alive.
        let body = [&string("MQTT")[..], &[4, flags, 0, 0], &string(name)].concat();
        client.send(&packet(CONNECT, &body))?;
        client.expect_packet(|packet| (packet == Packet::Other(CONNACK)).then_some(()))?;
        Ok(client)
    }

    /// Subscribes.
    pub(crate) fn subscribe(&mut self, topic: &str, quality: Quality) -> io::Result<()> {
        let quality = u8::from(quality == Quality::AtLeastOnce);
        self.send(&packet(SUBSCRIBE, &[&[0, 1][..], &string(topic), &[quality]].concat()))?;
        self.expect_packet(|packet| (packet == Packet::Other(SUBACK)).then_some(()))
    }

    /// Sends packets.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Waits for the acknowledgement of one message.
    pub(crate) fn acknowledgement(&mut self) -> io::Result<()> {
        self.expect_packet(|packet| matches!(packet, Packet::Acknowledgement(_)).then_some(()))
    }

    /// The payload of the next message.
    pub(crate) fn message(&mut self) -> io::Result<Vec<u8>> {
        self.expect_packet(|packet| match packet {
            Packet::Message { payload, .. } => Some(payload.to_vec()),
            _ => None,
        })
    }

    /// What `take` makes of the next packet, which must be of its kind.
    fn expect_packet<T>(&mut self, take: impl Fn(Packet<'_>) -> Option<T>) -> io::Result<T> {
        loop {
            if let Some((packet, length)) = parse(self.unread.bytes())? {
                let taken = take(packet).ok_or_else(|| io::Error::other("unexpected packet"));
                self.unread.consume(length);
                return taken;
            }
            self.unread.fill(&mut self.stream, &mut self.scratch)?;
        }
    }

    /// The connection, and what it has received.
    pub(crate) fn into_parts(self) -> (TcpStream, ReadBuffer) {
        (self.stream, self.unread)
    }
}

/// Appends a message with quality of service 1. Its identifier must not be 0 or that of one in flight.
pub(crate) fn publish(bytes: &mut Vec<u8>, topic: &str, id: u16, payload: &[u8]) {
    head(bytes, PUBLISH | AT_LEAST_ONCE, 2 + topic.len() + 2 + payload.len());
    bytes.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    bytes.extend_from_slice(topic.as_bytes());
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(payload);
}

/// Appends the acknowledgement of a message.
pub(crate) fn acknowledge(bytes: &mut Vec<u8>, id: u16) {
    head(bytes, PUBACK, 2);
    bytes.extend_from_slice(&id.to_be_bytes());
}

/// The first packet and its length; `None` if it is not complete.
///
/// # Errors
/// If it is malformed.
pub(crate) fn parse(bytes: &[u8]) -> io::Result<Option<(Packet<'_>, usize)>> {
    let (mut length, mut at) = (0, 1);
    loop {
        let Some(byte) = bytes.get(at) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 || at > 4 {
            break;
        }
    }
    let Some(body) = bytes.get(at..at + length) else { return Ok(None) };
    let kind = bytes[0] & 0xf0;
    let parsed = match kind {
        PUBLISH => message(body, bytes[0] & AT_LEAST_ONCE != 0),
        PUBACK => body.first_chunk().map(|id| Packet::Acknowledgement(u16::from_be_bytes(*id))),
        _ => Some(Packet::Other(kind)),
    };
    let parsed = parsed.ok_or_else(|| io::Error::other(format!("malformed packet {kind:#x}")))?;
    Ok(Some((parsed, at + length)))
}

fn message(body: &[u8], has_id: bool) -> Option<Packet<'_>> {
    let (length, rest) = body.split_first_chunk()?;
    let rest = rest.get(usize::from(u16::from_be_bytes(*length))..)?;
    Some(match has_id {
        true => {
            let (id, payload) = rest.split_first_chunk()?;
            Packet::Message { id: Some(u16::from_be_bytes(*id)), payload }
        }
        false => Packet::Message { id: None, payload: rest },
    })
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    head(&mut packet, kind, body.len());
    packet.extend_from_slice(body);
    packet
}

fn head(bytes: &mut Vec<u8>, kind: u8, length: usize) {
    bytes.push(kind);
    let mut left = length;
    loop {
        let more = if left > 0x7f { 0x80 } else { 0 };
        bytes.push((left & 0x7f) as u8 | more);
        left >>= 7;
        if left == 0 {
            break;
        }
    }
}

fn string(text: &str) -> Vec<u8> {
    let length = text.len() as u16;
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_encoded_in_seven_bits_per_byte() {
        for (length, head) in [(0, &[7, 0][..]), (127, &[7, 127]), (128, &[7, 0x80, 1])] {
            let packet = packet(7, &vec![0; length]);
            assert_eq!(&packet[..head.len()], head);
            assert_eq!(packet.len(), head.len() + length);
        }
    }

    #[test]
    fn packets_are_parsed_once_they_are_complete() {
        let payload = vec![b'x'; 200];
        let mut bytes = Vec::new();
        publish(&mut bytes, "a/b", 7, &payload);
        let whole = bytes.len();
        acknowledge(&mut bytes, 9);
        assert_eq!(parse(&bytes[..whole - 1]).unwrap(), None);
        let message = Packet::Message { id: Some(7), payload: &payload };
        assert_eq!(parse(&bytes).unwrap(), Some((message, whole)));
        assert_eq!(parse(&bytes[whole..]).unwrap(), Some((Packet::Acknowledgement(9), 4)));
    }
}
