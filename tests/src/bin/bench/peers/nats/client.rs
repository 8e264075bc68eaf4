//! The part of NATS's text protocol that is needed here.

use std::{
    io::{self, Write},
    net::TcpStream,
};

use serde_json::Value;
use spoke_tests::wait::PATIENCE;

use crate::peers::{READ_BYTES, ReadBuffer};

/// What a server sends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Operation<'a> {
    /// The payload of a message.
    Message(&'a [u8]),
    /// To be answered with [`PONG`].
    Ping,
    /// Anything that needs no action.
    Other,
}

/// The answer to a PING.
pub(crate) const PONG: &[u8] = b"PONG\r\n";

/// One connection, blocking.
pub(crate) struct Client {
    stream: TcpStream,
    unread: ReadBuffer,
    scratch: Box<[u8]>,
    /// The subject for answers; unique, since both servers forward it to each other.
    inbox: String,
    subscriptions: u32,
}

impl Client {
    /// Connects, and subscribes to answers.
    pub(crate) fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let inbox = format!("_INBOX.{:x}", rand::random::<u64>());
        let scratch = vec![0; READ_BYTES].into();
        let mut client =
            Self { stream, unread: ReadBuffer::default(), scratch, inbox, subscriptions: 0 };
        // Without headers, which servers add for each other and which are not parsed here.
        client.send(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":false}\r\n")?;
        client.subscribe(&client.inbox.clone())?;
        Ok(client)
    }

    /// Subscribes to a subject.
    pub(crate) fn subscribe(&mut self, subject: &str) -> io::Result<()> {
        self.subscriptions += 1;
        self.send(format!("SUB {subject} {}\r\n", self.subscriptions).as_bytes())
    }

    /// Sends messages.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a JSON request and returns the answer.
    pub(crate) fn request(&mut self, subject: &str, body: &Value) -> io::Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(&self.acknowledged(subject, &body))?;
        self.answer()
    }

    /// A message that is answered, by the stream that stores it or by the API.
    pub(crate) fn acknowledged(&self, subject: &str, payload: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        publish(&mut bytes, subject, &self.inbox, payload.as_bytes());
        bytes
    }

    /// The next answer as JSON; an error if it is a refusal.
    pub(crate) fn answer(&mut self) -> io::Result<Value> {
        let answer: Value = serde_json::from_slice(&self.message()?)?;
        match answer.get("error") {
            Some(error) => Err(io::Error::other(error.to_string())),
            None => Ok(answer),
        }
    }

    /// The payload of the next message.
    pub(crate) fn message(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let Some((operation, length)) = parse(self.unread.bytes())? else {
                self.unread.fill(&mut self.stream, &mut self.scratch)?;
                continue;
            };
            let payload = match operation {
                Operation::Message(payload) => Some(payload.to_vec()),
                Operation::Ping => {
                    self.stream.write_all(PONG)?;
                    None
                }
                Operation::Other => None,
            };
            self.unread.consume(length);
            if let Some(payload) = payload {
                return Ok(payload);
            }
        }
    }

    /// The connection, what it has received, and the subject for its answers.
    pub(crate) fn into_parts(self) -> (TcpStream, ReadBuffer, String) {
        (self.stream, self.unread, self.inbox)
    }
}

/// A message without an answer.
pub(crate) fn publication(subject: &str, payload: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    publish(&mut bytes, subject, "", payload.as_bytes());
    bytes
}

/// Appends a message, which is answered to `inbox` unless that is empty.
pub(crate) fn publish(bytes: &mut Vec<u8>, subject: &str, inbox: &str, payload: &[u8]) {
    let length = payload.len();
    write!(bytes, "PUB {subject} {inbox} {length}\r\n").expect("memory can be written");
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(b"\r\n");
}

/// The first operation and its length; `None` if it is not complete.
///
/// # Errors
/// If the server reports an error, or is not understood.
pub(crate) fn parse(bytes: &[u8]) -> io::Result<Option<(Operation<'_>, usize)>> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1) else {
        return Ok(None);
    };
    let line = bytes[..end].trim_ascii_end();
    if line == b"PING" {
        return Ok(Some((Operation::Ping, end)));
    }
    let refused = || io::Error::other(String::from_utf8_lossy(line).into_owned());
    if line.starts_with(b"-ERR") {
        return Err(refused());
    }
    if !line.starts_with(b"MSG ") {
        return Ok(Some((Operation::Other, end)));
    }
    let length = line.rsplit(|byte| *byte == b' ').next();
    let length = length.and_then(|length| std::str::from_utf8(length).ok()?.parse::<usize>().ok());
    let length = length.ok_or_else(refused)?;
    let whole = end + length + b"\r\n".len();
    let is_whole = bytes.len() >= whole;
    Ok(is_whole.then(|| (Operation::Message(&bytes[end..end + length]), whole)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_parsed_once_they_are_complete() {
        let text = b"INFO {}\r\nPING\r\nMSG a.b 1 3\r\nx\ny\r\n+OK\r\n";
        let mut left = &text[..];
        let mut found = Vec::new();
        while let Some((operation, length)) = parse(left).unwrap() {
            assert_eq!(parse(&left[..length - 1]).unwrap(), None);
            found.push(operation);
            left = &left[length..];
        }
        let message = Operation::Message(b"x\ny");
        assert_eq!(found, [Operation::Other, Operation::Ping, message, Operation::Other]);
        assert!(parse(b"-ERR 'no'\r\n").is_err());
    }
}
