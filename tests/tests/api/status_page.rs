//! The status page on the hub's admin listener: what it shows, to whom, and how many Redis calls it costs.

mod browser;
mod fleet;
mod security;
mod send;

use serde_json::json;
use spoke_tests::{api::Api, service::Kind, single_service::Stand};

async fn hub(settings: &[(&str, &str)]) -> Stand {
    Stand::start(Kind::Hub, settings).await
}

/// A client with a session over HTTP, which reports this version and nine entries.
async fn client_with_session(stand: &Stand, client: &str, version: &str) -> Api {
    let api = stand.client(client).await;
    let cursor = json!({ "epoch": 1, "seq": "0-0" });
    let origin = json!({ "epoch": 1, "start": "0-0", "first": "1-0", "last": "9-0", "added": 9,
        "acked": "0-0" });
    let hello = json!({ "version": version, "origin": origin, "cursor": cursor });
    api.post_json("/session", &hello).await.ok();
    api
}
