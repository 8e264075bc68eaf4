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
pub struct LastActivity {
    since: Instant,
    millis: Arc<AtomicU64>,
}

impl LastActivity {
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

/// Who is told of what comes in over a stream.
pub trait ReadObserver: Unpin {
    /// These bytes came, one at the least.
    ///
    /// # Errors
    /// Why no more of them are to be read.
    fn handle_read(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl ReadObserver for LastActivity {
    fn handle_read(&mut self, _: &[u8]) -> io::Result<()> {
        self.touch(Instant::now());
        Ok(())
    }
}

/// A stream that tells its listener of every byte that comes in.
pub struct ObservedStream<S, L = LastActivity> {
    stream: S,
    listener: L,
}

impl<S, L> ObservedStream<S, L> {
    /// Over this stream.
    pub fn new(stream: S, listener: L) -> Self {
        Self { stream, listener }
    }
}

impl<S: AsyncRead + Unpin, L: ReadObserver> AsyncRead for ObservedStream<S, L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let bytes = &buf.filled()[before..];
        if !bytes.is_empty() {
            self.listener.handle_read(bytes)?;
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin, L: ReadObserver> AsyncWrite for ObservedStream<S, L> {
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
