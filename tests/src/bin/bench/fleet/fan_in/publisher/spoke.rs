//! A client of the hub: `spoke.v1` over a WebSocket.

use std::{
    collections::VecDeque,
    io::{self, Write},
    net::TcpStream,
};

use bytes::Bytes;
use secrecy::ExposeSecret;
use spoke_protocol::{
    BatchAccount, Entry, Epoch, InstanceId, PartnerId, Seal, Seq, Tally, TallyPrecision,
    message::{
        Ack, Cursor, Features, Frame, Hello, MAJOR, MINOR, OriginState, Push, ReceiveLimits,
        Welcome,
    },
};
use spoke_tests::wait::PATIENCE;

use super::{DueEntry, PayloadPool, Publisher, SESSION_ENDED, Target};
use crate::{
    fleet::{
        fan_in::websocket::{self, WsMessage},
        stand::token,
    },
    load::{PAYLOAD, TOPIC},
    peers::ReadBuffer,
};

/// As a device sends it; the hub only stores it.
const SEAL: Seal = Seal([7; 16]);

/// A device with an empty stream. The second half of its seqs counts its entries.
pub(crate) struct SpokePublisher {
    granted: ReceiveLimits,
    /// The ends of the batches in flight, and the number of entries up to there.
    in_flight: VecDeque<(Seq, u64)>,
    /// The end of the last batch.
    sent: Seq,
    entries: u64,
    acked: Seq,
    acked_entries: u64,
}

impl Publisher for SpokePublisher {
    fn connect(target: Target, n: usize) -> io::Result<(TcpStream, ReadBuffer, Self)> {
        let mut stream = TcpStream::connect(("127.0.0.1", target.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut unread = websocket::upgrade(&mut stream, token(target.seed, n).expose_secret())?;
        let mut greeting = Vec::new();
        send(&mut greeting, &Frame::Hello(Box::new(hello())));
        stream.write_all(&greeting)?;
        let Welcome { granted, cursor, .. } = welcome(&mut stream, &mut unread)?;
        let stored = if cursor.epoch.is_known() { cursor.seq.n + 1 } else { 0 };
        let publisher = Self {
            granted,
            in_flight: VecDeque::new(),
            sent: cursor.seq,
            entries: stored,
            acked: cursor.seq,
            acked_entries: stored,
        };
        Ok((stream, unread, publisher))
    }

    fn stored(&self) -> u64 {
        self.acked_entries
    }

    fn room(&self) -> usize {
        match self.in_flight.len() < self.granted.window_batches {
            true => self.granted.batch_entries,
            false => 0,
        }
    }

    fn publish(&mut self, entries: &[DueEntry], payloads: &mut PayloadPool, out: &mut Vec<u8>) {
        let after = self.sent;
        let batch = entries.iter().map(|due| {
            self.sent = Seq::new(due.due_ms.max(self.sent.ms), self.entries);
            self.entries += 1;
            let payload = Bytes::copy_from_slice(payloads.of(due.number));
            let name = |name: &'static str| Bytes::from_static(name.as_bytes());
            let topic = (name(TOPIC.0), name(TOPIC.1));
            Entry { seq: self.sent, fields: vec![topic, (name(PAYLOAD), payload)] }
        });
        let entries = batch.collect();
        let tally =
            Tally { added: self.entries, precision: TallyPrecision::Exact, ..Tally::default() };
        let account = BatchAccount { tally, ..BatchAccount::default() };
        let (epoch, through, seal) = (Epoch::FIRST, self.sent, Some(SEAL));
        send(out, &Frame::Push(Push { epoch, after, through, entries, account, seal }));
        self.in_flight.push_back((through, self.entries));
    }

    fn handle(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<(usize, usize)> {
        let Some((message, length)) = websocket::parse(bytes)? else { return Ok((0, 0)) };
        let frame = match message {
            WsMessage::Binary(payload) => decode(payload)?,
            WsMessage::Ping(payload) => {
                websocket::pong(out, payload);
                return Ok((length, 0));
            }
            WsMessage::Other => return Ok((length, 0)),
        };
        match frame {
            Frame::Ack(ack) | Frame::Pong(ack) => Ok((length, self.handle_ack(&ack)?)),
            Frame::Ping => {
                let (epoch, seq) = (Epoch::UNKNOWN, Seq::ZERO);
                send(out, &Frame::Pong(Ack { epoch, seq, refused: Vec::new() }));
                Ok((length, 0))
            }
            Frame::Goaway(goaway) => Err(io::Error::new(SESSION_ENDED, goaway.message)),
            other => Err(io::Error::other(format!("unexpected frame {other:?}"))),
        }
    }
}

impl SpokePublisher {
    /// The number of entries that this acknowledges.
    fn handle_ack(&mut self, ack: &Ack) -> io::Result<usize> {
        let before = self.acked_entries;
        while let Some((through, entries)) = self.in_flight.front().copied()
            && through <= ack.seq
        {
            self.in_flight.pop_front();
            (self.acked, self.acked_entries) = (through, entries);
        }
        match ack.seq == self.acked && ack.refused.is_empty() {
            true => Ok((self.acked_entries - before) as usize),
            false => Err(io::Error::other(format!("unexpected acknowledgement {ack:?}"))),
        }
    }
}

/// Appends a frame as a WebSocket message.
fn send(out: &mut Vec<u8>, frame: &Frame) {
    websocket::binary(out, &frame.encode(Features::default()));
}

fn decode(payload: &[u8]) -> io::Result<Frame> {
    Frame::decode(Bytes::copy_from_slice(payload), Features::default()).map_err(io::Error::other)
}

fn hello() -> Hello {
    Hello {
        major: MAJOR,
        minor: MINOR,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        origin: OriginState::default(),
        cursor: Cursor::default(),
        features: Features::default(),
        instance: InstanceId(rand::random()),
        partner: PartnerId::UNKNOWN,
    }
}

/// Waits for WELCOME.
fn welcome(stream: &mut TcpStream, unread: &mut ReadBuffer) -> io::Result<Welcome> {
    let mut scratch = [0; 1024];
    loop {
        let Some((message, length)) = websocket::parse(unread.bytes())? else {
            unread.fill(stream, &mut scratch)?;
            continue;
        };
        let frame = match message {
            WsMessage::Binary(payload) => decode(payload)?,
            other => return Err(io::Error::other(format!("{other:?} instead of WELCOME"))),
        };
        unread.consume(length);
        return match frame {
            Frame::Welcome(welcome) => Ok(*welcome),
            other => Err(io::Error::other(format!("unexpected frame {other:?}"))),
        };
    }
}
