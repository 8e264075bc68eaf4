//! The encoding of messages: the binary frames of `spoke.v1`, the JSON bodies of HTTP and `spoke.v1.json`,
//! and the frame headers of a WebSocket.

pub mod frame;
#[cfg(test)]
mod golden;
pub mod json;
pub mod msgpack;
pub mod websocket;
