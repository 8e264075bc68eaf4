//! The handshake of a session: HELLO and WELCOME.

use futures_util::{SinkExt, StreamExt};
use spoke_diagnostics::{error_chain, tls_error::explain};
use spoke_protocol::message::{Frame, Hello, MAJOR, MINOR, Welcome};
use spoke_store::driver::TransportError;

use crate::{
    disconnect::{Disconnect, DisconnectCause},
    transport::FrameChannel,
};

/// Sends HELLO and receives WELCOME.
pub(super) async fn handshake(
    channel: &mut FrameChannel,
    hello: Hello,
) -> Result<Welcome, Disconnect> {
    let broken = |error: TransportError| match explain(&error) {
        Some(why) => Disconnect::new(
            DisconnectCause::Untrusted,
            format!("failed to set up TLS with the hub: {why}"),
        ),
        None => Disconnect::new(DisconnectCause::Broken, error_chain(&error)),
    };
    channel.outbox.send(Frame::Hello(Box::new(hello))).await.map_err(broken)?;
    match channel.frames.next().await {
        Some(Ok(Frame::Welcome(welcome))) if welcome.major == MAJOR => Ok(*welcome),
        Some(Ok(Frame::Welcome(welcome))) => Err(Disconnect::new(
            DisconnectCause::Version,
            format!(
                "the hub uses protocol version {}.{}, this agent {MAJOR}.{MINOR}. Update the older \
                 one",
                welcome.major, welcome.minor
            ),
        )),
        Some(Ok(Frame::Goaway(goaway))) => Err(Disconnect::from_goaway(&goaway)),
        Some(Ok(_)) => Err(Disconnect::new(
            DisconnectCause::Confused,
            "unexpected frame from the hub, expected WELCOME",
        )),
        Some(Err(error @ TransportError::Malformed(_))) => {
            Err(Disconnect::new(DisconnectCause::Confused, error_chain(&error)))
        }
        Some(Err(error)) => Err(broken(error)),
        None => Err(Disconnect::new(
            DisconnectCause::Broken,
            "the hub closed the connection before WELCOME",
        )),
    }
}
