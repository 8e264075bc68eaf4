//! The servers of Sentinels as a group whose nodes fail.

use std::time::Duration;

use super::{SentinelGroup, Told};
use crate::{
    chaos::node_fault::NodeFaultKind,
    node_connection::{MASTER, asked, named_by},
    redis::RedisServer,
    redis_group::{AppRoute, RedisGroup},
    testbed::Testbed,
    wait::{PATIENCE, eventually},
};

impl RedisGroup for SentinelGroup {
    const HUB: &'static [(&'static str, &'static str)] = &[];
    const AUTH_PREFIX: &'static str = "spoke-auth";
    const FAULTS: &'static [NodeFaultKind] = &[
        NodeFaultKind::Kill,
        NodeFaultKind::Hang,
        NodeFaultKind::HangReplica,
        NodeFaultKind::FailOver,
        NodeFaultKind::Lag,
        NodeFaultKind::Full,
        NodeFaultKind::DiskFull,
        NodeFaultKind::Cut,
        NodeFaultKind::CutReplica,
        NodeFaultKind::KillHub,
    ];

    fn servers(&self) -> &[RedisServer] {
        &self.servers
    }

    fn servers_mut(&mut self) -> &mut [RedisServer] {
        &mut self.servers
    }

    fn testbed(&self) -> Option<&Testbed> {
        self.testbed.as_ref()
    }

    fn hub_url(&self) -> String {
        self.url()
    }

    fn app_route(&self) -> AppRoute {
        AppRoute::Named(self.ports())
    }

    /// The one that a Sentinel names.
    async fn primary_of(&self, _key: &str) -> Option<usize> {
        for (_, sentinel) in &self.sentinels {
            let Some(named) = named_by(*sentinel).await else { continue };
            let at = self.servers.iter().position(|it| self.known_port(it) == named)?;
            let replication = replication(&self.servers[at]).await.unwrap_or_default();
            return replication.contains("role:master").then_some(at);
        }
        None
    }

    async fn replicas(&self, primary: usize) -> Vec<usize> {
        (0..self.servers.len()).filter(|at| *at != primary).collect()
    }

    async fn hand_over(&self, primary: usize) {
        eventually("the Sentinels to promote another server", PATIENCE, async || {
            match self.primary_of("").await {
                Some(promoted) if promoted != primary => Ok(()),
                _ => {
                    // They refuse while they do it.
                    self.begin_fail_over().await;
                    Err("it is the primary")
                }
            }
        })
        .await;
    }

    async fn wait_until_agreed(&self, within: Duration) {
        self.wait_until_whole(within).await;
    }

    /// There are no slots.
    async fn move_slot(&self, _key: &str, _lot: usize, _pause: Duration) {}
}

impl SentinelGroup {
    /// Waits until all Sentinels name the same primary and know all others as in order, and each replica has its copy.
    ///
    /// # Panics
    /// If that takes longer than `within`.
    pub async fn wait_until_whole(&self, within: Duration) {
        eventually("all Sentinels and servers to agree", within, async || {
            let mut primary = None;
            for (_, port) in &self.sentinels {
                let named = self.seen_by(*port).await?;
                if *primary.get_or_insert(named) != named {
                    return Err("the Sentinels disagree".to_owned());
                }
            }
            let port = format!("master_port:{}\r\n", primary.unwrap_or_default());
            for server in &self.servers {
                let told = replication(server).await.ok_or("a server does not answer")?;
                let is_good = match Some(self.known_port(server)) == primary {
                    true => {
                        ["role:master", "connected_slaves:2"].iter().all(|it| told.contains(it))
                    }
                    false => {
                        let words = ["role:slave", "master_link_status:up", &port];
                        words.iter().all(|it| told.contains(it))
                    }
                };
                if !is_good {
                    return Err(told);
                }
            }
            Ok(())
        })
        .await;
    }

    /// The port that a Sentinel names, if it knows all others and takes none for down.
    async fn seen_by(&self, sentinel: u16) -> Result<u16, String> {
        let words = |what| ["SENTINEL", what, MASTER];
        let told: Told = asked(sentinel, &words("MASTER")).await.ok_or("a Sentinel is silent")?;
        let is = |name, value: &str| told.get(name).is_some_and(|told: &String| told == value);
        let others = (self.sentinels.len() - 1).to_string();
        let is_known = is("num-slaves", "2") && is("num-other-sentinels", &others);
        let replicas: Option<Vec<Told>> = asked(sentinel, &words("REPLICAS")).await;
        let is_replica = |replica: &Told| replica.get("flags").is_some_and(|it| it == "slave");
        let are_well = replicas.is_some_and(|replicas| replicas.iter().all(is_replica));
        match is_known && is("flags", "master") && are_well {
            true => told.get("port").and_then(|port| port.parse().ok()).ok_or("no port".to_owned()),
            false => Err(format!("{told:?}")),
        }
    }
}

async fn replication(server: &RedisServer) -> Option<String> {
    asked(server.port(), &["INFO", "replication"]).await
}
