//! The sending half of a connection, polled together with everything else that a session waits for.

use std::task::{Context, Poll, ready};

use futures_util::{Sink, SinkExt};
use spoke_protocol::{message::Frame, sync::Session};
use std::time::Instant;

use super::TransportError;

/// A sink of frames that remembers whether it has to be flushed and whether it has failed.
pub(super) struct Outbox<S> {
    sink: S,
    is_flushed: bool,
    is_broken: bool,
}

/// What the sink can do next.
pub(super) enum OutboxProgress {
    HasRoom,
    IsFlushed,
}

impl<S: Sink<Frame, Error = TransportError> + Unpin> Outbox<S> {
    pub(super) fn new(sink: S) -> Self {
        Self { sink, is_flushed: true, is_broken: false }
    }

    /// Returns whether [`Self::poll`] has something to wait for.
    pub(super) fn is_busy(&self, has_frame: bool) -> bool {
        has_frame || !self.is_flushed
    }

    /// Asks for room first, so that frames that are ready leave together.
    pub(super) fn poll(
        &mut self,
        has_frame: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<OutboxProgress, TransportError>> {
        if has_frame && let Poll::Ready(room) = self.sink.poll_ready_unpin(cx) {
            return Poll::Ready(room.map(|()| OutboxProgress::HasRoom));
        }
        if self.is_flushed {
            return Poll::Pending;
        }
        ready!(self.sink.poll_flush_unpin(cx))?;
        self.is_flushed = true;
        Poll::Ready(Ok(OutboxProgress::IsFlushed))
    }

    /// Writes the session's next frame where there is room for it.
    pub(super) fn handle_progress(
        &mut self,
        progress: Result<OutboxProgress, TransportError>,
        session: &mut Session,
    ) -> Result<(), TransportError> {
        let written = match progress {
            Ok(OutboxProgress::HasRoom) => self.put(session.poll_frame(Instant::now())),
            Ok(OutboxProgress::IsFlushed) => Ok(()),
            Err(error) => Err(error),
        };
        self.is_broken |= written.is_err();
        written
    }

    fn put(&mut self, frame: Option<Frame>) -> Result<(), TransportError> {
        let Some(frame) = frame else { return Ok(()) };
        self.is_flushed = false;
        self.sink.start_send_unpin(frame)
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
