//! Sink of frames into one agent's WebSocket.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::{Sink, SinkExt, stream::SplitSink};
use spoke_protocol::message::{Features, Frame};
use spoke_store::driver::TransportError;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{close::close_frame, socket::ServerSocket};

/// Sink that sends each frame as one message. A close frame with the matching code follows a GOAWAY.
pub(crate) struct FrameSink<S = SplitSink<ServerSocket, Message>> {
    messages: S,
    /// Features agreed in the handshake; the default before it.
    agreed: Features,
    /// Close frame that waits for room behind a GOAWAY.
    close: Option<Message>,
}

impl<S: Sink<Message, Error = Error> + Unpin> FrameSink<S> {
    /// Creates a sink into the messages of a socket.
    pub(crate) fn new(messages: S) -> Self {
        Self { messages, agreed: Features::default(), close: None }
    }

    /// Sets the features agreed in the handshake.
    pub(crate) fn set_features(&mut self, features: Features) {
        self.agreed = features;
    }

    /// Ready when no close frame waits.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if self.close.is_some() {
            ready!(self.messages.poll_ready_unpin(cx)).map_err(broken)?;
        }
        let sent = self.close.take().map_or(Ok(()), |close| self.messages.start_send_unpin(close));
        Poll::Ready(sent.map_err(broken))
    }
}

impl<S: Sink<Message, Error = Error> + Unpin> Sink<Frame> for FrameSink<S> {
    type Error = TransportError;

    fn poll_ready(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), TransportError>> {
        ready!(self.poll_waiting(cx))?;
        self.messages.poll_ready_unpin(cx).map_err(broken)
    }

    fn start_send(mut self: Pin<&mut Self>, frame: Frame) -> Result<(), TransportError> {
        let message = Message::Binary(frame.encode(self.agreed));
        if let Frame::Goaway(goaway) = &frame {
            self.close = Some(close_frame(goaway.reason));
        }
        self.messages.start_send_unpin(message).map_err(broken)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), TransportError>> {
        ready!(self.poll_waiting(cx))?;
        self.messages.poll_flush_unpin(cx).map_err(broken)
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), TransportError>> {
        ready!(self.poll_waiting(cx))?;
        self.messages.poll_close_unpin(cx).map_err(broken)
    }
}

fn broken(error: Error) -> TransportError {
    TransportError::Broken(error.into())
}

#[cfg(test)]
mod tests {
    use spoke_protocol::message::{Goaway, GoawayReason};

    use super::*;

    #[tokio::test]
    async fn a_close_frame_with_the_code_of_its_reason_follows_a_goaway() {
        let mut sent = Vec::new();
        let messages = (&mut sent).sink_map_err(|error: std::convert::Infallible| match error {});
        let mut sink = FrameSink::new(messages);
        let (reason, message) = (GoawayReason::Superseded, "newer".to_owned());
        let goaway = Frame::Goaway(Goaway { reason, message, wait_ms: 0 });

        sink.send(Frame::Ping).await.unwrap();
        sink.send(goaway.clone()).await.unwrap();

        let frames = [Frame::Ping, goaway].map(|frame| frame.encode(Features::default()));
        let [ping, goaway] = frames.map(Message::Binary);
        assert_eq!(sent, [ping, goaway, close_frame(reason)]);
    }
}
