//! The frames of `spoke.v1`, the binary WebSocket subprotocol.
//!
//! One frame is one WebSocket message and one MessagePack array, whose first element is its kind. A reader skips
//! elements that it does not know at the end of an array, so a minor version may add some. Another major version
//! is refused in the handshake. A seq is encoded as the difference from the entry before, which takes two or
//! three bytes.
//!
//! ```text
//! HELLO   [1, major, minor, version, origin, cursor, features,        agent → hub, first
//!             instance, partner]
//! WELCOME [2, major, minor, version, generation, cursor, origin,     hub → agent, first
//!             [window, entries, bytes, fields, value bytes], heartbeat ms, server time ms, features,
//!             partner]
//! PUSH    [3, epoch, after ms, n, through ms, n, [Δms, n, [name, value, …], …],
//!             added, dead, lost, flags, [epoch, from ms, n, to ms, n, count, cause, …],
//!             seal]
//! ACK     [4, epoch, ms, n, [ms, n, reason, …]]
//! PING    [5]
//! PONG    [6, epoch, ms, n]                                          the cursor again
//! GOAWAY  [7, reason, message, wait ms]                              then the connection closes
//! PACKED  [8, bytes unpacked, zstd of a PUSH]                        if both have the feature
//! origin  [epoch, start ms, n, first ms, n, last ms, n, added, acked ms, n]
//! cursor  [epoch, ms, n, digest, added, dead, lost, flags, seal]
//! flags   1 the counts are exact, or 4 lower bounds, or neither: unknown;
//!         + 2 the entries are inherited + 8 the cursor was found by a search
//! ```

mod codes;
mod compression;
mod decode;
mod encode;

use bytes::Bytes;

use self::{
    codes::{ACK, GOAWAY, HELLO, HOLD, PACKED, PING, PONG, PUSH, WELCOME},
    compression::{pack, unpack},
    encode::FrameWriter,
};
use super::msgpack::{DecodeError, MsgpackReader};
use crate::{
    entry::Entry,
    limits::{DECODE_INLINE_BYTES_MAX, FRAME_BYTES_MAX},
    message::{Ack, Features, Frame},
};

/// The name of the subprotocol in the WebSocket handshake, with the major version.
pub const SUBPROTOCOL: &str = "spoke.v1";

impl Frame {
    /// Encodes the frame. A PUSH is packed if the peer accepts that and it saves bytes.
    pub fn encode(&self, features: Features) -> Bytes {
        let mut w = FrameWriter(Vec::with_capacity(self.size_hint()));
        match self {
            Self::Hello(hello) => w.hello(hello),
            Self::Welcome(welcome) => w.welcome(welcome),
            Self::Push(push) => w.push(push),
            Self::Ack(ack) => w.ack(ack),
            Self::Ping => w.array(1).uint(PING),
            Self::Pong(ack) => w.array(4).uint(PONG).uint(ack.epoch.0).seq(ack.seq),
            Self::Goaway(goaway) => w.goaway(goaway),
            Self::Hold(message) => w.hold(message),
        };
        match self {
            Self::Push(_) if features.has(Features::COMPRESSION) => pack(w.0).into(),
            _ => w.0.into(),
        }
    }

    fn size_hint(&self) -> usize {
        match self {
            Self::Push(push) => {
                let framed = |entry: &Entry| entry.bytes() + 16 + 6 * entry.fields.len();
                64 + push.entries.iter().map(framed).sum::<usize>()
            }
            _ => 160,
        }
    }

    /// Returns whether these bytes take so long to decode that other tasks should not wait for it.
    pub fn is_long_to_decode(bytes: &Bytes) -> bool {
        let kind = || {
            let mut r = MsgpackReader::new(bytes.clone());
            r.array("an array").and_then(|_| r.uint("a kind"))
        };
        bytes.len() > DECODE_INLINE_BYTES_MAX || kind() == Ok(PACKED)
    }

    /// Returns the unpacked size of these bytes, as their header says. [`Self::decode`] unpacks no more.
    pub fn unpacked_bytes(bytes: &Bytes) -> usize {
        let packed = || {
            let mut r = MsgpackReader::new(bytes.clone());
            r.array("an array")?;
            match r.uint("a kind")? {
                PACKED => r.uint("a length").map(Some),
                _ => Ok(None),
            }
        };
        let packed: Result<Option<u64>, DecodeError> = packed();
        let unpacked = packed.ok().flatten().map_or(0, |length| length as usize);
        unpacked.clamp(bytes.len(), FRAME_BYTES_MAX.max(bytes.len()))
    }

    /// Decodes a frame; its byte strings are slices of `bytes`. A packed frame is accepted only if the handshake
    /// agreed on [`Features::COMPRESSION`].
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not a whole frame within its bounds.
    pub fn decode(bytes: Bytes, agreed: Features) -> Result<Self, DecodeError> {
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(DecodeError::Bound("length"));
        }
        let mut r = MsgpackReader::new(bytes);
        let elements = r.array("an array")?;
        match r.uint("a kind")? {
            PACKED if !agreed.has(Features::COMPRESSION) => Err(DecodeError::NotAgreed),
            PACKED => Self::decode_plain(unpack(&mut r)?),
            kind => Self::decode_body(&mut r, kind, elements),
        }
    }

    fn decode_plain(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut r = MsgpackReader::new(bytes);
        let elements = r.array("an array")?;
        match r.uint("a kind")? {
            PUSH => Self::decode_body(&mut r, PUSH, elements),
            _ => Err(DecodeError::Not("a batch")),
        }
    }

    fn decode_body(r: &mut MsgpackReader, kind: u64, elements: usize) -> Result<Self, DecodeError> {
        let (frame, known) = match kind {
            HELLO => (Self::Hello(Box::new(decode::hello(r)?)), 9),
            WELCOME => (Self::Welcome(Box::new(decode::welcome(r)?)), 12),
            PUSH => (Self::Push(decode::push(r)?), 13),
            ACK => (Self::Ack(decode::ack(r)?), 5),
            PING => (Self::Ping, 1),
            PONG => (
                Self::Pong(Ack { epoch: decode::epoch(r)?, seq: decode::seq(r)?, refused: vec![] }),
                4,
            ),
            GOAWAY => (Self::Goaway(decode::goaway(r)?), 4),
            HOLD => (Self::Hold(decode::message(r)?), 2),
            _ => return Err(DecodeError::Not("a known kind")),
        };
        r.skip(elements.checked_sub(known).ok_or(DecodeError::Cut)?)?;
        r.end()?;
        Ok(frame)
    }
}

#[cfg(test)]
mod tests;
