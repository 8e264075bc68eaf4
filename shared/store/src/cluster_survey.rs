//! What an operator has to know about each node of a Redis Cluster.

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use redis::{RedisError, RedisResult, cmd};
use tokio::time::timeout;

use crate::{
    Redis, StoreError,
    connection::ClusterRouter,
    limits::VIEW_TIMEOUT,
    redis_settings::{ServerInfo, query_server_info, query_settings},
    redis_url::ServerAddress,
};

/// The settings of a node that matter to a cluster.
const SETTINGS: [&str; 3] =
    ["min-replicas-to-write", "cluster-node-timeout", "cluster-require-full-coverage"];

/// All nodes of a cluster.
#[derive(Debug)]
pub struct ClusterSurvey {
    /// The number of slots that no primary has.
    pub uncovered_slots: usize,
    /// The address of each primary, and the number of its replicas.
    pub primaries: Vec<(String, usize)>,
    /// The address of each node, and what it says.
    pub nodes: Vec<(String, Result<NodeFacts, StoreError>)>,
}

/// What a node says.
#[derive(Debug)]
pub struct NodeFacts {
    /// Its version and state.
    pub info: ServerInfo,
    /// The settings that are compared with the shipped ones; none if it denies `CONFIG GET`.
    pub settings: Option<HashMap<String, String>>,
    /// `min-replicas-to-write`, if it tells.
    pub min_replicas: Option<usize>,
    /// `cluster-node-timeout`, if it tells.
    pub node_timeout: Option<Duration>,
    /// Whether one slot without a primary stops all (`cluster-require-full-coverage`), if it tells.
    pub needs_all_slots: Option<bool>,
}

impl Redis {
    /// Asks all nodes of the cluster, if this is one.
    ///
    /// # Errors
    /// [`StoreError`] if no node tells what the others are.
    pub async fn survey_cluster(&self) -> Option<Result<ClusterSurvey, StoreError>> {
        let router = self.router()?;
        Some(survey(self, router).await)
    }
}

async fn survey(redis: &Redis, router: &ClusterRouter) -> Result<ClusterSurvey, StoreError> {
    let view = router.view().await?;
    let asked = view.nodes.iter().map(async |node| {
        let address = &node.named.address;
        let facts = timeout(2 * VIEW_TIMEOUT, facts(redis, address)).await;
        let late = || RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        let facts = facts.unwrap_or_else(|_| Err(late()));
        (address.to_string(), facts.map_err(StoreError::from))
    });
    let primaries = view.primaries();
    Ok(ClusterSurvey {
        uncovered_slots: view.uncovered_slots(),
        primaries: primaries
            .map(|node| (node.named.address.to_string(), view.replicas_of(node)))
            .collect(),
        nodes: join_all(asked).await,
    })
}

async fn facts(redis: &Redis, address: &ServerAddress) -> RedisResult<NodeFacts> {
    let mut connection = redis.dedicated_connection_to_any(address).await?;
    let info = query_server_info(&mut connection).await?;
    let mut get = cmd("CONFIG");
    get.arg("GET").arg(&SETTINGS);
    let told: HashMap<String, String> = get.query_async(&mut connection).await.unwrap_or_default();
    let number = |name: &str| told.get(name)?.parse::<u64>().ok();
    Ok(NodeFacts {
        info,
        settings: query_settings(&mut connection).await.ok(),
        min_replicas: number(SETTINGS[0]).map(|count| count as usize),
        node_timeout: number(SETTINGS[1]).map(Duration::from_millis),
        needs_all_slots: told.get(SETTINGS[2]).map(|value| value == "yes"),
    })
}
