//! Limits the frames of a WebSocket by their headers (RFC 6455, 5.2), as the bytes arrive.
//!
//! The library returns whole messages and limits only their bytes: a message of empty frames never ends, and pings
//! are not limited. So the headers are counted before the library reads them.

use std::time::Instant;

use crate::limits::{CONTROL_FRAME_INTERVAL, CONTROL_FRAMES_BURST, FRAGMENT_BYTES, FRAGMENTS_MAX};

/// The peer sends more frames than its messages need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameFlood {
    /// Too many frames of one message.
    #[error("too many frames in one WebSocket message")]
    Fragments,
    /// Too many pings and pongs.
    #[error("too many WebSocket control frames")]
    Control,
}

/// Counts the frames of one peer.
#[derive(Debug, Default)]
pub struct FrameLimiter {
    header: [u8; 14],
    header_bytes: usize,
    /// The bytes of the current frame that are still to come.
    payload_left: u64,
    is_final: bool,
    is_control: bool,
    /// The frames of the current message.
    frames: u64,
    message_bytes: u64,
    /// The bytes of the current control frame.
    control_bytes: u64,
    messages: u64,
    /// How much of the end of the handshake was received; none once it is complete, or without a handshake.
    handshake: Option<usize>,
    /// When the whole burst of control frames is available again: the generic cell rate algorithm.
    clear_at: Option<Instant>,
}

/// The end of a handshake.
const HANDSHAKE_END: &[u8] = b"\r\n\r\n";

impl FrameLimiter {
    /// Creates a limiter for frames that follow the answer to a handshake.
    pub fn behind_handshake() -> Self {
        Self { handshake: Some(0), ..Self::default() }
    }

    /// Takes bytes of the peer.
    ///
    /// # Errors
    /// [`FrameFlood`] if the peer sends too many frames; the connection has to end.
    pub fn handle_read(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), FrameFlood> {
        while !bytes.is_empty() {
            if let Some(matched) = self.handshake {
                self.handshake = after_byte(matched, bytes[0]);
                bytes = &bytes[1..];
                continue;
            }
            if self.payload_left > 0 {
                let taken = self.payload_left.min(bytes.len() as u64);
                self.payload_left -= taken;
                bytes = &bytes[taken as usize..];
                self.end_frame();
                continue;
            }
            self.header[self.header_bytes] = bytes[0];
            self.header_bytes += 1;
            bytes = &bytes[1..];
            if self.header_bytes >= 2 && self.header_bytes == self.header_len() {
                self.begin_frame(now)?;
                self.end_frame();
            }
        }
        Ok(())
    }

    /// Returns the number of complete messages, control frames included.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Returns the bytes of the incomplete messages, as far as their frame headers announce them.
    pub fn announced_bytes(&self) -> u64 {
        self.message_bytes.saturating_add(self.control_bytes)
    }

    /// Returns whether no message is incomplete.
    pub fn is_between_messages(&self) -> bool {
        self.header_bytes == 0 && self.payload_left == 0 && self.frames == 0
    }

    fn header_len(&self) -> usize {
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        let length = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + mask
    }

    fn begin_frame(&mut self, now: Instant) -> Result<(), FrameFlood> {
        let length = match self.header[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
            127 => self.header[2..10].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
            length => u64::from(length),
        };
        self.header_bytes = 0;
        self.payload_left = length;
        self.is_final = self.header[0] & 0x80 != 0;
        self.is_control = self.header[0] & 0x08 != 0;
        if self.is_control {
            self.control_bytes = length;
            return self.count_control(now);
        }
        self.frames += 1;
        self.message_bytes = self.message_bytes.saturating_add(length);
        if self.frames > FRAGMENTS_MAX + self.message_bytes / FRAGMENT_BYTES {
            return Err(FrameFlood::Fragments);
        }
        Ok(())
    }

    fn end_frame(&mut self) {
        if self.payload_left > 0 {
            return;
        }
        if self.is_control {
            self.control_bytes = 0;
            self.messages += 1;
        } else if self.is_final {
            (self.frames, self.message_bytes) = (0, 0);
            self.messages += 1;
        }
    }

    fn count_control(&mut self, now: Instant) -> Result<(), FrameFlood> {
        let clear_at = self.clear_at.map_or(now, |at| at.max(now)) + CONTROL_FRAME_INTERVAL;
        if clear_at.duration_since(now) > CONTROL_FRAME_INTERVAL * CONTROL_FRAMES_BURST {
            return Err(FrameFlood::Control);
        }
        self.clear_at = Some(clear_at);
        Ok(())
    }
}

