//! Frames over one WebSocket. Each frame is a binary message.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::{SinkExt, StreamExt};
use spoke_protocol::{
    message::{Features, Frame},
    wire::websocket::FrameFlood,
};
use spoke_service::LastActivity;
use spoke_store::driver::TransportError;
use tokio_tungstenite::tungstenite::{self, Message};

use super::FrameChannel;
use crate::dial::websocket::HubSocket;

/// The peer sent a text message, which is never a frame.
#[derive(Debug, thiserror::Error)]
#[error("unexpected text message, expected a frame")]
struct TextMessageError;

/// Returns the frames of this socket. Batches are compressed once WELCOME confirms that both ends
/// support it; `ours` are the features of HELLO.
pub fn websocket_frames(socket: HubSocket, activity: LastActivity, ours: Features) -> FrameChannel {
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
    FrameChannel { frames: frames.boxed(), outbox: Box::pin(outbox), activity }
}

fn read(
    message: Result<Message, tungstenite::Error>,
    ours: Features,
    agreed: &AtomicU64,
) -> Option<Result<Frame, TransportError>> {
    let bytes = match message {
        Ok(Message::Binary(bytes)) => bytes,
        Ok(Message::Text(_)) => {
            return Some(Err(TransportError::Malformed(TextMessageError.into())));
        }
        // The library answers pings. After a close the stream ends.
        Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_)) => {
            return None;
        }
        Err(error @ tungstenite::Error::Capacity(_)) => {
            return Some(Err(TransportError::Malformed(error.into())));
        }
        Err(tungstenite::Error::Io(error)) if is_flood(&error) => {
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

/// Returns whether the peer exceeded the frame rate.
fn is_flood(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<FrameFlood>())
}

fn broken(error: tungstenite::Error) -> TransportError {
    TransportError::Broken(error.into())
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use rustls::{ClientConfig, RootCertStore, crypto::ring};
    use spoke_diagnostics::error_chain;
    use spoke_protocol::limits::FRAGMENTS_MAX;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

    use super::*;
    use crate::dial::{Dialer, ProxySetting, websocket::open_websocket};

    /// Completes the handshake and sends `bytes` together with its response.
    async fn fake_hub(listener: TcpListener, bytes: Vec<u8>) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        let request = String::from_utf8(request).unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim().to_owned())
        };
        let key = request.lines().find_map(header).unwrap();
        let accept = derive_accept_key(key.as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-protocol: spoke.v1\r\nsec-websocket-accept: {accept}\r\n\r\n"
        );
        stream.write_all(&[answer.into_bytes(), bytes].concat()).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }

    /// Returns the first frame that an agent receives from such a hub, or the error. Bytes that
    /// arrive with the handshake's response are checked before the handshake is over.
    async fn first_frame(bytes: Vec<u8>) -> Result<Frame, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let hub = tokio::spawn(fake_hub(listener, bytes));
        let tls = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let token = "token".to_owned().into();
        let dialer = Dialer::new(&ProxySetting::None, Arc::new(tls)).unwrap();
        let opened = open_websocket(&dialer, &url, &token).await;
        let (socket, since) = opened.map_err(|error| error_chain(&error))?;
        let mut channel = websocket_frames(socket, since, Features::default());
        let first = channel.frames.next().await.unwrap();
        hub.abort();
        first.map_err(|error| {
            assert!(matches!(error, TransportError::Malformed(_)), "{error}");
            error_chain(&error)
        })
    }

    #[tokio::test]
    async fn a_flood_of_empty_frames_or_pings_is_a_protocol_error() {
        let empty = [vec![0x02, 0], [0x00, 0].repeat(2 * FRAGMENTS_MAX as usize)].concat();
        for flood in [empty, [0x89, 0].repeat(1000)] {
            let error = first_frame(flood).await.unwrap_err();
            assert!(error.contains("too many"), "{error}");
        }
        let ping = Frame::Ping.encode(Features(0));
        let ping = [vec![0x82, ping.len() as u8], ping.to_vec()].concat();
        let few = [[0x89, 0].repeat(10), ping].concat();
        assert_eq!(first_frame(few).await.unwrap(), Frame::Ping, "a few pings are allowed");
    }
}
