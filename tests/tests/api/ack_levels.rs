//! The acknowledgement levels of the hub on real Redis servers: acknowledged entries survive, and
//! entries that may not survive are not acknowledged.

mod commits;
mod durability;
mod fsync;
mod replicas;

use std::net::SocketAddr;

use serde_json::{Value, json};
use spoke_tests::{
    api::Api,
    binaries::path_of,
    cloud::{IN, url},
    process::{Finished, Start, run},
    redis::RedisServer,
    wait::{PATIENCE, eventually},
};

/// Starts replication at once: by default a primary waits five seconds for further replicas.
const NO_SYNC_DELAY: [&str; 2] = ["--repl-diskless-sync-delay", "0"];

async fn primary() -> RedisServer {
    RedisServer::start_with(&NO_SYNC_DELAY).await
}

/// Starts a replica of the Redis at this address and waits until it has caught up.
async fn replica(primary: SocketAddr) -> RedisServer {
    let port = primary.port().to_string();
    let options = ["--replicaof", "127.0.0.1", &port];
    let replica = RedisServer::start_with(&[&options[..], &NO_SYNC_DELAY].concat()).await;
    eventually("the replica to catch up", PATIENCE, async || {
        let info: String = replica.command(&["INFO", "replication"]).await;
        if info.contains("master_link_status:up") { Ok(()) } else { Err(info) }
    })
    .await;
    replica
}

fn address(redis: &RedisServer) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], redis.port()))
}

/// The URL of a Redis at this address.
fn redis_url(address: SocketAddr) -> String {
    url(address).replace("http", "redis")
}

/// Runs a hub that is expected to exit at start.
async fn run_hub_until_exit(redis: &str, ack: &str) -> Finished {
    let start = Start::with(&["serve"])
        .variable("SPOKE_HUB_LISTEN", "127.0.0.1:0")
        .variable("SPOKE_HUB_ADMIN_LISTEN", "")
        .variable("SPOKE_HUB_REDIS", redis)
        .variable("SPOKE_HUB_ACK", ack);
    run(&path_of("spoke-hub"), &start).await
}

/// The body of a request with one entry, `ms-0`.
fn entry_body(ms: u64) -> Value {
    json!({ "seq": format!("{ms}-0"), "fields": [["n", ms.to_string()]] })
}

/// Posts entries from `1-0` on until one is not acknowledged. Returns the number of acknowledged ones.
async fn post_until_refused(api: Api) -> u64 {
    for ms in 1.. {
        let request = api.request(http::Method::POST, "/xadd").json(&entry_body(ms));
        match api.try_call(request).await {
            Ok(answer) if answer.status == 200 => {}
            Ok(_) | Err(_) => return ms - 1,
        }
    }
    unreachable!("the loop ends with a refusal")
}

/// Returns how many entries of a client the in stream holds; they must be the first ones, in order.
async fn count_stored(redis: &RedisServer, client: &str) -> u64 {
    let entries = redis.entries(IN).await;
    let of_client = entries.iter().filter(|entry| entry.text("client").as_deref() == Some(client));
    let seqs: Vec<_> = of_client.map(|entry| entry.text("seq").unwrap_or_default()).collect();
    let expected: Vec<_> = (1..=seqs.len()).map(|ms| format!("{ms}-0")).collect();
    assert_eq!(seqs, expected, "each entry once and in order");
    seqs.len() as u64
}

/// `WAITAOF` exists from Redis 7.2 on.
async fn has_waitaof(redis: &RedisServer) -> bool {
    let info: String = redis.command(&["INFO", "server"]).await;
    let version = info.split("redis_version:").nth(1).unwrap_or_default();
    let mut parts = version.split('.').map(|part| part.parse::<u64>().unwrap_or(0));
    (parts.next(), parts.next()) >= (Some(7), Some(2))
}
