//! Hub and auth on a Redis Cluster, with all keys of each in one slot: failovers and slots that move.

use std::time::{Duration, Instant};

use spoke_tests::{
    api::Api,
    cloud::{Cloud, OTP_SECRET, Settings, now_ms},
    cluster::{Cluster, NODE_TIMEOUT_MS},
    device::{Device, IN as DEVICE_IN, OUT},
    wait::{PATIENCE, eventually},
};

use super::numbers::{add, wait_for_numbers};

const IN: &str = "{spoke-hub}:in:x";
const DOWN: &str = "{spoke-hub}:out:dev1:x";
const CLIENT: &str = "{spoke-auth}:client:dev1:h";
/// How soon both services are ready after a primary is gone.
const BACK: Duration = Duration::from_millis(NODE_TIMEOUT_MS + 4000);
/// How soon all is carried after that: an agent waits before it comes back.
const RECOVERY: Duration = Duration::from_secs(5);
/// How soon an entry is delivered then: only a hint is as fast.
const LIVE: Duration = Duration::from_millis(400);
/// The default retry settings of a device.
const RETRIES: [(&str, &str); 2] = [("retry_first_ms", "500"), ("retry_longest_ms", "60000")];

struct Fleet {
    cluster: Cluster,
    cloud: Cloud,
    device: Device,
}

impl Fleet {
    /// A cluster with hub, auth and a connected device.
    async fn start() -> Self {
        let cluster = Cluster::start().await;
        let url = cluster.url();
        let settings = Settings {
            hub: &[
                ("redis", &url),
                ("key_prefix", "{spoke-hub}"),
                ("auth_key_prefix", "{spoke-auth}"),
            ],
            auth: &[("redis", &url), ("key_prefix", "{spoke-auth}")],
        };
        let cloud = Cloud::start_with(settings).await;
        let mut device = Device::without_agent(&cloud, "dev1", &RETRIES).await;
        let of_auth = cluster.owner(CLIENT, 0).await.expect("all slots have an owner");
        let deadline = (now_ms() + 3_600_000).to_string();
        let provision = ["HSET", CLIENT, "otpSecret", OTP_SECRET, "regDeadline", &deadline];
        cluster.nodes[of_auth].command::<()>(&provision).await;
        device.start_agent();
        Self { cluster, cloud, device }
    }

    /// The position of the primary of the hub's keys, as the node at `asked` sees it.
    async fn owner(&self, asked: usize) -> usize {
        self.cluster.owner(IN, asked).await.expect("all slots have an owner")
    }

