//! What goes over the line: the binary frames of `spoke.v1`, the JSON forms of HTTP and `spoke.v1.json`,
//! and the frames of a WebSocket.

pub mod frame;
#[cfg(test)]
mod golden;
pub mod json;
pub mod msgpack;
pub mod websocket;
