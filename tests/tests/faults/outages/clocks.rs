//! Clocks that are wrong or jump, at either end, forwards and backwards.

use spoke_tests::{
    checker::{assert_same, expected},
    clock::Clock,
    cloud::{Cloud, IN, now_ms},
    device::{Device, LOST, OUT},
    entries::Stored,
    redis::{RedisServer, ShippedConf, free_port},
    wait::{PATIENCE, eventually, eventually_is, eventually_true},
};

use crate::outages::{add_down, add_up};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// A device whose Redis and agent use this clock; the agent is not started yet.
async fn device_with_clock(cloud: &Cloud, clock: &Clock) -> Device {
    let mut device = Device::without_agent(cloud, "dev1", &[]).await;
    device.redis = RedisServer::start_at(ShippedConf::Device, clock).await;
    device.set("redis", &device.redis.url());
    for (name, value) in clock.variables() {
        device.set_variable(&name, &value);
    }
    device
}

/// The entries that were added so far, each way.
#[derive(Default)]
struct Added {
    up: Vec<Stored>,
    down: Vec<Stored>,
}

impl Added {
    async fn add(&mut self, cloud: &Cloud, device: &Device, name: &str) {
        self.up.extend(add_up(device, name, 100).await);
        self.down.extend(add_down(cloud, device, name, 100).await);
    }

    /// Asserts exactly once, in order, in the first epoch, and nothing in the ledgers.
    async fn assert_carried(&self, cloud: &Cloud, device: &Device) {
        device.carried_both_ways(cloud).await;
        assert_same("up", &expected(&self.up, Some(1)), &cloud.carried("dev1").await);
        assert_same("down", &expected(&self.down, None), &device.carried().await);
        assert_eq!(device.redis.length(LOST).await, 0);
        assert_eq!(cloud.redis.length(spoke_tests::cloud::LOST).await, 0);
    }
}

#[tokio::test]
async fn a_device_with_a_wrong_clock_registers_with_the_time_from_auth() {
    // An hour either way, and twenty years behind, like a clock without a battery.
    for seconds in [-HOUR, HOUR, -20 * 365 * DAY] {
        let cloud = Cloud::start().await;
        let clock = Clock::ahead(seconds);
        let mut device = device_with_clock(&cloud, &clock).await;
        device.start_agent();
        let mut added = Added::default();
        added.add(&cloud, &device, "with a wrong clock").await;
        added.assert_carried(&cloud, &device).await;
        // The first try is refused with auth's time, and the second succeeds.
        let log = device.log();
        let tries = log.matches("\"step\":\"Register").count();
        assert_eq!(tries, 2, "{seconds} s ahead: {log}");
    }
}

#[tokio::test]
async fn a_device_whose_clock_jumps_loses_and_duplicates_nothing() {
    let cloud = Cloud::start().await;
    let clock = Clock::ahead(0);
    let mut device = device_with_clock(&cloud, &clock).await;
    device.start_agent();
    let mut added = Added::default();
    added.add(&cloud, &device, "at first").await;
    for seconds in [HOUR, -HOUR, 23 * HOUR, -400 * DAY, 0] {
        clock.set(seconds);
        added.add(&cloud, &device, &format!("{seconds} s ahead")).await;
        cloud.hub_proxy.cut();
        added.add(&cloud, &device, "after a cut").await;
        added.assert_carried(&cloud, &device).await;
        device.start_agent();
        added.add(&cloud, &device, "after a restart").await;
        added.assert_carried(&cloud, &device).await;
    }
    let ids: Vec<spoke_protocol::Seq> =
        device.redis.entries(OUT).await.iter().map(|entry| entry.id.parse().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "Redis generates no ID twice, whatever its clock says");
    let hours_ms = 22 * 3_600_000;
    assert!(ids.last().unwrap().ms > now_ms() + hours_ms, "the clock did not jump");
}

