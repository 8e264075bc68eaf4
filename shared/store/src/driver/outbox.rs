//! The sending half of a connection, polled together with everything else that a session waits for.

use std::{
    task::{Context, Poll, ready},
    time::Instant,
};

use futures_util::{Sink, SinkExt};
use spoke_protocol::{message::Frame, sync::Session};

use super::TransportError;

/// A sink of frames that remembers whether it has to be flushed and whether it has failed.
pub(super) struct Outbox<S> {
    sink: S,
    is_flushed: bool,
    is_broken: bool,
}

impl<S: Sink<Frame, Error = TransportError> + Unpin> Outbox<S> {
    pub(super) fn new(sink: S) -> Self {
        Self { sink, is_flushed: true, is_broken: false }
    }

    /// Returns whether [`Self::poll`] has something to do.
    pub(super) fn is_busy(&self, session: &Session) -> bool {
        session.has_frame() || !self.is_flushed
    }

    /// Writes the session's frames while there is room for them, and flushes them together. Ready once the session may
    /// have more to do. An acknowledgement gives it nothing to do. Cancel safe.
    pub(super) fn poll(
        &mut self,
        session: &mut Session,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), TransportError>> {
        let written = self.poll_write(session, cx);
        self.is_broken |= matches!(written, Poll::Ready(Err(_)));
        written
    }

    fn poll_write(
        &mut self,
        session: &mut Session,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), TransportError>> {
        // Whether a frame was written after which the session may have more to do.
        let mut has_progressed = false;
        while session.has_frame()
            && let Poll::Ready(room) = self.sink.poll_ready_unpin(cx)
        {
            room?;
            let Some(frame) = session.poll_frame(Instant::now()) else { break };
            self.is_flushed = false;
            has_progressed |= !matches!(frame, Frame::Ack(_));
            self.sink.start_send_unpin(frame)?;
        }
        if has_progressed {
            // The next batch can be read while this one waits for the socket.
            return Poll::Ready(Ok(()));
        }
        if !self.is_flushed {
            ready!(self.sink.poll_flush_unpin(cx))?;
            self.is_flushed = true;
        }
        Poll::Pending
    }

    /// Sends the frames that the session still has, and closes the connection.
    pub(super) async fn close(&mut self, session: &mut Session) -> Result<(), TransportError> {
        // A sink that has failed once must not be used again.
        while !self.is_broken
            && session.has_frame()
            && let Some(frame) = session.poll_frame(Instant::now())
        {
            self.sink.feed(frame).await?;
        }
        if self.is_broken { Ok(()) } else { self.sink.close().await }
    }
}
