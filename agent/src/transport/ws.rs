//! Frames over one WebSocket: a frame is a binary message.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use futures_util::{SinkExt, StreamExt};
use spoke_shared::{
    link::{Heard, TransportError},
    wire::frame::{Features, Frame},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::{self, Message};

use super::Line;
use crate::dial::Socket;

/// A stream that notes when bytes come, be it in the middle of a frame.
pub struct Listening<S> {
    inner: S,
    heard: Heard,
}

/// The other side sent text where only frames belong.
#[derive(Debug, thiserror::Error)]
#[error("a text message instead of a frame")]
struct NotBinary;

/// Frames over this socket. Batches are packed once WELCOME says that both can; `ours` is what
/// HELLO offers.
pub fn line(socket: Socket, heard: Heard, ours: Features) -> Line {
    let common = Arc::new(AtomicU64::new(0));
    let (sink, stream) = socket.split();
    let agreed = common.clone();
    let frames = stream.filter_map(move |message| {
        let frame = read(message, ours, &agreed);
        std::future::ready(frame)
    });
    let outbox = sink.sink_map_err(broken).with(move |frame: Frame| {
        let features = Features(common.load(Ordering::Relaxed));
        std::future::ready(Ok(Message::Binary(frame.encode(features))))
    });
    Line { frames: frames.boxed(), outbox: Box::pin(outbox), heard }
}

fn read(
    message: Result<Message, tungstenite::Error>,
    ours: Features,
    agreed: &AtomicU64,
) -> Option<Result<Frame, TransportError>> {
    let bytes = match message {
        Ok(Message::Binary(bytes)) => bytes,
        Ok(Message::Text(_)) => return Some(Err(TransportError::Malformed(NotBinary.into()))),
        // The library answers pings; after a close the stream ends by itself.
        Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_)) => {
            return None;
        }
        Err(error @ tungstenite::Error::Capacity(_)) => {
            return Some(Err(TransportError::Malformed(error.into())));
        }
        Err(error) => return Some(Err(broken(error))),
    };
    let frame = Frame::decode(bytes).map_err(|error| TransportError::Malformed(error.into()));
    if let Ok(Frame::Welcome(welcome)) = &frame {
        agreed.store(ours.common(welcome.features).0, Ordering::Relaxed);
    }
    Some(frame)
}

fn broken(error: tungstenite::Error) -> TransportError {
    TransportError::Broken(error.into())
}

impl<S> Listening<S> {
    /// Notes into `heard`.
    pub fn new(inner: S, heard: Heard) -> Self {
        Self { inner, heard }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Listening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.heard.touch(Instant::now());
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
