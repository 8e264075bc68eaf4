//! A Redis Cluster of three primaries, each with a replica.

mod group;
mod moves;

use std::{path::Path, time::Duration};

use redis::{FromRedisValue, RedisResult, Value, aio::MultiplexedConnection, cmd, pipe};
use tokio::time::timeout;

pub use self::moves::SlotMove;
pub use crate::node_connection::connect;
use crate::{
    node_connection::SILENCE,
    process::{Start, run},
    redis::{RedisServer, ShippedConf},
    testbed::{AnnouncedTo, Testbed},
    wait::{PATIENCE, eventually},
};

/// How long a node is silent until the others take it for failed, in ms.
pub const NODE_TIMEOUT_MS: u64 = 2000;
const SLOTS: u16 = 16384;
/// The primaries at the start.
const PRIMARIES: usize = 3;

/// The nodes. All end when it is dropped.
pub struct Cluster {
    /// The primaries at the start come first.
    pub nodes: Vec<RedisServer>,
    replicas: usize,
    testbed: Option<Testbed>,
}

/// A node, for a person.
#[derive(Debug, Clone)]
pub struct NodeSummary {
    /// Its port.
    pub port: u16,
    /// Its process.
    pub pid: u32,
    /// `primary` or `replica`.
    pub role: &'static str,
    /// Its ranges of slots.
    pub slots: String,
}

/// The settings of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClusterConf {
    /// Those of a single Redis, and what a failover within seconds needs.
    Tested,
    Shipped,
}

/// Starts a node that knows no other.
async fn start_node(conf: ClusterConf) -> RedisServer {
    match conf {
        ClusterConf::Tested => RedisServer::start_with(&tested(&NODE_TIMEOUT_MS.to_string())).await,
        ClusterConf::Shipped => {
            let options = ["--min-replicas-to-write", "0"];
            RedisServer::start_shipped_with(ShippedConf::Cluster, &options).await
        }
    }
}

/// The options of a node for tests.
fn tested(timeout: &str) -> [&str; 8] {
    [
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        timeout,
        "--cluster-require-full-coverage",
        "no",
        "--repl-diskless-sync-delay",
        "0",
    ]
}

impl Cluster {
    /// Starts all, and waits until each knows the others and the replicas have their copies.
    ///
    /// # Panics
    /// If one does not start.
    pub async fn start() -> Self {
        Self::start_as(ClusterConf::Tested, 1).await
    }

    /// The same with this many replicas of each primary.
    ///
    /// # Panics
    /// If one does not start.
    pub async fn start_with_replicas(replicas: usize) -> Self {
        Self::start_as(ClusterConf::Tested, replicas).await
    }

    /// The same with the shipped settings of a cluster. A primary takes writes without a replica, since each has one only.
    ///
    /// # Panics
    /// If one does not start.
    pub async fn start_shipped() -> Self {
        Self::start_as(ClusterConf::Shipped, 1).await
    }

