//! Every limit of contract section 9 at its boundary. Some are tested with their endpoint: frames of 4 MiB,
//! the window, batches and the handshake's ten seconds in `hub_websocket`, names and secrets in `auth_api`,
//! batches over HTTP in `hub_http`.

mod bodies;
mod connections;
mod entries;
mod waiting;
