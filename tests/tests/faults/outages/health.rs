//! Readiness, metrics and the log depend on writes: an outage is logged once when it begins and once when
//! it ends, and however long it lasted, everything works again within five seconds.

use std::time::{Duration, Instant};

use spoke_tests::{
    api::Api,
    cloud::{Cloud, IN, out},
    device::{Device, IN as DEVICE_IN, OUT},
    entries::fields,
    redis::free_port,
    redis_fault::Fault,
    wait::eventually,
};

const RECOVERY: Duration = Duration::from_secs(5);
/// Long enough for the retry delay to grow beyond the longest recovery.
const OUTAGE: Duration = Duration::from_secs(9);
const FAULTS: [(Fault, &str); 4] = [
    (Fault::Full, "OOM"),
    (Fault::Replica, "READONLY"),
    (Fault::NoSnapshot, "MISCONF"),
    (Fault::NoReplicas, "NOREPLICAS"),
];
/// The messages when an outage begins and when it ends.
const MESSAGES: [&str; 2] = ["redis request failed", "redis recovered"];
/// The same for a Redis without free memory.
const MESSAGES_IF_FULL: [&str; 2] =
    ["redis is full and refuses writes", "redis accepts writes again"];

fn lines<'a>(log: &'a str, message: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(&format!("\"{message}\""))).collect()
}

async fn readiness(admin: &Api, status: u16, word: &str) {
    let awaited = format!("{status} from /readyz, with {word:?}");
    eventually(&awaited, RECOVERY, async || {
        let answer = admin.get("/readyz").await;
        let is_expected = answer.status == status && answer.text.contains(word);
        if is_expected { Ok(()) } else { Err(answer) }
    })
    .await;
}

async fn up(admin: &Api, service: &str) -> bool {
    admin.get("/metrics").await.text.contains(&format!("spoke_{service}_redis_up 1\n"))
}

/// Asserts one line at the beginning, with Redis's error code, and one at the end.
fn assert_logged_once(what: &str, log: &str, word: &str) {
    let messages = if word == "OOM" { MESSAGES_IF_FULL } else { MESSAGES };
    let [began, ended] = messages.map(|message| lines(log, message));
    assert_eq!((began.len(), ended.len()), (1, 1), "{what}: {began:#?} {ended:#?}");
    assert!(began[0].contains(word), "{what}: {began:?}");
    assert!(ended[0].contains("down_for") && ended[0].contains("count"), "{what}: {ended:?}");
}

async fn carries_both_ways(what: &str, cloud: &Cloud, device: &Device) {
    let begun = Instant::now();
    for (redis, stream) in [(&cloud.redis, IN), (&device.redis, DEVICE_IN)] {
        let left = RECOVERY.saturating_sub(begun.elapsed());
        eventually(&format!("{what}: two entries in {stream}"), left, async || {
            match redis.length(stream).await {
                2 => Ok(()),
                length => Err(length),
            }
        })
        .await;
    }
}

async fn begin() -> (Cloud, Device) {
    let cloud = Cloud::start().await;
    let admin = format!("127.0.0.1:{}", free_port());
    let own = [("retry_first_ms", "500"), ("retry_longest_ms", "60000"), ("admin_listen", &*admin)];
    let device = Device::start_with(&cloud, "dev1", &own).await;
    device.redis.add(OUT, &fields([("n", "1")])).await;
    cloud.redis.add(&out("dev1"), &fields([("n", "1")])).await;
    device.carried_both_ways(&cloud).await;
    (cloud, device)
}

#[tokio::test]
async fn a_cloud_redis_that_refuses_writes_is_reported_and_all_is_carried_soon_after() {
    for (fault, word) in FAULTS {
        let (mut cloud, device) = begin().await;
        let what = format!("{fault:?}");
        let (hub, auth) = (cloud.hub.admin(), cloud.auth.admin());
        // Before the outage, since a full Redis refuses an app's entry too.
        cloud.hub_proxy.cut();
        cloud.redis.add(&out("dev1"), &fields([("n", "2")])).await;
        fault.begin(&mut cloud.redis).await;
        device.redis.add(OUT, &fields([("n", "2")])).await;

        readiness(&hub, 503, word).await;
        readiness(&auth, 503, word).await;
        assert!(!up(&hub, "hub").await && !up(&auth, "auth").await, "{what}");
        tokio::time::sleep(OUTAGE).await;
        readiness(&hub, 503, word).await;
        fault.end(&mut cloud.redis).await;

        carries_both_ways(&what, &cloud, &device).await;
        readiness(&hub, 200, "ok").await;
        readiness(&auth, 200, "ok").await;
        assert!(up(&hub, "hub").await && up(&auth, "auth").await, "{what}");
        assert_logged_once(&format!("hub, {what}"), &cloud.hub.log(), word);
        assert_logged_once(&format!("auth, {what}"), &cloud.auth.log(), word);
    }
}

#[tokio::test]
async fn a_devices_redis_that_refuses_writes_is_reported_and_all_is_carried_soon_after() {
    for (fault, word) in FAULTS {
        let (cloud, mut device) = begin().await;
        let what = format!("{fault:?}");
        let admin = device.admin();
        cloud.hub_proxy.cut();
        device.redis.add(OUT, &fields([("n", "2")])).await;
        fault.begin(&mut device.redis).await;
        cloud.redis.add(&out("dev1"), &fields([("n", "2")])).await;

        readiness(&admin, 503, word).await;
        assert!(!up(&admin, "agent").await, "{what}");
        tokio::time::sleep(OUTAGE).await;
        readiness(&admin, 503, word).await;
        fault.end(&mut device.redis).await;

        carries_both_ways(&what, &cloud, &device).await;
        readiness(&admin, 200, "ok").await;
        assert!(up(&admin, "agent").await, "{what}");
        assert_logged_once(&what, &device.log(), word);
    }
}
