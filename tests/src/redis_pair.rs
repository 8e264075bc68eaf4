//! Two Redis servers behind one address, like a DNS name or a floating IP address: one is the primary.

use std::net::SocketAddr;

use crate::{proxy::Proxy, redis::RedisServer, wait::eventually_true};

/// A primary and its replica, and the address of the primary for clients.
pub struct Pair {
    /// Leads new connections to the primary; open connections stay where they are.
    pub proxy: Proxy,
    servers: [RedisServer; 2],
    primary: usize,
}

impl Pair {
    /// Starts both.
    ///
    /// # Panics
    /// If one does not start.
    pub async fn start() -> Self {
        let servers = [RedisServer::start().await, RedisServer::start().await];
        let proxy = Proxy::start(address(&servers[0])).await;
        let pair = Self { proxy, servers, primary: 0 };
        follow(&pair.servers[1], &pair.servers[0]).await;
        pair
    }

    /// Returns the URL for clients.
    pub fn url(&self) -> String {
        format!("redis://{}", self.proxy.address())
    }

    /// Returns the server that accepts writes.
    pub fn primary(&self) -> &RedisServer {
        &self.servers[self.primary]
    }

    /// Returns the other server.
    pub fn replica(&self) -> &RedisServer {
        &self.servers[1 - self.primary]
    }

    /// Promotes the replica, leads new connections there, and makes the old primary follow it.
    ///
    /// # Panics
    /// If a Redis refuses.
    pub async fn fail_over(&mut self) {
        self.primary = 1 - self.primary;
        self.primary().command::<()>(&["REPLICAOF", "NO", "ONE"]).await;
        self.proxy.retarget(address(self.primary()));
        follow(self.replica(), self.primary()).await;
    }

    /// Returns how many clients are still connected to the old primary.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn clients_on_the_old_primary(&self) -> usize {
        let list: String = self.replica().command(&["CLIENT", "LIST", "TYPE", "normal"]).await;
        // The test's own connection is one.
        list.lines().count().saturating_sub(1)
    }
}

fn address(redis: &RedisServer) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], redis.port()))
}

/// Makes a server the replica of another, and waits until it is one.
///
/// # Panics
/// If a Redis refuses.
pub(crate) async fn follow(replica: &RedisServer, primary: &RedisServer) {
    let port = primary.port().to_string();
    replica.command::<()>(&["REPLICAOF", "127.0.0.1", &port]).await;
    eventually_true("the replica to follow its primary", async || {
        replica.info("replication").await.contains("master_link_status:up")
    })
    .await;
}
