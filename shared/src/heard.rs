//! When the other side was last heard, be it in the middle of a frame.
//!
//! A WebSocket library hands out whole messages; on a slow link a large one takes longer than the
//! idle timeout, so the bytes themselves have to count.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// When the last byte of the other side was seen. Shared with the transport, which sees the parts
/// of a large frame long before the frame is whole.
#[derive(Clone, Debug)]
pub struct Heard {
    since: Instant,
    millis: Arc<AtomicU64>,
}

impl Heard {
    /// Heard just now.
    pub fn new(now: Instant) -> Self {
        Self { since: now, millis: Arc::new(AtomicU64::new(0)) }
    }

    /// Heard at `now`.
    pub fn touch(&self, now: Instant) {
        let millis = now.duration_since(self.since).as_millis() as u64;
        self.millis.fetch_max(millis, Ordering::Relaxed);
    }

    /// When that was.
    pub fn at(&self) -> Instant {
        self.since + Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }
}

/// A stream that tells `Heard` of every byte that comes in.
pub struct Listened<S> {
    stream: S,
    heard: Heard,
}

impl<S> Listened<S> {
    /// Over this stream.
    pub fn new(stream: S, heard: Heard) -> Self {
        Self { stream, heard }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Listened<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard.touch(Instant::now());
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listened<S> {
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