/// Returns how much of the end of the handshake matches after this byte; none once it is complete.
fn after_byte(matched: usize, byte: u8) -> Option<usize> {
    let matched = if byte == HANDSHAKE_END[matched] {
        matched + 1
    } else {
        usize::from(byte == HANDSHAKE_END[0])
    };
    (matched < HANDSHAKE_END.len()).then_some(matched)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests use the real clock")]
mod tests {
    use std::time::Duration;

    use super::*;

    const TEXT: u8 = 0x1;
    const CONTINUATION: u8 = 0x0;
    const PING: u8 = 0x9;
    const FINAL: u8 = 0x80;

    /// Returns a masked frame whose extended length field has `extended` bytes.
    fn frame(first: u8, length: usize, extended: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match extended {
            0 => frame.push(0x80 | length as u8),
            2 => {
                frame.push(0x80 | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend([7; 4]);
        frame.extend(vec![0x81; length]);
        frame
    }

    fn unmasked(first: u8, length: u8) -> Vec<u8> {
        [vec![first, length], vec![0; usize::from(length)]].concat()
    }

    #[test]
    fn messages_are_counted_whatever_the_chunk_size_and_header_length() {
        let all = [
            frame(FINAL | TEXT, 5, 0),
            frame(FINAL | TEXT, 5, 8),
            frame(TEXT, 300, 2),
            frame(FINAL | PING, 9, 0),
            frame(CONTINUATION, 0, 2),
            frame(FINAL | CONTINUATION, 70_000, 8),
            unmasked(FINAL | TEXT, 0),
            unmasked(FINAL | TEXT, 100),
        ];
        let bytes = all.concat();
        for size in [1, 2, 3, 7, 1000, bytes.len()] {
            let mut limiter = FrameLimiter::default();
            let now = Instant::now();
            for part in bytes.chunks(size) {
                limiter.handle_read(part, now).unwrap();
            }
            assert_eq!(limiter.messages(), 6, "{size} bytes at a time");
            assert!(limiter.is_between_messages() && limiter.announced_bytes() == 0, "{size}");
        }
    }

    #[test]
    fn only_the_answer_to_the_handshake_is_skipped() {
        let answer = b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nx: \r\r\n\r\n".to_vec();
        let bytes = [answer, unmasked(FINAL | TEXT, 3), unmasked(FINAL | PING, 0)].concat();
        for size in [1, 3, bytes.len()] {
            let mut limiter = FrameLimiter::behind_handshake();
            for part in bytes.chunks(size) {
                limiter.handle_read(part, Instant::now()).unwrap();
            }
            assert_eq!((limiter.messages(), limiter.is_between_messages()), (2, true), "{size}");
        }
    }

    #[test]
    fn a_partial_message_gives_its_announced_length() {
        let mut limiter = FrameLimiter::default();
        let now = Instant::now();
        limiter.handle_read(&frame(TEXT, 300, 2), now).unwrap();
        assert_eq!((limiter.announced_bytes(), limiter.is_between_messages()), (300, false));
        limiter.handle_read(&frame(CONTINUATION, 4_000_000, 8)[..14], now).unwrap();
        assert_eq!((limiter.announced_bytes(), limiter.messages()), (4_000_300, 0));
        let mut limiter = FrameLimiter::default();
        limiter.handle_read(&[FINAL | TEXT], now).unwrap();
        assert!(!limiter.is_between_messages(), "half a header");
    }

    #[test]
    fn too_many_empty_fragments_are_refused_and_fragments_of_ordinary_size_are_not() {
        let now = Instant::now();
        let empty = |length: usize| {
            let mut limiter = FrameLimiter::default();
            limiter.handle_read(&frame(TEXT, length, 8), now).unwrap();
            (0..).find(|_| limiter.handle_read(&frame(CONTINUATION, 0, 0), now).is_err()).unwrap()
        };
        assert_eq!(empty(0), FRAGMENTS_MAX - 1);
        assert_eq!(empty(64 * 1024), FRAGMENTS_MAX - 1 + 128, "its payload allows more fragments");
        let mut limiter = FrameLimiter::default();
        for _ in 0..10_000 {
            limiter.handle_read(&frame(CONTINUATION, FRAGMENT_BYTES as usize, 2), now).unwrap();
        }
        // Each message has its own limit.
        let mut limiter = FrameLimiter::default();
        for _ in 0..1000 {
            limiter.handle_read(&frame(TEXT, 0, 0).repeat(50), now).unwrap();
            limiter.handle_read(&frame(FINAL | CONTINUATION, 0, 0), now).unwrap();
        }
        assert_eq!(limiter.messages(), 1000);
    }

    #[test]
    fn a_64_bit_length_does_not_overflow() {
        let mut limiter = FrameLimiter::default();
        let now = Instant::now();
        let huge = [vec![TEXT, 0xff], vec![0xff; 8], vec![0; 4]].concat();
        limiter.handle_read(&huge, now).unwrap();
        assert_eq!(limiter.announced_bytes(), u64::MAX);
        let mut limiter = FrameLimiter { payload_left: 0, message_bytes: u64::MAX, ..limiter };
        limiter.handle_read(&huge, now).unwrap();
        assert_eq!(limiter.announced_bytes(), u64::MAX);
    }

    #[test]
    fn pings_between_the_frames_of_a_message_are_rate_limited_too() {
        let mut limiter = FrameLimiter::default();
        let mut now = Instant::now();
        limiter.handle_read(&frame(TEXT, 1, 0), now).unwrap();
        let ping = frame(FINAL | PING, 0, 0);
        for _ in 0..CONTROL_FRAMES_BURST {
            limiter.handle_read(&ping, now).unwrap();
        }
        assert_eq!(limiter.handle_read(&ping, now), Err(FrameFlood::Control));
        for _ in 0..1000 {
            now += CONTROL_FRAME_INTERVAL;
            limiter.handle_read(&ping, now).unwrap();
        }
        assert_eq!(limiter.handle_read(&ping, now), Err(FrameFlood::Control));
        now += Duration::from_secs(3600);
        limiter.handle_read(&ping.repeat(CONTROL_FRAMES_BURST as usize), now).unwrap();
    }
}
