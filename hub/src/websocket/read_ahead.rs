//! Reads a socket in large pieces, for a reader with a small buffer.
//!
//! The WebSocket library keeps its read buffer as long as the connection is open, and reads no more
//! than that buffer at a time. Here a large piece is kept only until it is read: an idle connection
//! keeps none.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};
use tokio_tungstenite::tungstenite::Bytes;

use crate::limits::SOCKET_READ_BYTES;

/// What was read of a stream ahead of its reader, at most [`SOCKET_READ_BYTES`].
#[derive(Default)]
pub(super) struct ReadAhead {
    rest: Bytes,
}

impl ReadAhead {
    /// Reads what is there already, or a piece of the stream.
    pub(super) fn poll_read(
        &mut self,
        stream: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            let mut bytes = [MaybeUninit::uninit(); SOCKET_READ_BYTES];
            let mut piece = ReadBuf::uninit(&mut bytes);
            ready!(stream.poll_read(cx, &mut piece))?;
            let read = piece.filled();
            let (first, rest) = read.split_at(read.len().min(buf.remaining()));
            buf.put_slice(first);
            self.rest = Bytes::copy_from_slice(rest);
        } else {
            let next = self.rest.len().min(buf.remaining());
            buf.put_slice(&self.rest.split_to(next));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn all_bytes_are_read_in_order_and_none_are_kept_afterwards() {
        let sent: Vec<u8> = (0..3 * SOCKET_READ_BYTES + 7).map(|n| (n % 251) as u8).collect();
        let (mut stream, mut ahead) = (sent.as_slice(), ReadAhead::default());
        let mut received = Vec::new();
        let mut bytes = [0; 100];
        loop {
            let mut buf = ReadBuf::new(&mut bytes);
            poll_fn(|cx| ahead.poll_read(Pin::new(&mut stream), cx, &mut buf)).await.unwrap();
            if buf.filled().is_empty() {
                break;
            }
            received.extend_from_slice(buf.filled());
            assert!(ahead.rest.len() < SOCKET_READ_BYTES);
        }
        assert!(received == sent);
        assert!(ahead.rest.is_empty());
    }
}
