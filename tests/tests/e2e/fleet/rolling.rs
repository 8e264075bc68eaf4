//! Two hubs behind one address, restarted one after the other under load, as in an upgrade.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Method;
use serde_json::{Value, json};
use spoke_protocol::limits::{RECONNECT_SPREAD, RECONNECT_WAIT_MIN};
use spoke_tests::{
    api::Api,
    balancer::Balancer,
    checker::{assert_same, expected},
    cloud::{Cloud, IN, admit, out},
    copy_state::cursor,
    device::{self, DEAD, Device, LOST, OUT},
    entries::{Fields, Stored, fields},
    redis::add_all,
    service::{Kind, Service},
    wait::eventually_true,
};
use tokio::task::JoinHandle;

const ROUNDS: usize = 3;
const DEVICES: [(&str, &str); 3] = [("dev1", "ws"), ("dev2", "ws"), ("dev3", "http")];
const POSTERS: [&str; 2] = ["poster1", "poster2"];
const READER: &str = "reader";

/// Adds 500 entries a second to a stream until `stop` is set; every XADD must succeed.
fn load(
    connection: redis::aio::MultiplexedConnection,
    stream: String,
    stop: Arc<AtomicBool>,
) -> JoinHandle<usize> {
    tokio::spawn(async move {
        let mut n = 0;
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        while !stop.load(Ordering::Relaxed) {
            pace.tick().await;
            let part: Vec<Fields> = (n..n + 10).map(|n| fields([("n", n.to_string())])).collect();
            add_all(connection.clone(), &stream, &part).await;
            n += part.len();
        }
        n
    })
}

/// A client of the HTTP API.
struct Program {
    hubs: Api,
    /// Number of connections that ended without an answer.
    broken: usize,
}

impl Program {
    async fn new(cloud: &Cloud, balancer: &Balancer, client: &str) -> Self {
        let hubs = Api::new(balancer.address());
        Self { hubs: hubs.with_token(&admit(&cloud.redis, client).await), broken: 0 }
    }

    /// Repeats a request until it is answered. A hub may answer 503 with a time to wait, and a connection may
    /// break. Returns `None` for a duplicate.
    async fn request(&mut self, method: Method, path: &str, body: Option<&Value>) -> Option<Value> {
        loop {
            let request = self.hubs.request(method.clone(), path);
            let request = body.into_iter().fold(request, |request, body| request.json(body));
            let Ok(answer) = self.hubs.try_call(request).await else {
                self.broken += 1;
                continue;
            };
            match answer.status {
                200 => return Some(answer.json()),
                409 if answer.refusal().1 == "duplicate" => return None,
                _ => assert_eq!(answer.refusal().0, 503, "{answer:?}"),
            }
            let wait = answer.retry_after().expect("a refusal says when to retry");
            tokio::time::sleep(Duration::from_secs(wait)).await;
        }
    }

