//! What goes over the line: the binary frames of `spoke.v1` and the JSON forms of HTTP and `spoke.v1.json`.

pub mod frame;
#[cfg(test)]
mod golden;
pub mod json;
pub mod msgpack;
