//! Frames over one WebSocket: a frame is a binary message.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures_util::{SinkExt, StreamExt};
use spoke_shared::{
    heard::Heard,
    link::TransportError,
    wire::frame::{Features, Frame},
};
use tokio_tungstenite::tungstenite::{self, Message};

use super::Line;
use crate::dial::Socket;

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
    let features = Features(agreed.load(Ordering::Relaxed));
    let frame =
        Frame::decode(bytes, features).map_err(|error| TransportError::Malformed(error.into()));
    if let Ok(Frame::Welcome(welcome)) = &frame {
        agreed.store(ours.common(welcome.features).0, Ordering::Relaxed);
    }
    Some(frame)
}

fn broken(error: tungstenite::Error) -> TransportError {
    TransportError::Broken(error.into())
}
