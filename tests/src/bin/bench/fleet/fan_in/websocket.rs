//! A WebSocket client's upgrade and frames (RFC 6455), by hand: a library's costs the loader more time
//! than the rest of an entry.

use std::{
    io::{self, Write},
    net::TcpStream,
};

use spoke_protocol::wire::frame::SUBPROTOCOL;

use crate::peers::ReadBuffer;

const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// The flag of a frame that is a whole message.
const FINAL: u8 = 0x80;
/// The flag of a masked frame, as a client's are. The mask is zero, which leaves the payload as it is.
const MASKED: u8 = 0x80;
const MASK: [u8; 4] = [0; 4];
/// The end of the answer's headers.
const END: &[u8] = b"\r\n\r\n";

/// What a server sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WsMessage<'a> {
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping, to be answered with the same payload.
    Ping(&'a [u8]),
    /// Anything that needs no action.
    Other,
}

/// Upgrades a connection to the hub, and returns what it has sent since.
///
/// # Errors
/// If the hub refuses, with its answer.
pub(super) fn upgrade(stream: &mut TcpStream, token: &str) -> io::Result<ReadBuffer> {
    let request = format!(
        "GET /sync HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let (mut unread, mut scratch) = (ReadBuffer::default(), [0; 1024]);
    let end = loop {
        let end = unread.bytes().windows(END.len()).position(|bytes| bytes == END);
        match end {
            Some(end) => break end + END.len(),
            None => unread.fill(stream, &mut scratch)?,
        };
    };
    let answer = &unread.bytes()[..end];
    if !answer.starts_with(b"HTTP/1.1 101 ") {
        return Err(io::Error::other(String::from_utf8_lossy(answer).into_owned()));
    }
    unread.consume(end);
    Ok(unread)
}

/// Appends a binary message.
pub(super) fn binary(bytes: &mut Vec<u8>, payload: &[u8]) {
    frame(bytes, BINARY, payload);
}

/// Appends the answer to a ping.
pub(super) fn pong(bytes: &mut Vec<u8>, payload: &[u8]) {
    frame(bytes, PONG, payload);
}

fn frame(bytes: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    bytes.push(FINAL | kind);
    match payload.len() {
        short @ 0..=125 => bytes.push(MASKED | short as u8),
        medium @ 126..=0xffff => {
            bytes.push(MASKED | 126);
            bytes.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            bytes.push(MASKED | 127);
            bytes.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend_from_slice(payload);
}

/// The first message and its length; `None` if it is not complete.
///
/// # Errors
/// If the server closes, or sends a message in parts.
pub(super) fn parse(bytes: &[u8]) -> io::Result<Option<(WsMessage<'_>, usize)>> {
    let Some(([first, short], rest)) = bytes.split_first_chunk() else { return Ok(None) };
    let (length, header) = match short {
        126 => (rest.first_chunk().map(|it| u64::from(u16::from_be_bytes(*it))), 4),
        127 => (rest.first_chunk().map(|it| u64::from_be_bytes(*it)), 10),
        short => (Some(u64::from(*short)), 2),
    };
    let Some(end) = length.map(|length| header + length as usize) else { return Ok(None) };
    let Some(payload) = bytes.get(header..end) else { return Ok(None) };
    let message = match first & 0x0f {
        _ if first & FINAL == 0 => return Err(io::Error::other("a message in parts")),
        CLOSE => {
            let reason = String::from_utf8_lossy(payload).into_owned();
            return Err(io::Error::other(format!("the hub closed the WebSocket: {reason}")));
        }
        BINARY => WsMessage::Binary(payload),
        PING => WsMessage::Ping(payload),
        _ => WsMessage::Other,
    };
    Ok(Some((message, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_parsed_once_they_are_complete() {
        for length in [0, 125, 126, 0xffff, 0x1_0000] {
            let payload = vec![7; length];
            let mut masked = Vec::new();
            binary(&mut masked, &payload);
            // A server's frame has no mask.
            let header = masked.len() - payload.len() - MASK.len();
            let mut bytes = [&masked[..header], &payload].concat();
            bytes[1] &= !MASKED;
            assert_eq!(parse(&bytes[..bytes.len() - 1]).unwrap(), None);
            let whole = bytes.len();
            bytes.push(0);
            assert_eq!(parse(&bytes).unwrap(), Some((WsMessage::Binary(&payload), whole)));
        }
        assert!(parse(&[FINAL | CLOSE, 0]).is_err());
    }
}
