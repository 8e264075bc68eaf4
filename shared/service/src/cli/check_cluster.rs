//! `check` of a Redis Cluster: its slots, and each of its nodes.

use std::time::Duration;

use spoke_diagnostics::error_chain;
use spoke_store::{
    AckLevel, ClusterSurvey, NodeFacts, Redis,
    probe::ready,
    redis_settings::{ServerWarning, ShippedConf},
};

use super::check::{Check, of_redis};

/// A primary that is gone is replaced after this and a little more.
const NODE_TIMEOUT_MAX: Duration = Duration::from_secs(5);

/// Checks all nodes of the cluster, if this is one: its slots, the replicas, and the settings of each node.
pub async fn of_cluster(setting: &'static str, redis: &Redis, level: AckLevel) -> Vec<Check> {
    match redis.survey_cluster().await {
        None => Vec::new(),
        Some(Err(error)) => {
            let help = "start the nodes, or correct the URL";
            vec![Check::fail(setting, format!("no node answers: {}", error_chain(&error)), help)]
        }
        Some(Ok(survey)) => of_survey(setting, &survey, level),
    }
}

/// Checks that the clients of this many partitions can be written to.
pub async fn of_writes(setting: &'static str, redis: &Redis, partitions: usize) -> Option<Check> {
    let problem = ready(redis).await.err()?;
    let finding = match partitions {
        1 => format!("write failed: {problem}"),
        count => format!("writes to {count} partitions failed: {problem}"),
    };
    Some(Check::fail(setting, finding, "start the missing nodes of the cluster"))
}

/// Checks a Redis, or the cluster that it is a part of.
pub async fn of_redis_or_cluster(
    setting: &'static str,
    redis: &Redis,
    shipped: ShippedConf,
) -> Vec<Check> {
    if !redis.is_clustered() {
        return of_redis(setting, redis, shipped).await;
    }
    let writes = of_writes(setting, redis, 1).await;
    writes.into_iter().chain(of_cluster(setting, redis, AckLevel::Memory).await).collect()
}

fn of_survey(setting: &'static str, survey: &ClusterSurvey, level: AckLevel) -> Vec<Check> {
    let ClusterSurvey { uncovered_slots, primaries, nodes } = survey;
    let mut checks = Vec::new();
    let replicas: usize = primaries.iter().map(|(_, replicas)| replicas).sum();
    let (count, all) = (primaries.len(), nodes.len());
    checks.push(match uncovered_slots {
        0 => {
            let finding =
                format!("{all} nodes: {count} primaries have all slots, with {replicas} replicas");
            Check::ok(setting, finding)
        }
        missing => {
            let finding = format!("{missing} slots have no primary, so their clients wait");
            Check::fail(setting, finding, "start the missing nodes; see redis-cli --cluster check")
        }
    });
    for (address, replicas) in primaries {
        checks.extend(of_replicas(setting, (address, *replicas), level));
    }
    for (address, facts) in nodes {
        match facts {
            Ok(facts) => checks.extend(of_node(setting, address, facts, replicas > 0)),
            Err(error) => {
                let finding = format!("{address} does not answer: {}", error_chain(error));
                checks.push(Check::warn(
                    setting,
                    finding,
                    "start it, or remove it from the cluster",
                ));
            }
        }
    }
    checks
}

fn of_replicas(
    setting: &'static str,
    (address, replicas): (&str, usize),
    level: AckLevel,
) -> Option<Check> {
    if replicas == 0 {
        let finding = format!("{address} has no replica: its clients wait while it is down");
        return Some(Check::warn(setting, finding, "add a replica: redis-cli --cluster add-node"));
    }
    match level {
        AckLevel::Replicas(wanted) if wanted < replicas as u64 => {
            let finding = format!(
                "{address} has {replicas} replicas and ack is \"{level}\": if one that lags is promoted, acknowledged \
                 entries are forgotten until their devices send them again"
            );
            Some(Check::warn(setting, finding, format!("set ack = \"replicas:{replicas}\"")))
        }
        AckLevel::Memory | AckLevel::Fsync | AckLevel::Replicas(_) => None,
    }
}

