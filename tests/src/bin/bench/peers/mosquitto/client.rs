//! The part of MQTT 3.1.1 that is needed here.

use std::{
    io::{self, BufReader, Read, Write},
    net::TcpStream,
};

use spoke_tests::wait::PATIENCE;

const CONNECT: u8 = 1 << 4;
const CONNACK: u8 = 2 << 4;
const PUBLISH: u8 = 3 << 4;
const PUBACK: u8 = 4 << 4;
/// With the flags that the protocol requires.
const SUBSCRIBE: u8 = 8 << 4 | 2;
const SUBACK: u8 = 9 << 4;
/// The flag of a PUBLISH for quality of service 1.
const AT_LEAST_ONCE: u8 = 1 << 1;

/// One connection, blocking.
pub(super) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects.
    pub(super) fn connect(port: u16, name: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Self { stream: BufReader::new(stream) };
        // Level 4, a clean session, no keep-alive.
        let body = [&string("MQTT")[..], &[4, 2, 0, 0], &string(name)].concat();
        client.send(&packet(CONNECT, &body))?;
        client.expect_packet(CONNACK)?;
        Ok(client)
    }

    /// Subscribes with quality of service 0: only the way to the broker is measured.
    pub(super) fn subscribe(&mut self, topic: &str) -> io::Result<()> {
        self.send(&packet(SUBSCRIBE, &[&[0, 1][..], &string(topic), &[0]].concat()))?;
        self.expect_packet(SUBACK).map(drop)
    }

    /// Sends packets.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Waits for the acknowledgement of one message.
    pub(super) fn acknowledgement(&mut self) -> io::Result<()> {
        self.expect_packet(PUBACK).map(drop)
    }

    /// The payload of the next message.
    pub(super) fn message(&mut self) -> io::Result<Vec<u8>> {
        let mut body = self.expect_packet(PUBLISH)?;
        let topic = body.first_chunk().map(|length| usize::from(u16::from_be_bytes(*length)));
        let payload = topic.map(|length| 2 + length).filter(|start| *start <= body.len());
        let payload = payload.ok_or_else(|| io::Error::other("a message without a topic"))?;
        Ok(body.split_off(payload))
    }

    /// The body of the next packet, which must be of this kind.
    fn expect_packet(&mut self, kind: u8) -> io::Result<Vec<u8>> {
        let [head] = self.bytes()?;
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let [byte] = self.bytes()?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        match head & 0xf0 == kind {
            true => Ok(body),
            false => Err(io::Error::other(format!("packet {head:#x} instead of {kind:#x}"))),
        }
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// A message with quality of service 1. Its identifier must not be 0 or that of one in flight.
pub(super) fn publication(topic: &str, id: u16, payload: &str) -> Vec<u8> {
    let body = [&string(topic)[..], &id.to_be_bytes(), payload.as_bytes()].concat();
    packet(PUBLISH | AT_LEAST_ONCE, &body)
}

fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![head];
    let mut left = body.len();
    loop {
        let more = if left > 0x7f { 0x80 } else { 0 };
        packet.push((left & 0x7f) as u8 | more);
        left >>= 7;
        if left == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
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
}