    /// Posts one entry after the other, each until it is acknowledged.
    fn post(mut self, stop: Arc<AtomicBool>) -> JoinHandle<(u64, usize)> {
        tokio::spawn(async move {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                let entry = json!({ "seq": format!("{n}-0"), "fields": [["n", n.to_string()]] });
                self.request(Method::POST, "/xadd", Some(&entry)).await;
            }
            (n, self.broken)
        })
    }

    /// Reads entries, waiting for more, until `stop` is set and nothing is left.
    fn read(mut self, stop: Arc<AtomicBool>) -> JoinHandle<(Vec<String>, usize)> {
        tokio::spawn(async move {
            let (mut read, mut seq) = (Vec::new(), "0-0".to_owned());
            loop {
                let is_last = stop.load(Ordering::Relaxed);
                let path = format!("/xread?seq={seq}&blockMs=1000");
                let answer = self
                    .request(Method::GET, &path, None)
                    .await
                    .expect("a read is not a duplicate");
                let entries = answer["entries"].as_array().expect("a list of entries");
                read.extend(entries.iter().map(|entry| entry["id"].as_str().unwrap().to_owned()));
                seq = answer["seq"].as_str().unwrap().to_owned();
                if is_last && entries.is_empty() {
                    return (read, self.broken);
                }
            }
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hubs_behind_one_address_restart_in_turn_and_nothing_is_lost_or_duplicated() {
    let mut cloud = Cloud::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut other = Service::start(Kind::Hub, &cloud.redis.url(), &[], folder.path()).await;
    let balancer = Balancer::start(&[cloud.hub.address(), other.address()]).await;
    cloud.hub_proxy.retarget(balancer.address());
    let (stop, read_all) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (mut devices, mut loads) = (Vec::new(), Vec::new());
    for (client, transport) in DEVICES {
        // The out stream is compared at the end.
        let settings = [("transport", transport), ("trim", "keep")];
        let device = Device::start_with(&cloud, client, &settings).await;
        loads.push(load(device.redis.connection(), OUT.to_owned(), stop.clone()));
        loads.push(load(cloud.redis.connection(), out(client), stop.clone()));
        devices.push(device);
    }
    let mut posts = Vec::new();
    for client in POSTERS {
        posts.push(Program::new(&cloud, &balancer, client).await.post(stop.clone()));
    }
    loads.push(load(cloud.redis.connection(), out(READER), stop.clone()));
    let reads = Program::new(&cloud, &balancer, READER).await.read(read_all.clone());

    // Over HTTP no agent is told to reconnect later, so its entries flow during the restarts.
    let over_http = &devices[DEVICES.len() - 1..];
    for _ in 0..ROUNDS {
        wait_for_progress(&cloud, &devices).await;
        for which in 0..2 {
            let hub = if which == 0 { &mut cloud.hub } else { &mut other };
            assert_eq!(hub.terminate().await.code(), Some(0));
            balancer.retarget(which, None);
            wait_for_progress(&cloud, over_http).await;
            let hub = if which == 0 { &mut cloud.hub } else { &mut other };
            hub.restart().await;
            hub.ready().await;
            balancer.retarget(which, Some(hub.address()));
        }
    }
    wait_for_progress(&cloud, &devices).await;

    stop.store(true, Ordering::Relaxed);
    for load in loads {
        assert!(load.await.unwrap() > 500, "the load was large enough");
    }
    for (device, (_, transport)) in devices.iter().zip(DEVICES) {
        device.carried_both_ways(&cloud).await;
        assert_carried(&cloud, device).await;
        assert_handed_over(&cloud, device, transport).await;
    }
    for (post, client) in posts.into_iter().zip(POSTERS) {
        let (posted, broken) = post.await.unwrap();
        let seqs: Vec<_> = cloud.carried(client).await.into_iter().map(|e| e.seq).collect();
        assert_eq!(seqs, (1..=posted).map(|n| format!("{n}-0")).collect::<Vec<_>>());
        assert!(
            broken <= 2 * ROUNDS,
            "{client}: {broken} broken connections, more than one per restart"
        );
    }
    read_all.store(true, Ordering::Relaxed);
    let (read, broken) = reads.await.unwrap();
    let added = cloud.redis.entries(&out(READER)).await.into_iter().map(|entry| entry.id);
    assert_eq!(read, added.collect::<Vec<_>>());
    assert!(
        broken <= 2 * ROUNDS,
        "{READER}: {broken} broken connections, more than one per restart"
    );
    assert_eq!(cloud.redis.length("spoke-hub:lost:x").await, 0);
}

/// Waits until more entries of every device have been carried both ways.
async fn wait_for_progress(cloud: &Cloud, devices: &[Device]) {
    for device in devices {
        let key = format!("spoke-hub:client:{}:h", device.client);
        let carried =
            async || (cursor(&cloud.redis, &key).await, device.redis.length(device::IN).await);
        let before = carried().await;
        eventually_true("more entries to be carried both ways", async || {
            let now = carried().await;
            now.0 != before.0 && now.1 != before.1
        })
        .await;
    }
}

/// Asserts that each copy equals its origin, that the ledgers are empty, and that the flow never paused for
/// longer than the hub's reconnect wait and the agent's own jitter allow.
async fn assert_carried(cloud: &Cloud, device: &Device) {
    let client = &device.client;
    let of_device = expected(&device.redis.entries(OUT).await, Some(1));
    assert_same("up", &of_device, &cloud.carried(client).await);
    let of_cloud = expected(&cloud.redis.entries(&out(client)).await, None);
    assert_same("down", &of_cloud, &device.carried().await);
    assert_eq!((device.redis.length(LOST).await, device.redis.length(DEAD).await), (0, 0));
    let inbound = cloud.redis.entries(IN).await.into_iter();
    let up = longest_gap(inbound.filter(|e| e.text("client").as_ref() == Some(client)));
    let down = longest_gap(device.redis.entries(device::IN).await.into_iter());
    // The agent may have connected to the second hub just as that one was stopped.
    let longest = (RECONNECT_WAIT_MIN + RECONNECT_SPREAD).mul_f64(1.5) + Duration::from_secs(6);
    assert!(up < longest && down < longest, "{client} paused for {up:?} up, {down:?} down");
}

/// The longest time between two arrivals at a copy, by the copy's IDs.
fn longest_gap(entries: impl Iterator<Item = Stored>) -> Duration {
    let ms = |entry: Stored| entry.id.split('-').next().and_then(|ms| ms.parse::<u64>().ok());
    let times: Vec<u64> = entries.filter_map(ms).collect();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    Duration::from_millis(gaps.max().expect("at least two entries arrived"))
}

/// Asserts that the agent was moved by a GOAWAY and by nothing worse, and was not taken for two devices.
async fn assert_handed_over(cloud: &Cloud, device: &Device, transport: &str) {
    let log = device.log();
    let faults: Vec<_> = log.lines().filter(|line| line.contains(r#""reason":""#)).collect();
    let word = |line: &str| Some(line.split(r#""reason":""#).nth(1)?.split('"').next()?.to_owned());
    let words: BTreeSet<_> = faults.iter().filter_map(|line| word(line)).collect();
    // A GOAWAY with a wait is `unavailable`. Over HTTP an agent between two requests gets none.
    assert!(words.contains("unavailable") || transport == "http", "{words:?} {faults:#?}");
    // The agent may have connected to a listener just as it closed, or sent a request on an idle connection
    // just as that was closed; no answer was omitted.
    let harmless: &[&str] = match transport {
        "http" => &["unavailable", "unreachable", "broken", "lost"],
        _ => &["unavailable", "unreachable", "broken"],
    };
    assert!(words.iter().all(|word| harmless.contains(&word.as_str())), "{words:?} {faults:#?}");
    let client = cloud.redis.hash(&format!("spoke-hub:client:{}:h", device.client)).await;
    assert!(!client.contains_key("clones"), "{client:?}");
}