fn of_node(
    setting: &'static str,
    address: &str,
    facts: &NodeFacts,
    has_replicas: bool,
) -> Vec<Check> {
    let mut checks = Vec::new();
    let (major, minor) = facts.info.version;
    if facts.info.version < (7, 0) {
        let finding =
            format!("{address} is Redis {major}.{minor}, but Spoke requires 7.0 or newer");
        checks.push(Check::fail(setting, finding, "upgrade it"));
    }
    for warning in facts.info.warnings() {
        let check = match warning {
            ServerWarning::Evicts { .. } => Check::fail,
            ServerWarning::NoAppendOnly | ServerWarning::FailedRewrite => Check::warn,
        };
        checks.push(check(setting, format!("{address}: {warning}"), warning.help()));
    }
    if facts.min_replicas == Some(0) && has_replicas {
        let finding = format!(
            "{address}: min-replicas-to-write is 0: a primary that is cut off goes on taking entries, which its successor \
             does not have"
        );
        let help = "with two replicas a primary, run CONFIG SET min-replicas-to-write 1";
        checks.push(Check::warn(setting, finding, help));
    }
    if let Some(timeout) = facts.node_timeout.filter(|timeout| *timeout > NODE_TIMEOUT_MAX) {
        let seconds = timeout.as_secs_f64();
        let finding = format!(
            "{address}: a primary that is gone is replaced only after {seconds} s (cluster-node-timeout)"
        );
        let help = "run CONFIG SET cluster-node-timeout 3000, and set the same in redis.conf";
        checks.push(Check::warn(setting, finding, help));
    }
    if facts.needs_all_slots == Some(true) {
        let finding = format!(
            "{address}: one primary without a replica stops all clients (cluster-require-full-coverage yes)"
        );
        let help =
            "run CONFIG SET cluster-require-full-coverage no, and set the same in redis.conf";
        checks.push(Check::warn(setting, finding, help));
    }
    match &facts.settings {
        Some(running) => {
            let found = ShippedConf::Cluster.mismatches(running);
            checks.extend(
                found
                    .iter()
                    .map(|found| Check::warn(setting, format!("{address}: {found}"), found.help())),
            );
        }
        None => {
            let why = format!("the settings of {address}: CONFIG GET failed");
            checks.push(Check::skip(setting, why));
        }
    }
    checks
}

#[cfg(test)]
mod tests {
    use spoke_store::{StoreError, redis_settings::ServerInfo};

    use super::*;

    fn node() -> NodeFacts {
        NodeFacts {
            info: ServerInfo { version: (7, 2), is_append_only: true, ..ServerInfo::default() },
            settings: Some(Default::default()),
            min_replicas: Some(1),
            node_timeout: Some(Duration::from_secs(3)),
            needs_all_slots: Some(false),
        }
    }

    fn lines(survey: &ClusterSurvey, level: &str) -> Vec<String> {
        let checks = of_survey("redis", survey, level.parse().unwrap());
        checks.iter().map(|check| check.to_string().lines().next().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_good_cluster_is_one_line_and_each_fault_names_its_node() {
        let survey = |node: NodeFacts, replicas| ClusterSurvey {
            uncovered_slots: 0,
            primaries: vec![("h1:7000".to_owned(), replicas)],
            nodes: vec![("h1:7000".to_owned(), Ok(node))],
        };
        let good = "ok    redis: 1 nodes: 1 primaries have all slots, with 2 replicas";
        assert_eq!(lines(&survey(node(), 2), "replicas:2"), [good]);
        for (node, replicas, level, expected) in [
            (node(), 0, "memory", "warn  redis: h1:7000 has no replica"),
            (node(), 2, "replicas:1", "warn  redis: h1:7000 has 2 replicas and ack is"),
            (
                NodeFacts { min_replicas: Some(0), ..node() },
                1,
                "memory",
                "warn  redis: h1:7000: min-replicas-to-write is 0",
            ),
            (
                NodeFacts { node_timeout: Some(Duration::from_secs(15)), ..node() },
                1,
                "memory",
                "warn  redis: h1:7000: a primary that is gone is replaced only after 15 s",
            ),
            (
                NodeFacts { needs_all_slots: Some(true), ..node() },
                1,
                "memory",
                "warn  redis: h1:7000: one primary without a replica stops all",
            ),
            (
                NodeFacts { info: ServerInfo { is_append_only: false, ..node().info }, ..node() },
                1,
                "memory",
                "warn  redis: h1:7000: redis keeps no append-only file",
            ),
            (
                NodeFacts { info: ServerInfo { version: (6, 2), ..node().info }, ..node() },
                1,
                "memory",
                "fail  redis: h1:7000 is Redis 6.2",
            ),
            (
                NodeFacts { settings: None, ..node() },
                1,
                "memory",
                "skip  redis: not checked: the settings of h1:7000",
            ),
        ] {
            let lines = lines(&survey(node, replicas), level);
            assert_eq!(lines.len(), 2, "{lines:?}");
            assert!(lines[1].starts_with(expected), "{lines:?}");
        }
        let gone = ClusterSurvey {
            uncovered_slots: 5461,
            primaries: Vec::new(),
            nodes: vec![("h2:7000".to_owned(), Err(StoreError::connection_lost()))],
        };
        let lines = lines(&gone, "memory");
        assert!(lines[0].starts_with("fail  redis: 5461 slots have no primary"), "{lines:?}");
        assert!(lines[1].starts_with("warn  redis: h2:7000 does not answer"), "{lines:?}");
    }
}
