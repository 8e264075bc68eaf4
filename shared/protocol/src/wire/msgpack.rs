//! Reads MessagePack from one [`Bytes`] without copying byte strings.
//!
//! `rmp` decodes the format. This module adds byte strings as slices of the frame, arrays whose unknown tail is
//! skipped, and bounds on everything.

use bytes::Bytes;
use rmp::{Marker, decode};

use crate::limits::UNKNOWN_VALUES_MAX;

/// A fault in the bytes of a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end in the middle of a value.
    #[error("the frame ends in the middle of a value")]
    Cut,
    /// A value has another type than expected.
    #[error("unexpected value in the frame, expected {0}")]
    Not(&'static str),
    /// A number or a length is past its bound.
    #[error("the frame's {0} is out of bounds")]
    Bound(&'static str),
    /// The frame is packed, but the handshake did not agree on that.
    #[error("the frame is packed, but the handshake did not agree on compression")]
    NotAgreed,
}

/// Reads the values of one frame, in order. Each method takes the name of the value for [`DecodeError`].
pub struct MsgpackReader {
    frame: Bytes,
    at: usize,
}

impl MsgpackReader {
    /// Creates a reader of one frame.
    pub fn new(frame: Bytes) -> Self {
        Self { frame, at: 0 }
    }

    fn step<T, E>(
        &mut self,
        expected: &'static str,
        read: impl FnOnce(&mut &[u8]) -> Result<T, E>,
    ) -> Result<T, DecodeError> {
        let mut rest = &self.frame[self.at..];
        if rest.is_empty() {
            return Err(DecodeError::Cut);
        }
        let value = read(&mut rest).map_err(|_| DecodeError::Not(expected))?;
        self.at = self.frame.len() - rest.len();
        Ok(value)
    }

    /// Reads a whole number.
    pub fn uint(&mut self, name: &'static str) -> Result<u64, DecodeError> {
        self.step(name, |rest| decode::read_int(rest))
    }

    /// Reads a whole number of at most `max`.
    pub fn bounded(&mut self, name: &'static str, max: u64) -> Result<u64, DecodeError> {
        let value = self.uint(name)?;
        if value > max { Err(DecodeError::Bound(name)) } else { Ok(value) }
    }

    /// Reads the length of an array.
    pub fn array(&mut self, name: &'static str) -> Result<usize, DecodeError> {
        let elements = self.step(name, |rest| decode::read_array_len(rest))? as usize;
        // Each element takes at least one byte. A length past the end of the frame is refused before any
        // memory is allocated for it.
        if elements > self.frame.len() - self.at { Err(DecodeError::Cut) } else { Ok(elements) }
    }

    /// Reads a byte string, as a slice of the frame.
    pub fn bytes(&mut self, name: &'static str) -> Result<Bytes, DecodeError> {
        let length = self.step(name, |rest| decode::read_bin_len(rest))? as usize;
        self.take(length)
    }

    /// Reads a string as a slice of the frame, for writers that do not tell text from bytes.
    pub fn string(&mut self, name: &'static str) -> Result<Bytes, DecodeError> {
        let length = self.step(name, |rest| decode::read_str_len(rest))? as usize;
        self.take(length)
    }

    /// Reads a text of at most `max` bytes.
    pub fn text(&mut self, name: &'static str, max: usize) -> Result<String, DecodeError> {
        let length = self.step(name, |rest| decode::read_str_len(rest))? as usize;
        if length > max {
            return Err(DecodeError::Bound(name));
        }
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| DecodeError::Not(name))
    }

    /// Reads a boolean.
    pub fn boolean(&mut self, name: &'static str) -> Result<bool, DecodeError> {
        self.step(name, |rest| decode::read_bool(rest))
    }

    /// Checks that nothing follows.
    pub fn end(&self) -> Result<(), DecodeError> {
        if self.at == self.frame.len() { Ok(()) } else { Err(DecodeError::Not("the end")) }
    }

    fn take(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        let end = self.at.checked_add(length).ok_or(DecodeError::Cut)?;
        if end > self.frame.len() {
            return Err(DecodeError::Cut);
        }
        let bytes = self.frame.slice(self.at..end);
        self.at = end;
        Ok(bytes)
    }

    /// Skips `count` values of any kind: the tail that a newer version has added. It may have at most
    /// [`UNKNOWN_VALUES_MAX`] values, nested ones included.
    pub fn skip(&mut self, count: usize) -> Result<(), DecodeError> {
        let (mut left, mut skipped) = (count, 0);
        while left > 0 {
            if skipped == UNKNOWN_VALUES_MAX {
                return Err(DecodeError::Bound("unknown tail"));
            }
            (left, skipped) = (left - 1, skipped + 1);
            let marker = self.step("a value", |rest| decode::read_marker(rest))?;
            let (length, inner) = self.value_size(marker)?;
            self.take(length)?;
            left = left.checked_add(inner).ok_or(DecodeError::Cut)?;
            if left > self.frame.len() - self.at {
                return Err(DecodeError::Cut);
            }
        }
        Ok(())
    }

    /// Returns the number of bytes, and of nested values, after this marker.
    fn value_size(&mut self, marker: Marker) -> Result<(usize, usize), DecodeError> {
        Ok(match marker {
            Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::True | Marker::False => {
                (0, 0)
            }
            Marker::U8 | Marker::I8 => (1, 0),
            Marker::U16 | Marker::I16 => (2, 0),
            Marker::U32 | Marker::I32 | Marker::F32 => (4, 0),
            Marker::U64 | Marker::I64 | Marker::F64 => (8, 0),
            Marker::FixStr(length) => (length.into(), 0),
            Marker::Str8 | Marker::Bin8 => (self.big_endian(1)?, 0),
            Marker::Str16 | Marker::Bin16 => (self.big_endian(2)?, 0),
            Marker::Str32 | Marker::Bin32 => (self.big_endian(4)?, 0),
            Marker::FixArray(count) => (0, count.into()),
            Marker::Array16 => (0, self.big_endian(2)?),
            Marker::Array32 => (0, self.big_endian(4)?),
            Marker::FixMap(pairs) => (0, 2 * usize::from(pairs)),
            Marker::Map16 => (0, 2 * self.big_endian(2)?),
            Marker::Map32 => (0, 2 * self.big_endian(4)?),
            Marker::FixExt1 => (2, 0),
            Marker::FixExt2 => (3, 0),
            Marker::FixExt4 => (5, 0),
            Marker::FixExt8 => (9, 0),
            Marker::FixExt16 => (17, 0),
            Marker::Ext8 => (1 + self.big_endian(1)?, 0),
            Marker::Ext16 => (1 + self.big_endian(2)?, 0),
            Marker::Ext32 => (1 + self.big_endian(4)?, 0),
            Marker::Reserved => return Err(DecodeError::Not("a value")),
        })
    }

    fn big_endian(&mut self, width: usize) -> Result<usize, DecodeError> {
        Ok(self.take(width)?.iter().fold(0, |value, &byte| (value << 8) | usize::from(byte)))
    }
}
