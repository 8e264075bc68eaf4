//! [`LastActivity`]: the time of the last byte from the peer, also in the middle of a frame.
//!
//! A WebSocket library hands out whole messages. On a slow link a large one takes longer than the idle timeout, so the
//! bytes themselves have to count.

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

/// The time of the last byte from the peer. Shared with the transport, which reads the parts of a large frame long before
/// the frame is complete.
#[derive(Clone, Debug)]
pub struct LastActivity {
    since: Instant,
    millis: Arc<AtomicU64>,
}

impl LastActivity {
    /// Returns an activity at `now`.
    pub fn new(now: Instant) -> Self {
        Self { since: now, millis: Arc::new(AtomicU64::new(0)) }
    }

    /// Records an activity at `now`.
    pub fn touch(&self, now: Instant) {
        let millis = now.duration_since(self.since).as_millis() as u64;
        self.millis.fetch_max(millis, Ordering::Relaxed);
    }

    /// Returns the time of the last activity.
    pub fn at(&self) -> Instant {
        self.since + Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }
}

/// Observes the bytes of a stream.
pub trait StreamObserver: Unpin {
    /// Handles bytes that were read, at least one.
    ///
    /// # Errors
    /// [`io::Error`] if no more may be read.
    fn handle_read(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Handles that this many bytes were written.
    fn handle_written(&mut self, bytes: usize) {
        let _ = bytes;
    }
}

impl StreamObserver for LastActivity {
    fn handle_read(&mut self, _: &[u8]) -> io::Result<()> {
        self.touch(Instant::now());
        Ok(())
    }
}

/// A stream whose bytes an observer sees.
pub struct ObservedStream<S, O = LastActivity> {
    stream: S,
    observer: O,
}

impl<S, O> ObservedStream<S, O> {
    /// Wraps a stream.
    pub fn new(stream: S, observer: O) -> Self {
        Self { stream, observer }
    }
}

impl<S: AsyncRead + Unpin, O: StreamObserver> AsyncRead for ObservedStream<S, O> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let bytes = &buf.filled()[before..];
        if !bytes.is_empty() {
            self.observer.handle_read(bytes)?;
        }
        polled
    }
}

impl<S, O: StreamObserver> ObservedStream<S, O> {
    fn handle_written(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.observer.handle_written(bytes);
        }
        written
    }
}

impl<S: AsyncWrite + Unpin, O: StreamObserver> AsyncWrite for ObservedStream<S, O> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.handle_written(written)
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
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.handle_written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