#[tokio::test]
async fn entries_dated_more_than_a_day_ahead_are_held_back_reported_and_not_lost() {
    let cloud = Cloud::start().await;
    let clock = Clock::ahead(0);
    let mut device = device_with_clock(&cloud, &clock).await;
    device.set("admin_listen", &format!("127.0.0.1:{}", free_port()));
    device.start_agent();
    let mut added = Added::default();
    added.add(&cloud, &device, "at first").await;
    added.assert_carried(&cloud, &device).await;
    let before = device.redis.length(OUT).await;

    let last = device.redis.entries(OUT).await.pop().map(|entry| entry.id);
    eventually_is("the acknowledgement to be stored", last, async || {
        device.redis.hash("spoke-agent:state:h").await.get("out_acked").cloned()
    })
    .await;

    clock.set(400 * DAY);
    added.add(&cloud, &device, "far ahead").await;
    let status = async || device.command(&["status"]).await.stdout;
    eventually("status to report it", PATIENCE, async || {
        let shown = status().await;
        if shown.contains("held back") { Ok(()) } else { Err(shown) }
    })
    .await;
    assert!(device.log().contains("entries held back"), "{}", device.log());
    assert_eq!(cloud.redis.length(IN).await, before, "a held-back entry is at the hub");
    eventually_true("entries down to arrive nevertheless", async || {
        device.redis.length(spoke_tests::device::IN).await == added.down.len()
    })
    .await;

    // The fix that docs/troubleshooting.md gives.
    clock.set(0);
    device.stop_agent().await;
    let (state, renumber) = ("spoke-agent:state:h", RENUMBER);
    let moved: usize = device.redis.command(&["EVAL", renumber, "2", OUT, state]).await;
    assert_eq!(moved, device.redis.length(OUT).await);
    device.start_agent();
    eventually_is("all entries to be at the hub", before + moved, async || {
        cloud.redis.length(IN).await
    })
    .await;
    let copied = cloud.redis.entries(IN).await;
    let texts: std::collections::HashSet<_> =
        copied.iter().map(|entry| format!("{:?}", &entry.fields[3..])).collect();
    assert_eq!(texts.len(), copied.len(), "an entry arrived twice");
}

/// The script in docs/troubleshooting.md.
const RENUMBER: &str = "local acked = redis.call('HGET', KEYS[2], 'out_acked') or '0-0' \
    local kept = redis.call('XRANGE', KEYS[1], '(' .. acked, '+') redis.call('DEL', KEYS[1]) \
    for _, entry in ipairs(kept) do redis.call('XADD', KEYS[1], '*', unpack(entry[2])) end \
    return #kept";

#[tokio::test]
async fn a_cloud_whose_clock_jumps_loses_and_duplicates_nothing() {
    let clock = Clock::ahead(0);
    let cloud = Cloud::start_at(&clock).await;
    let mut device = Device::start(&cloud, "dev1").await;
    let mut added = Added::default();
    added.add(&cloud, &device, "at first").await;
    added.assert_carried(&cloud, &device).await;
    // Two days ahead, all sessions have expired; an hour behind, they last longer. More than a day
    // behind, the hub would hold entries back.
    for seconds in [-HOUR, HOUR, 2 * DAY, -23 * HOUR, 0] {
        clock.set(seconds);
        cloud.hub_proxy.cut();
        added.add(&cloud, &device, &format!("{seconds} s ahead")).await;
        added.assert_carried(&cloud, &device).await;
        device.start_agent();
        added.add(&cloud, &device, "after a restart").await;
        added.assert_carried(&cloud, &device).await;
    }
}

#[tokio::test]
async fn a_session_that_a_jump_of_the_clouds_clock_ended_is_replaced_automatically() {
    let clock = Clock::ahead(0);
    let cloud = Cloud::start_at(&clock).await;
    let device = Device::start(&cloud, "dev1").await;
    let mut added = Added::default();
    added.add(&cloud, &device, "at first").await;
    added.assert_carried(&cloud, &device).await;
    let session =
        async || cloud.redis.command::<Vec<String>>(&["KEYS", "spoke-auth:session:*"]).await;
    let before = session().await;
    assert_eq!(before.len(), 1);

    clock.set(2 * DAY);

    eventually_true("the session to be replaced by another", async || {
        let now = session().await;
        now.len() == 1 && now != before
    })
    .await;
    added.add(&cloud, &device, "in the new session").await;
    added.assert_carried(&cloud, &device).await;
}

#[tokio::test]
async fn a_device_registers_with_a_cloud_whose_clock_is_wrong() {
    for seconds in [-HOUR, HOUR] {
        let clock = Clock::ahead(seconds);
        let cloud = Cloud::start_at(&clock).await;
        let device = Device::start(&cloud, "dev1").await;
        let mut added = Added::default();
        added.add(&cloud, &device, "with a wrong clock").await;
        added.assert_carried(&cloud, &device).await;
    }
}
