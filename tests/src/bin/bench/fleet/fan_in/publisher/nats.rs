//! A client of NATS: each message is answered once the file stream has it.

use std::{io, net::TcpStream};

use super::{DueEntry, IN_FLIGHT, PayloadPool, Publisher, Target};
use crate::{
    fleet::stand::name,
    peers::{
        ReadBuffer,
        nats::client::{Client, Operation, PONG, parse, publish},
    },
};

/// The clients' subjects begin with this.
pub(crate) const SUBJECTS: &str = "bench.";

/// The stream answers in the order of the messages, so answers are only counted.
pub(crate) struct NatsPublisher {
    subject: String,
    inbox: String,
    in_flight: usize,
}

impl Publisher for NatsPublisher {
    fn connect(target: Target, n: usize) -> io::Result<(TcpStream, ReadBuffer, Self)> {
        let (stream, unread, inbox) = Client::connect(target.port)?.into_parts();
        let subject = format!("{SUBJECTS}{}", name(n));
        Ok((stream, unread, Self { subject, inbox, in_flight: 0 }))
    }

    fn room(&self) -> usize {
        IN_FLIGHT - self.in_flight
    }

    fn publish(&mut self, entries: &[DueEntry], payloads: &mut PayloadPool, out: &mut Vec<u8>) {
        for due in entries {
            publish(out, &self.subject, &self.inbox, payloads.of(due.number));
        }
        self.in_flight += entries.len();
    }

    fn handle(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<(usize, usize)> {
        let Some((operation, length)) = parse(bytes)? else { return Ok((0, 0)) };
        let answer = match operation {
            Operation::Message(answer) => answer,
            Operation::Ping => {
                out.extend_from_slice(PONG);
                return Ok((length, 0));
            }
            Operation::Other => return Ok((length, 0)),
        };
        // An acknowledgement names the stream first, a refusal the error.
        if !answer.starts_with(b"{\"stream\":") || self.in_flight == 0 {
            return Err(io::Error::other(String::from_utf8_lossy(answer).into_owned()));
        }
        self.in_flight -= 1;
        Ok((length, 1))
    }
}
