//! `ack = "replicas:N"`.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use spoke_tests::{
    api::{Answer, Api},
    checker::{assert_same, expected},
    cloud::{Cloud, IN, Settings, admit},
    device::{Device, OUT, STATE},
    entries::{Stored, numbered},
    proxy::Proxy,
    redis::RedisServer,
    service::{Kind, Service},
    wait::{PATIENCE, eventually, eventually_is, eventually_true, throughout},
};
use tempfile::TempDir;

use crate::ack_levels::{
    address, count_stored, entry_body, post_until_refused, primary, redis_url, replica,
};

const ACK: (&str, &str) = ("ack", "replicas:1");

/// A hub on a primary with one replica. Replication goes through a proxy that can delay and cut it.
struct Stand {
    hub: Service,
    primary: RedisServer,
    network: Proxy,
    replica: RedisServer,
    _folder: TempDir,
}

impl Stand {
    async fn start() -> Self {
        let primary = primary().await;
        let network = Proxy::start(address(&primary)).await;
        let replica = replica(network.address()).await;
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let hub = Service::start(Kind::Hub, &primary.url(), &[ACK], folder.path()).await;
        Self { hub, primary, network, replica, _folder: folder }
    }

    async fn another_hub(&self) -> (TempDir, Service) {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let hub = Service::start(Kind::Hub, &self.primary.url(), &[ACK], folder.path()).await;
        (folder, hub)
    }

    async fn client(&self, name: &str) -> Api {
        self.hub.api().with_token(&admit(&self.primary, name).await)
    }
}

fn assert_unavailable(answer: &Answer) {
    assert_eq!(answer.refusal(), (503, "unavailable".to_owned()));
}

#[tokio::test]
async fn every_acknowledged_entry_is_on_the_replica_when_the_primary_is_lost_under_load() {
    let mut stand = Stand::start().await;
    let names = ["dev1", "dev2", "dev3", "dev4"];
    let clients = join_all(names.map(|name| stand.client(name))).await;
    // The replica always lags, and entries on their way to it are lost with the primary.
    stand.network.delay(Duration::from_millis(30));
    let posting: Vec<_> =
        clients.into_iter().map(|api| tokio::spawn(post_until_refused(api))).collect();
    eventually("some entries of each client to be stored", PATIENCE, async || {
        for name in names {
            let count = count_stored(&stand.primary, name).await;
            if count < 20 {
                return Err((name, count));
            }
        }
        Ok(())
    })
    .await;

    stand.primary.kill9();
    stand.network.cut();
    stand.replica.command::<()>(&["REPLICAOF", "NO", "ONE"]).await;

    for (name, posting) in names.into_iter().zip(posting) {
        let acknowledged = posting.await.unwrap();
        let stored = count_stored(&stand.replica, name).await;
        assert!(stored >= acknowledged, "{name}: {acknowledged} acknowledged, {stored} stored");
        assert!(acknowledged >= 19, "{name}: only {acknowledged} acknowledged");
    }
}

#[tokio::test]
async fn while_the_replica_hangs_no_answer_acknowledges_anything() {
    let stand = Stand::start().await;
    let dev1 = stand.client("dev1").await;
    dev1.post_json("/xadd", &entry_body(1)).await.ok();
    stand.replica.pause();
    assert_unavailable(&dev1.post_json("/xadd", &entry_body(2)).await);
    assert_eq!(count_stored(&stand.primary, "dev1").await, 2, "the entry is on the primary");

    // Each request goes to a new hub, which has no write of its own that WAIT could cover.
    let origin = json!({
        "epoch": 0, "start": "0-0", "first": "0-0", "last": "0-0", "added": 0, "acked": "0-0",
    });
    let cursor = json!({ "epoch": 0, "seq": "0-0" });
    let hello = json!({ "version": "0", "origin": origin, "cursor": cursor });
    let gap = json!({ "epoch": 1, "after": "9-0", "entries": [entry_body(10)] });
    let requests = [
        ("the entry again", Some(("/xadd", entry_body(2)))),
        ("an older entry", Some(("/xadd", entry_body(1)))),
        ("a batch past a gap", Some(("/xadd", gap))),
        ("a session", Some(("/session", hello))),
        ("the cursor", None),
    ];
    let answers = join_all(requests.map(async |(what, body)| {
        let (_folder, hub) = stand.another_hub().await;
        let dev1 = hub.api().with_token(dev1.token().unwrap());
        let answer = match body {
            Some((path, body)) => dev1.post_json(path, &body).await,
            None => dev1.get("/seq").await,
        };
        assert_eq!(answer.refusal(), (503, "unavailable".to_owned()), "{what}");
        assert!(hub.log().contains("NOREPLICAS"), "{what}");
    }));
    answers.await;

    stand.replica.resume();
    eventually_is("the entry to be acknowledged as a duplicate", 409, async || {
        dev1.post_json("/xadd", &entry_body(2)).await.status
    })
    .await;
    assert_eq!(dev1.get("/seq").await.ok()["seq"], "2-0");
    assert_eq!(count_stored(&stand.replica, "dev1").await, 2);
}