    /// Starts this number of primaries without replicas, each with an equal share of the slots.
    ///
    /// # Panics
    /// If one does not start.
    pub async fn start_primaries(count: usize) -> Self {
        let mut nodes = Vec::new();
        for at in 0..count {
            let node = start_node(ClusterConf::Tested).await;
            let bound = |at: usize| (at * usize::from(SLOTS) / count).to_string();
            let last = (bound(at + 1).parse::<usize>().expect("a number") - 1).to_string();
            node.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", &bound(at), &last]).await;
            nodes.push(node);
        }
        let cluster = Self { nodes, replicas: 0, testbed: None };
        for node in &cluster.nodes[1..] {
            let port = node.port().to_string();
            cluster.nodes[0].command::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port]).await;
        }
        cluster.wait_until_whole(PATIENCE).await;
        cluster
    }

    /// Starts all on a testbed, where their links can be cut and their disks filled.
    ///
    /// # Panics
    /// If one does not start.
    pub async fn start_on(mut testbed: Testbed) -> Self {
        let timeout = NODE_TIMEOUT_MS.to_string();
        let mut nodes = Vec::new();
        for _ in 0..PRIMARIES * 2 {
            nodes.push(testbed.start_server(AnnouncedTo::Cluster, &tested(&timeout)).await);
        }
        Self { nodes, replicas: PRIMARIES, testbed: Some(testbed) }.joined().await
    }

    async fn start_as(conf: ClusterConf, replicas: usize) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..PRIMARIES * (1 + replicas) {
            nodes.push(start_node(conf).await);
        }
        Self { nodes, replicas: PRIMARIES * replicas, testbed: None }.joined().await
    }

    /// Makes one cluster of nodes that know no other.
    async fn joined(mut self) -> Self {
        let addresses: Vec<_> = self.nodes.iter().map(|node| self.address(node)).collect();
        let mut arguments = vec!["--cluster", "create"];
        arguments.extend(addresses.iter().map(String::as_str));
        let each = (self.replicas / PRIMARIES).to_string();
        arguments.extend(["--cluster-replicas", &each, "--cluster-yes"]);
        run(Path::new("redis-cli"), &Start::with(&arguments)).await.done();
        self.wait_until_whole(PATIENCE).await;
        let mut roles = Vec::new();
        for node in &self.nodes {
            roles.push(node.info("replication").await.contains("role:slave"));
        }
        let mut roles = roles.into_iter();
        self.nodes.sort_by_cached_key(|_| roles.next());
        self
    }

    /// The port by which the others and clients know a node.
    fn known_port(&self, node: &RedisServer) -> u16 {
        self.testbed.as_ref().map_or(node.port(), |testbed| testbed.announced(node))
    }

    fn address(&self, node: &RedisServer) -> String {
        format!("127.0.0.1:{}", self.known_port(node))
    }

    /// Waits until each node knows all others and their slots, and each replica has its copy.
    ///
    /// # Panics
    /// If that takes longer than `within`.
    pub async fn wait_until_whole(&self, within: Duration) {
        let known = format!("known_nodes:{}", self.nodes.len());
        for node in &self.nodes {
            eventually("each node to know all others and their slots", within, async || {
                let mut connection = connect(node.port()).await.ok_or("it does not answer")?;
                let mut asked = pipe();
                asked.cmd("CLUSTER").arg("INFO").cmd("CLUSTER").arg("NODES");
                asked.cmd("INFO").arg("replication");
                let told: RedisResult<(String, String, String)> =
                    asked.query_async(&mut connection).await;
                let (info, nodes, replication) = told.map_err(|error| error.to_string())?;
                let replicas = nodes.lines().filter(|line| line.contains("slave")).count();
                let is_synced =
                    replication.contains("role:master") || replication.contains("link_status:up");
                let words = ["cluster_state:ok", "cluster_slots_ok:16384", &known];
                let has_replicas = replicas == self.replicas;
                match is_synced && has_replicas && words.iter().all(|word| info.contains(word)) {
                    true => Ok(()),
                    false => Err(info),
                }
            })
            .await;
        }
    }

    /// Adds a node without slots, and returns its position.
    ///
    /// # Panics
    /// If it does not start, or is refused.
    pub async fn add_node(&mut self) -> usize {
        let node = start_node(ClusterConf::Tested).await;
        let address = |node: &RedisServer| format!("127.0.0.1:{}", node.port());
        let (new, known) = (address(&node), address(&self.nodes[0]));
        run(Path::new("redis-cli"), &Start::with(&["--cluster", "add-node", &new, &known]))
            .await
            .done();
        self.nodes.push(node);
        self.wait_until_whole(PATIENCE).await;
        self.nodes.len() - 1
    }

    /// Spreads the slots over all primaries, also those without any.
    ///
    /// # Panics
    /// If a node refuses.
    pub async fn rebalance(&self) {
        let known = format!("127.0.0.1:{}", self.nodes[0].port());
        let arguments = ["--cluster", "rebalance", &known, "--cluster-use-empty-masters"];
        run(Path::new("redis-cli"), &Start::with(&arguments)).await.done();
    }

    /// The position of the node that answers and says itself that it has the slot of a key.
    pub async fn live_owner(&self, key: &str) -> Option<usize> {
        for (at, node) in self.nodes.iter().enumerate() {
            let asked = async {
                let mut connection = connect(node.port()).await?;
                let info: RedisResult<String> =
                    cmd("CLUSTER").arg("INFO").query_async(&mut connection).await;
                info.ok().filter(|info| info.contains("cluster_state:ok"))?;
                self.owner_as_seen(key, &mut connection).await
            };
            if timeout(SILENCE, asked).await == Ok(Some(at)) {
                return Some(at);
            }
        }
        None
    }

    /// All nodes, as the first one that answers sees them.
    pub async fn summary(&self) -> Vec<NodeSummary> {
        let mut nodes = String::new();
        for node in &self.nodes {
            if let Some(mut connection) = connect(node.port()).await {
                let told = cmd("CLUSTER").arg("NODES").query_async(&mut connection).await;
                nodes = told.unwrap_or_default();
                break;
            }
        }
        let summary = |node: &RedisServer| {
            let address = format!(":{}@", self.known_port(node));
            let line = nodes.lines().find(|line| line.contains(&address)).unwrap_or_default();
            let is_primary = line.contains("master");
            let slots: Vec<_> = line.split(' ').skip(8).collect();
            NodeSummary {
                port: node.port(),
                pid: node.pid(),
                role: if is_primary { "primary" } else { "replica" },
                slots: slots.join(" "),
            }
        };
        self.nodes.iter().map(summary).collect()
    }

    /// Lets a replica take over from its primary. It gives up after five seconds if it does not get enough votes in time.
    pub async fn fail_over(&self, replica: usize) {
        let replica = &self.nodes[replica];
        eventually("the replica to take over", PATIENCE, async || {
            replica.command::<()>(&["CLUSTER", "FAILOVER"]).await;
            for _ in 0..600 {
                if replica.info("replication").await.contains("role:master") {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err("it is a replica")
        })
        .await;
    }

    /// The URL for clients: the first three nodes.
    pub fn url(&self) -> String {
        let hosts = self.nodes.iter().take(3).map(|node| self.address(node));
        format!("redis+cluster://{}", hosts.collect::<Vec<_>>().join(","))
    }

    /// The position of the primary that has the slot of a key, as the node at position `asked` sees it.
    pub async fn owner(&self, key: &str, asked: usize) -> Option<usize> {
        self.owner_as_seen(key, &mut self.nodes[asked].connection()).await
    }

    async fn owner_as_seen(&self, key: &str, asked: &mut MultiplexedConnection) -> Option<usize> {
        let slot: u16 = cmd("CLUSTER").arg("KEYSLOT").arg(key).query_async(asked).await.ok()?;
        let slots: RedisResult<Vec<Vec<Value>>> =
            cmd("CLUSTER").arg("SLOTS").query_async(asked).await;
        let range = slots.ok()?.into_iter().find(|range| {
            let bound = |at: usize| u16::from_redis_value(range[at].clone()).unwrap_or(SLOTS);
            (bound(0)..=bound(1)).contains(&slot)
        })?;
        let Value::Array(primary) = &range[2] else { return None };
        let port = u16::from_redis_value(primary[1].clone()).ok()?;
        self.nodes.iter().position(|node| self.known_port(node) == port)
    }

    /// The position of a replica of the node at this position.
    ///
    /// # Panics
    /// If it has none.
    pub async fn replica_of(&self, primary: usize) -> usize {
        let port = format!("master_port:{}\r\n", self.known_port(&self.nodes[primary]));
        for at in 0..self.nodes.len() {
            if at != primary && self.nodes[at].info("replication").await.contains(&port) {
                return at;
            }
        }
        panic!("node {primary} has no replica");
    }
}