    async fn wait_until_ready(&self, what: &str, left: Duration) {
        let begun = Instant::now();
        let services = [("the hub", self.cloud.hub.admin()), ("auth", self.cloud.auth.admin())];
        for (service, admin) in services {
            let left = left.saturating_sub(begun.elapsed());
            eventually(&format!("{what}: {service} to be ready"), left, async || {
                let answer = admin.get("/readyz").await;
                if answer.status == 200 { Ok(()) } else { Err(answer) }
            })
            .await;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Killed,
    Hung,
    FailedOver,
}

#[tokio::test]
async fn hub_and_auth_follow_the_primary_of_their_slot_and_lose_nothing() {
    for fault in [Fault::Killed, Fault::Hung, Fault::FailedOver] {
        let mut fleet = Fleet::start().await;
        let old = fleet.owner(0).await;
        add(&fleet.device.redis, OUT, (0, 99)).await;
        let what = "the entries before";
        wait_for_numbers(&fleet.cluster.nodes[old], IN, 99, PATIENCE, what).await;
        let replica = fleet.cluster.replica_of(old).await;
        let other = (0..3).find(|at| *at != old).expect("there are three primaries");

        let struck = Instant::now();
        match fault {
            Fault::Killed => fleet.cluster.nodes[old].kill9(),
            Fault::Hung => fleet.cluster.nodes[old].pause(),
            Fault::FailedOver => fleet.cluster.fail_over(replica).await,
        }
        add(&fleet.device.redis, OUT, (100, 199)).await;
        eventually("another node to have the slot", PATIENCE, async || {
            match fleet.cluster.owner(IN, other).await {
                Some(owner) if owner == replica => Ok(()),
                owner => Err(owner),
            }
        })
        .await;
        let promoted = struck.elapsed();
        let what = format!("{fault:?}");
        fleet.wait_until_ready(&what, BACK.saturating_sub(promoted)).await;
        let ready = struck.elapsed();
        let primary = &fleet.cluster.nodes[replica];
        wait_for_numbers(primary, IN, 199, RECOVERY, &format!("{what}: the entries behind")).await;
        println!(
            "{fault:?}: promoted after {promoted:?}, ready after {ready:?}, all carried after {:?}",
            struck.elapsed()
        );
        for n in 0..2 {
            add(primary, DOWN, (n, n)).await;
            wait_for_numbers(&fleet.device.redis, DEVICE_IN, n, LIVE, &format!("{what}: down"))
                .await;
        }
        assert_eq!(primary.length("{spoke-hub}:lost:x").await, 0, "{fault:?}: nothing is lost");
    }
}

#[tokio::test]
async fn while_a_slot_moves_key_by_key_every_script_does_all_or_nothing() {
    let fleet = Fleet::start().await;
    let Fleet { cluster, device, .. } = &fleet;
    let from = fleet.owner(0).await;
    add(&device.redis, OUT, (0, 99)).await;
    wait_for_numbers(&cluster.nodes[from], IN, 99, PATIENCE, "the entries before").await;
    add(&cluster.nodes[from], DOWN, (0, 99)).await;
    wait_for_numbers(&device.redis, DEVICE_IN, 99, PATIENCE, "the entries down before").await;

    let to = (0..3).find(|at| *at != from).expect("there are three primaries");
    let slot = cluster.slot(IN, 0).await;
    let moving = cluster.begin_move(slot, from, to).await;
    let mut next = 100;
    while cluster.move_keys(&moving, 1, Duration::ZERO).await == 1 {
        add(&device.redis, OUT, (next, next + 9)).await;
        next += 10;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    cluster.end_move(moving).await;

    fleet.wait_until_ready("moved", RECOVERY).await;
    let primary = &cluster.nodes[to];
    wait_for_numbers(primary, IN, next - 1, RECOVERY, "the entries behind").await;
    for n in 100..102 {
        add(primary, DOWN, (n, n)).await;
        wait_for_numbers(&device.redis, DEVICE_IN, n, LIVE, "down").await;
    }
    assert_eq!(primary.length("{spoke-hub}:lost:x").await, 0, "nothing is lost");
}

#[tokio::test]
async fn while_auths_slot_moves_a_call_does_all_or_nothing() {
    let fleet = Fleet::start().await;
    let Fleet { cluster, cloud, device } = &fleet;
    add(&device.redis, OUT, (0, 0)).await;
    wait_for_numbers(&cluster.nodes[fleet.owner(0).await], IN, 0, PATIENCE, "the entry").await;
    let auth = cloud.auth.api();
    let from = cluster.owner(CLIENT, 0).await.expect("all slots have an owner");
    let to = (0..3).find(|at| *at != from).expect("there are three primaries");
    let secret = std::fs::read_to_string(device.folder().join("state/secret"));
    let secret = secret.expect("the device has registered");
    let login = serde_json::json!({ "client": "dev1", "secret": secret.trim() });
    let token = log_in(&auth, &login).await.expect("nothing moves yet");

    let slot = cluster.slot(CLIENT, 0).await;
    let moving = cluster.begin_move(slot, from, to).await;
    let mut waited = 0;
    loop {
        // Each has the whole result, or is refused for now.
        match log_in(&auth, &login).await {
            Ok(_) => {}
            Err(status) => {
                assert_eq!(status, 503);
                waited += 1;
            }
        }
        let refreshed = auth.with_token(&token).post("/refresh").await;
        assert!([200, 503].contains(&refreshed.status), "{refreshed:?}");
        if cluster.move_keys(&moving, 1, Duration::ZERO).await == 0 {
            break;
        }
    }
    cluster.end_move(moving).await;
    assert!(waited > 0, "no call met the moving slot");

    fleet.wait_until_ready("moved", RECOVERY).await;
    let primary = &cluster.nodes[to];
    let token = log_in(&auth, &login).await.expect("the slot has moved");
    let listed: Vec<String> =
        primary.command(&["ZRANGE", "{spoke-auth}:client:dev1:sessions:z", "0", "-1"]).await;
    let sessions: Vec<String> = primary.command(&["KEYS", "{spoke-auth}:session:*"]).await;
    let sorted = |mut keys: Vec<String>| {
        keys.sort();
        keys
    };
    assert_eq!(
        sorted(listed),
        sorted(sessions),
        "each session is listed, and each listed one is there"
    );
    let ended = auth.with_token(&token).post("/logout").await;
    assert_eq!(ended.status, 204, "{ended:?}");
}

/// Logs in and returns the token, or the status.
async fn log_in(auth: &Api, login: &serde_json::Value) -> Result<String, u16> {
    let answer = auth.post_json("/login", login).await;
    match answer.status {
        200 => Ok(answer.json()["sessionToken"].as_str().expect("a token").to_owned()),
        status => Err(status),
    }
}