#[tokio::test]
async fn unacknowledged_entries_stay_in_the_origin_and_arrive_once() {
    for transport in ["ws", "http"] {
        let primary = primary().await;
        let replica = replica(address(&primary)).await;
        let cloud = Cloud::start_on(primary, Settings { hub: &[ACK], auth: &[] }).await;
        let settings = [("transport", transport), ("trim", "acked"), ("trim_slack_entries", "0")];
        let device = Device::start_with(&cloud, "dev1", &settings).await;
        let mut added = add(&device, 0..100).await;
        device.acknowledged_both_ways(&cloud).await;
        let acknowledged = device.redis.hash(STATE).await["out_acked"].clone();

        replica.pause();
        let waiting = add(&device, 100..200).await;
        eventually_true("the agent to be refused", async || {
            device.log().matches("connection to hub failed").count() >= 2
        })
        .await;
        assert_eq!(device.redis.hash(STATE).await["out_acked"], acknowledged);
        assert!(
            device.redis.entries(OUT).await.ends_with(&waiting),
            "no entry was trimmed from the origin"
        );

        replica.resume();
        added.extend(waiting);
        device.carried_both_ways(&cloud).await;
        assert_same(transport, &expected(&added, Some(1)), &cloud.carried("dev1").await);
        assert_eq!(replica.entries(IN).await, cloud.inbound().await);
    }
}

#[tokio::test]
async fn after_a_failover_nothing_is_acknowledged_before_the_new_primary_has_a_replica() {
    let primary = primary().await;
    let first = replica(address(&primary)).await;
    let network = Proxy::start(address(&primary)).await;
    let url = redis_url(network.address());
    let (hub, auth) = ([ACK, ("redis", &url)], [("redis", &*url)]);
    let mut cloud = Cloud::start_on(primary, Settings { hub: &hub, auth: &auth }).await;
    let device = Device::start(&cloud, "dev1").await;
    let mut added = add(&device, 0..2000).await;
    eventually_true("some entries to be acknowledged", async || {
        device.redis.hash(STATE).await.get("out_acked").is_some_and(|seq| seq != "0-0")
    })
    .await;

    cloud.redis.kill9();
    let refused = device.log().matches("connection to hub failed").count();
    first.command::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    cloud.redis = first;
    network.retarget(address(&cloud.redis));
    network.cut();
    added.extend(add(&device, 2000..2100).await);

    eventually_true("the hub to report the missing replica", async || {
        let ready = cloud.hub.admin().get("/readyz").await;
        ready.status == 503 && ready.text.contains("redis has 0 connected replicas")
    })
    .await;
    eventually_true("the agent to be refused three more times", async || {
        device.log().matches("connection to hub failed").count() >= refused + 3
    })
    .await;
    let acknowledged = device.redis.hash(STATE).await["out_acked"].clone();
    assert_ne!(Some(&acknowledged), added.last().map(|entry| &entry.id));
    let copy = cloud.redis.entries(IN).await;
    assert!(
        copy.iter().any(|entry| entry.text("seq").as_deref() == Some(&acknowledged)),
        "{acknowledged}"
    );

    let _second = replica(address(&cloud.redis)).await;
    device.carried_both_ways(&cloud).await;
    assert_same("up", &expected(&added, Some(1)), &cloud.carried("dev1").await);
    cloud.hub.ready().await;
}

#[tokio::test]
async fn a_hub_without_a_replica_waits_reports_it_and_continues_once_one_connects() {
    let primary = primary().await;
    let token = admit(&primary, "dev1").await;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut hub = Service::start(Kind::Hub, &primary.url(), &[ACK], folder.path()).await;
    let dev1 = hub.api().with_token(&token);
    eventually_true("the hub to report the missing replica", async || {
        let ready = hub.admin().get("/readyz").await;
        ready.status == 503 && ready.text.contains("redis has 0 connected replicas")
    })
    .await;
    // Longer than any start-up timeout after which the hub would exit.
    throughout("the hub waits", Duration::from_secs(12), Some(503), async || {
        (hub.process().exit().is_none()).then_some(hub.admin().get("/readyz").await.status)
    })
    .await;
    assert_unavailable(&dev1.post_json("/xadd", &entry_body(1)).await);

    let _replica = replica(address(&primary)).await;
    hub.ready().await;
    dev1.post_json("/xadd", &entry_body(1)).await.ok();
    let log = hub.log();
    for (message, times) in
        [("acknowledgement level not reached", 1), ("acknowledgement level reached again", 1)]
    {
        assert_eq!(log.matches(message).count(), times, "{message}: {log}");
    }
}

#[tokio::test]
async fn a_hub_that_starts_before_its_redis_acknowledges_nothing_below_its_level() {
    let mut primary = primary().await;
    let token = admit(&primary, "dev1").await;
    primary.kill9();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut hub = Service::start(Kind::Hub, &primary.url(), &[ACK], folder.path()).await;
    let dev1 = hub.api().with_token(&token);
    assert_unavailable(&dev1.post_json("/xadd", &entry_body(1)).await);

    primary.restart().await;
    eventually_true("the hub to report the missing replica", async || {
        hub.admin().get("/readyz").await.text.contains("redis has 0 connected replicas")
    })
    .await;
    assert_unavailable(&dev1.post_json("/xadd", &entry_body(1)).await);
    assert_eq!(count_stored(&primary, "dev1").await, 0, "the entry is not written either");

    let _replica = replica(address(&primary)).await;
    hub.ready().await;
    dev1.post_json("/xadd", &entry_body(1)).await.ok();
    let status = hub.terminate().await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(!hub.log().contains("shutdown timed out"), "the commit task ends with the others");
}

async fn add(device: &Device, numbers: std::ops::Range<usize>) -> Vec<Stored> {
    device.redis.add_all(OUT, &numbers.map(numbered).collect::<Vec<_>>()).await
}
