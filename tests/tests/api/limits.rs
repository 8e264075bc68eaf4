//! Every limit of contract section 9 at its edge. Some stand with the rest of their endpoint: frames of
//! 4 MiB, the window, batches and the handshake's ten seconds in `hub_websocket`, names and secrets in
//! `auth`, batches over HTTP in `hub_http`.

mod bodies;
mod connections;
mod entries;
mod waiting;
