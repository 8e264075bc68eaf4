//! A cluster as a group whose nodes fail.

use std::time::Duration;

use super::Cluster;
use crate::{
    chaos::node_fault::NodeFaultKind,
    redis::RedisServer,
    redis_group::{AppRoute, RedisGroup},
    testbed::Testbed,
};

impl RedisGroup for Cluster {
    const HUB: &'static [(&'static str, &'static str)] =
        &[("partitions", "8"), ("auth_key_prefix", Self::AUTH_PREFIX)];
    const AUTH_PREFIX: &'static str = "{spoke-auth}";
    const FAULTS: &'static [NodeFaultKind] = &NodeFaultKind::ALL;

    fn servers(&self) -> &[RedisServer] {
        &self.nodes
    }

    fn servers_mut(&mut self) -> &mut [RedisServer] {
        &mut self.nodes
    }

    fn testbed(&self) -> Option<&Testbed> {
        self.testbed.as_ref()
    }

    fn hub_url(&self) -> String {
        self.url()
    }

    fn app_route(&self) -> AppRoute {
        AppRoute::Any(self.nodes.iter().map(RedisServer::port).collect())
    }

    async fn primary_of(&self, key: &str) -> Option<usize> {
        self.live_owner(key).await
    }

    async fn replicas(&self, primary: usize) -> Vec<usize> {
        vec![self.replica_of(primary).await]
    }

    async fn hand_over(&self, primary: usize) {
        self.fail_over(self.replica_of(primary).await).await;
    }

    async fn wait_until_agreed(&self, within: Duration) {
        self.wait_until_whole(within).await;
    }

    async fn move_slot(&self, key: &str, lot: usize, pause: Duration) {
        let Some(owner) = self.live_owner(key).await else { return };
        let mut others = Vec::new();
        for (at, node) in self.nodes.iter().enumerate() {
            if at != owner && node.info("replication").await.contains("role:master") {
                others.push(at);
            }
        }
        let moving =
            self.begin_move(self.slot(key, owner).await, owner, others[lot % others.len()]).await;
        while self.move_keys(&moving, 1, pause).await == 1 {}
        self.end_move(moving).await;
    }
}
