//! Byte stream that reads the socket in large pieces, for a reader with a small buffer.
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

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::Bytes;

use crate::limits::SOCKET_READ_BYTES;

/// Byte stream with what was read of it ahead of its reader, at most [`SOCKET_READ_BYTES`].
pub(super) struct ReadAhead<S> {
    stream: S,
    rest: Bytes,
}

impl<S> ReadAhead<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, rest: Bytes::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            let mut bytes = [MaybeUninit::uninit(); SOCKET_READ_BYTES];
            let mut piece = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
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

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn all_bytes_are_read_in_order_and_none_are_kept_afterwards() {
        let sent: Vec<u8> = (0..3 * SOCKET_READ_BYTES + 7).map(|n| (n % 251) as u8).collect();
        let mut stream = ReadAhead::new(sent.as_slice());
        let mut received = Vec::new();
        let mut buffer = [0; 100];
        loop {
            let read = stream.read(&mut buffer).await.unwrap();
            if read == 0 {
                break;
            }
            received.extend_from_slice(&buffer[..read]);
            assert!(stream.rest.len() < SOCKET_READ_BYTES);
        }
        assert!(received == sent);
        assert!(stream.rest.is_empty());
    }
}
