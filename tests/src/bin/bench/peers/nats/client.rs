//! The part of NATS's text protocol that is needed here.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
};

use serde_json::Value;
use spoke_tests::wait::PATIENCE;

/// One connection, blocking.
pub(super) struct Client {
    stream: BufReader<TcpStream>,
    /// The subject for answers; unique, since both servers forward it to each other.
    inbox: String,
    subscriptions: u32,
}

impl Client {
    /// Connects, and subscribes to answers.
    pub(super) fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let inbox = format!("_INBOX.{:x}", rand::random::<u64>());
        let mut client = Self { stream: BufReader::new(stream), inbox, subscriptions: 0 };
        // Without headers, which servers add for each other and which are not parsed here.
        client.send(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":false}\r\n")?;
        client.subscribe(&client.inbox.clone())?;
        Ok(client)
    }

    /// Subscribes to a subject.
    pub(super) fn subscribe(&mut self, subject: &str) -> io::Result<()> {
        self.subscriptions += 1;
        self.send(format!("SUB {subject} {}\r\n", self.subscriptions).as_bytes())
    }

    /// Sends messages.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends a JSON request and returns the answer.
    pub(super) fn request(&mut self, subject: &str, body: &Value) -> io::Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(&self.acknowledged(subject, &body))?;
        self.answer()
    }

    /// A message that is answered, by the stream that stores it or by the API.
    pub(super) fn acknowledged(&self, subject: &str, payload: &str) -> Vec<u8> {
        format!("PUB {subject} {} {}\r\n{payload}\r\n", self.inbox, payload.len()).into_bytes()
    }

    /// The next answer as JSON; an error if it is a refusal.
    pub(super) fn answer(&mut self) -> io::Result<Value> {
        let answer: Value = serde_json::from_slice(&self.message()?)?;
        match answer.get("error") {
            Some(error) => Err(io::Error::other(error.to_string())),
            None => Ok(answer),
        }
    }

    /// The payload of the next message.
    pub(super) fn message(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if line == "PING" {
                self.send(b"PONG\r\n")?;
            } else if let Some(head) = line.strip_prefix("MSG ") {
                let length = head.rsplit(' ').next().and_then(|length| length.parse().ok());
                let length: usize = length.ok_or_else(|| io::Error::other(line.to_owned()))?;
                let mut payload = vec![0; length + b"\r\n".len()];
                self.stream.read_exact(&mut payload)?;
                payload.truncate(length);
                return Ok(payload);
            } else if line.starts_with("-ERR") {
                return Err(io::Error::other(line.to_owned()));
            }
        }
    }
}

/// A message without an answer.
pub(super) fn publication(subject: &str, payload: &str) -> Vec<u8> {
    format!("PUB {subject} {}\r\n{payload}\r\n", payload.len()).into_bytes()
}
