//! Two hubs behind one address, restarted one after the other under load.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Method;
use serde_json::json;
use spoke_tests::{
    api::Api,
    cloud::{Cloud, IN, admit, out},
    device::{self, Device, OUT},
    entries::{Fields, fields},
    oracle::{assert_same, expected},
    redis::{RedisServer, add_all},
    service::{Kind, Service},
    wait::eventually_true,
};
use tokio::task::JoinHandle;

use crate::balancer::Balancer;

const TRANSPORTS: [&str; 2] = ["ws", "http"];

/// Adds 2000 entries a second to a stream until it is told to stop; every XADD must succeed.
fn load(
    connection: redis::aio::MultiplexedConnection,
    stream: String,
    stop: Arc<AtomicBool>,
) -> JoinHandle<usize> {
    tokio::spawn(async move {
        let mut n = 0;
        let mut pace = tokio::time::interval(Duration::from_millis(10));
        while !stop.load(Ordering::Relaxed) {
            pace.tick().await;
            let part: Vec<Fields> = (n..n + 20).map(|n| fields([("n", n.to_string())])).collect();
            add_all(connection.clone(), &stream, &part).await;
            n += part.len();
        }
        n
    })
}

/// A program in an agent's place: it sends one entry after the other, each again until it is told that
/// it is kept. A hub may say 503 and nothing worse; a connection may break.
fn post(hubs: Api, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    tokio::spawn(async move {
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            n += 1;
            let body = json!({ "seq": format!("{n}-0"), "fields": [["n", n.to_string()]] });
            loop {
                let request = hubs.request(Method::POST, "/xadd").json(&body);
                let Ok(answer) = hubs.try_call(request).await else { continue };
                match answer.status {
                    200 => break,
                    409 if answer.refusal().1 == "duplicate" => break,
                    _ => assert_eq!(answer.refusal().0, 503, "{answer:?}"),
                }
            }
        }
        n
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hubs_behind_one_address_are_restarted_in_turn_and_nothing_is_lost_or_doubled() {
    for transport in TRANSPORTS {
        let mut cloud = Cloud::start().await;
        let folder = tempfile::tempdir().unwrap();
        let mut other = Service::start(Kind::Hub, &cloud.redis.url(), &[], folder.path()).await;
        let balancer = Balancer::start(&[cloud.hub.address(), other.address()]).await;
        cloud.hub_proxy.retarget(balancer.address());
        let device = Device::start_with(&cloud, "dev1", &[("transport", transport)]).await;
        let stop = Arc::new(AtomicBool::new(false));
        let up = load(device.redis.connection(), OUT.to_owned(), stop.clone());
        let down = load(cloud.redis.connection(), out("dev1"), stop.clone());
        let posts = Api::new(balancer.address()).with_token(&admit(&cloud.redis, "dev2").await);
        let posted = post(posts, stop.clone());

        for _ in 0..2 {
            for at in 0..2 {
                carried_more(&cloud.redis, &device.redis).await;
                let hub = if at == 0 { &mut cloud.hub } else { &mut other };
                assert_eq!(hub.terminate().await.code(), Some(0));
                carried_more(&cloud.redis, &device.redis).await;
                hub.restart().await;
                balancer.set(&[cloud.hub.address(), other.address()]);
            }
        }

        stop.store(true, Ordering::Relaxed);
        let (up, down, posted) = (up.await.unwrap(), down.await.unwrap(), posted.await.unwrap());
        assert!(up > 100 && down > 100 && posted > 10, "there was load: {up} {down} {posted}");
        device.carried_both_ways(&cloud).await;
        let of_device = expected(&device.redis.entries(OUT).await, Some(1));
        assert_same("up", &of_device, &cloud.carried("dev1").await);
        let of_cloud = expected(&cloud.redis.entries(&out("dev1")).await, None);
        assert_same("down", &of_cloud, &device.carried().await);
        let seqs: Vec<_> = cloud.carried("dev2").await.into_iter().map(|e| e.seq).collect();
        assert_eq!(seqs, (1..=posted).map(|n| format!("{n}-0")).collect::<Vec<_>>());
        assert_handed_over(&cloud, &device, transport).await;
    }
}

/// Waits until entries have been carried both ways since now.
async fn carried_more(cloud: &RedisServer, device: &RedisServer) {
    let carried = async || (cloud.length(IN).await, device.length(device::IN).await);
    let before = carried().await;
    eventually_true("more to be carried both ways", async || {
        let now = carried().await;
        now.0 > before.0 + 200 && now.1 > before.1 + 200
    })
    .await;
}

/// The agent was sent on by a GOAWAY and by nothing worse, and nobody took it for two devices.
async fn assert_handed_over(cloud: &Cloud, device: &Device, transport: &str) {
    let log = device.log();
    let faults = log.lines().filter(|line| line.contains(r#""cause":""#));
    let words: BTreeSet<_> =
        faults.filter_map(|line| line.split(r#""cause":""#).nth(1)?.split('"').next()).collect();
    // A GOAWAY with a wait is `busy`. Between two requests there is nobody to be told.
    assert_eq!(words.contains("busy"), transport == "ws", "{words:?} {log}");
    // It may have come to a listener in the moment of its end, but no answer was ever left out.
    let harmless = ["busy", "unreachable", "broken"];
    assert!(words.iter().all(|word| harmless.contains(word)), "{words:?} {log}");
    let client = cloud.redis.hash("spoke-hub:client:dev1:h").await;
    assert!(!client.contains_key("clones"), "{client:?}");
}
