//! A client of Mosquitto with quality of service 1, and the subscriber that receives everything.

use std::{
    io::{self, Write},
    net::TcpStream,
};

use super::{DueEntry, IN_FLIGHT, PayloadPool, Publisher, Target, number_of};
use crate::{
    fleet::stand::name,
    peers::{
        READ_BYTES, ReadBuffer,
        mosquitto::client::{Client, Packet, Quality, acknowledge, parse, publish},
    },
};

/// The topics of all clients.
const TOPICS: &str = "bench/#";

/// The broker answers in the order of the messages.
pub(crate) struct MqttPublisher {
    topic: String,
    sent: u64,
    acked: u64,
}

/// Receives the messages of all clients.
pub(crate) struct Subscriber {
    stream: TcpStream,
    unread: ReadBuffer,
    scratch: Box<[u8]>,
    out: Vec<u8>,
    /// How often each entry has arrived.
    arrived: Vec<u8>,
    received: u64,
    repeated: u64,
}

impl Publisher for MqttPublisher {
    fn connect(target: Target, n: usize) -> io::Result<(TcpStream, ReadBuffer, Self)> {
        let (stream, unread) = Client::connect(target.port, name(n).as_str())?.into_parts();
        let topic = TOPICS.replace('#', name(n).as_str());
        Ok((stream, unread, Self { topic, sent: 0, acked: 0 }))
    }

    fn subscribe(target: Target) -> io::Result<Option<Subscriber>> {
        let mut client = Client::connect_persistent(target.port, "subscriber")?;
        client.subscribe(TOPICS, Quality::AtLeastOnce)?;
        let (stream, unread) = client.into_parts();
        stream.set_nonblocking(true)?;
        let scratch = vec![0; READ_BYTES].into();
        let (out, arrived) = (Vec::new(), Vec::new());
        let subscriber =
            Subscriber { stream, unread, scratch, out, arrived, received: 0, repeated: 0 };
        Ok(Some(subscriber))
    }

    fn room(&self) -> usize {
        IN_FLIGHT - (self.sent - self.acked) as usize
    }

    fn publish(&mut self, entries: &[DueEntry], payloads: &mut PayloadPool, out: &mut Vec<u8>) {
        for due in entries {
            publish(out, &self.topic, id(self.sent), payloads.of(due.number));
            self.sent += 1;
        }
    }

    fn handle(&mut self, bytes: &[u8], _out: &mut Vec<u8>) -> io::Result<(usize, usize)> {
        match parse(bytes)? {
            None => Ok((0, 0)),
            Some((Packet::Acknowledgement(acked), length))
                if acked == id(self.acked) && self.acked < self.sent =>
            {
                self.acked += 1;
                Ok((length, 1))
            }
            Some((other, _)) => Err(io::Error::other(format!("unexpected packet {other:?}"))),
        }
    }
}

/// The identifier of a client's message, which is never 0.
fn id(n: u64) -> u16 {
    (n % u64::from(u16::MAX)) as u16 + 1
}

impl Subscriber {
    /// Reads once and acknowledges what has come.
    ///
    /// # Errors
    /// If the broker closes the connection or sends anything else.
    pub(crate) fn read(&mut self) -> io::Result<()> {
        match self.unread.fill(&mut self.stream, &mut self.scratch) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            other => other?,
        };
        while let Some((packet, length)) = parse(self.unread.bytes())? {
            match packet {
                Packet::Message { id, payload } => {
                    let number = number_of(payload);
                    let number = number.ok_or_else(|| io::Error::other("another's message"))?;
                    if let Some(id) = id {
                        acknowledge(&mut self.out, id);
                    }
                    let number = number as usize;
                    if self.arrived.len() <= number {
                        self.arrived.resize(number + 1, 0);
                    }
                    match self.arrived[number] {
                        0 => self.received += 1,
                        _ => self.repeated += 1,
                    }
                    self.arrived[number] = 1;
                }
                other => return Err(io::Error::other(format!("unexpected packet {other:?}"))),
            }
            self.unread.consume(length);
        }
        self.flush()
    }

    /// Sends the acknowledgements that the connection had no room for.
    ///
    /// # Errors
    /// Those of the connection.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(written) => drop(self.out.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The connection.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The number of different entries that have arrived, and how many arrived again.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.received, self.repeated)
    }
}
