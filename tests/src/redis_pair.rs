//! Two Redis behind one address, as behind a DNS name or a floating address: one is the primary.

use std::net::SocketAddr;

use crate::{proxy::Proxy, redis::RedisServer, wait::eventually_true};

/// A primary and its replica, and the address where clients find the primary.
pub struct Pair {
    /// New connections lead to the primary; those that are open stay where they are.
    pub proxy: Proxy,
    servers: [RedisServer; 2],
    primary: usize,
}

impl Pair {
    /// Starts both.
    ///
    /// # Panics
    /// When one does not come up.
    pub async fn start() -> Self {
        let servers = [RedisServer::start().await, RedisServer::start().await];
        let proxy = Proxy::start(address(&servers[0])).await;
        let pair = Self { proxy, servers, primary: 0 };
        follow(&pair.servers[1], &pair.servers[0]).await;
        pair
    }

    /// Where clients find the primary.
    pub fn url(&self) -> String {
        format!("redis://{}", self.proxy.address())
    }

    /// The one that takes writes.
    pub fn primary(&self) -> &RedisServer {
        &self.servers[self.primary]
    }

    /// The other one.
    pub fn replica(&self) -> &RedisServer {
        &self.servers[1 - self.primary]
    }

    /// Promotes the replica, leads new connections there, and makes the old primary follow it.
    ///
    /// # Panics
    /// When a Redis refuses.
    pub async fn fail_over(&mut self) {
        self.primary = 1 - self.primary;
        self.primary().command::<()>(&["REPLICAOF", "NO", "ONE"]).await;
        self.proxy.retarget(address(self.primary()));
        follow(self.replica(), self.primary()).await;
    }

    /// How many clients of the proxy the old primary still has.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn left_behind(&self) -> usize {
        let list: String = self.replica().command(&["CLIENT", "LIST", "TYPE", "normal"]).await;
        // The test's own connection is one.
        list.lines().count().saturating_sub(1)
    }
}

fn address(redis: &RedisServer) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], redis.port()))
}

async fn follow(replica: &RedisServer, primary: &RedisServer) {
    let port = primary.port().to_string();
    replica.command::<()>(&["REPLICAOF", "127.0.0.1", &port]).await;
    eventually_true("the replica to follow its primary", async || {
        replica.info("replication").await.contains("master_link_status:up")
    })
    .await;
}
