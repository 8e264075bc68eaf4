//! The status page on the hub's admin listener: what it shows, to whom, and at what cost.

mod browser;
mod fleet;
mod guard;
mod send;

use serde_json::json;
use spoke_tests::{api::Api, service::Kind, single_service::Stand};

async fn hub(settings: &[(&str, &str)]) -> Stand {
    Stand::start(Kind::Hub, settings).await
}

/// A client with one entry here, which says that to be its version.
async fn begun(stand: &Stand, client: &str, version: &str) -> Api {
    let api = stand.client(client).await;
    let place = json!({ "epoch": 1, "seq": "0-0" });
    let origin = json!({ "epoch": 1, "start": "0-0", "first": "1-0", "last": "9-0", "added": 9,
        "acked": "0-0" });
    let hello = json!({ "version": version, "origin": origin, "cursor": place });
    api.post_json("/session", &hello).await.ok();
    api
}
