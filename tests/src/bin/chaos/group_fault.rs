//! The faults of a group of Redis servers: each begins, lasts, and ends.

use std::time::Duration;

use spoke_tests::{
    chaos::node_fault::{NodeFault, NodeFaultKind},
    node_connection::asked,
    redis::RedisServer,
    redis_group::RedisGroup,
    testbed::Testbed,
    wait::eventually,
};
use tokio::time::sleep;

/// How long the group has to become whole after a fault.
pub(crate) const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// How long a killed primary stays away whose replicas lag, so that one takes over.
const TAKEOVER: Duration = Duration::from_secs(6);
/// How soon a server writes again after its disk is free.
const WRITES_AGAIN: Duration = Duration::from_secs(10);
/// A limit of memory that every server exceeds.
const FULL: &str = "1mb";

/// Makes a fault of the primary that has a stream, and ends it.
pub(crate) async fn strike<G: RedisGroup>(
    group: &mut G,
    fault: &NodeFault,
    stream: &str,
    primary: Option<usize>,
) {
    let Some(primary) = primary else { return };
    let lasts = Duration::from_millis(fault.lasts_ms);
    match fault.kind {
        NodeFaultKind::Kill => {
            group.servers_mut()[primary].kill9();
            sleep(lasts).await;
            group.servers_mut()[primary].restart().await;
        }
        NodeFaultKind::Hang => hang(&group.servers()[primary], lasts).await,
        NodeFaultKind::HangReplica => {
            let replica = a_replica(group, fault, primary).await;
            hang(&group.servers()[replica], lasts).await;
        }
        NodeFaultKind::FailOver => group.hand_over(primary).await,
        NodeFaultKind::Lag => lag(group, primary, lasts).await,
        NodeFaultKind::MoveSlot => group.move_slot(stream, fault.client, lasts / 10).await,
        NodeFaultKind::Full => {
            set_limit(&group.servers()[primary], FULL).await;
            sleep(lasts).await;
            set_limit(&group.servers()[primary], "0").await;
        }
        NodeFaultKind::DiskFull => fill_disk(group, primary, lasts).await,
        NodeFaultKind::Cut => {
            testbed(group).isolate(&group.servers()[primary]);
            sleep(lasts).await;
            testbed(group).heal();
        }
        NodeFaultKind::CutReplica => {
            let replica = a_replica(group, fault, primary).await;
            testbed(group).part(&group.servers()[primary], &group.servers()[replica]);
            sleep(lasts).await;
            testbed(group).heal();
        }
        // It is not one of these servers.
        NodeFaultKind::KillHub => {}
    }
}

fn testbed<G: RedisGroup>(group: &G) -> &Testbed {
    group.testbed().expect("the group was started for a chaos run")
}

async fn a_replica<G: RedisGroup>(group: &G, fault: &NodeFault, primary: usize) -> usize {
    let replicas = group.replicas(primary).await;
    replicas[fault.client % replicas.len()]
}

async fn hang(server: &RedisServer, lasts: Duration) {
    server.pause();
    sleep(lasts).await;
    server.resume();
}

/// Lets a replica take over without what was written last. The old primary's file has it, and becomes that of a replica.
async fn lag<G: RedisGroup>(group: &mut G, primary: usize, lasts: Duration) {
    let replicas = group.replicas(primary).await;
    replicas.iter().for_each(|at| group.servers()[*at].pause());
    sleep(lasts).await;
    group.servers_mut()[primary].kill9();
    replicas.iter().for_each(|at| group.servers()[*at].resume());
    sleep(TAKEOVER).await;
    group.servers_mut()[primary].restart().await;
}

async fn set_limit(server: &RedisServer, value: &str) {
    eventually("a server to take a setting", WHOLE_WITHIN, async || {
        let set: Option<()> = asked(server.port(), &["CONFIG", "SET", "maxmemory", value]).await;
        set.ok_or("no answer")
    })
    .await;
}

/// Fills the disk, and waits behind its end until the server writes its file again by itself.
async fn fill_disk<G: RedisGroup>(group: &G, primary: usize, lasts: Duration) {
    let (testbed, server) = (testbed(group), &group.servers()[primary]);
    testbed.fill_disk(server);
    sleep(lasts).await;
    testbed.free_disk(server);
    eventually("a server to write its file again", WRITES_AGAIN, async || {
        let told: Option<String> = asked(server.port(), &["INFO", "persistence"]).await;
        let told = told.unwrap_or_default();
        match told.contains("aof_last_write_status:ok") {
            true => Ok(()),
            false => Err(told),
        }
    })
    .await;
}
