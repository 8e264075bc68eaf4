//! A key that another application has overwritten with another type: one direction stops, reports it, and
//! continues automatically once the key is repaired; the other direction and other clients do not notice.

use std::time::{Duration, Instant};

use spoke_protocol::Seq;
use spoke_tests::{
    binaries::path_of,
    cloud::{Cloud, IN as CLOUD_IN, out},
    device::{Device, IN, OUT},
    entries::Stored,
    process::{Start, run},
    redis::{RedisServer, free_port},
    wait::{eventually_true, throughout},
};

use crate::recovery::{TRANSPORTS, add_down, add_up};

/// The longest time from the end of the fault until everything is carried.
const PROMISED: Duration = Duration::from_secs(5);

async fn replace_with_string(redis: &RedisServer, key: &str) {
    redis.command::<()>(&["RENAME", key, "elsewhere"]).await;
    redis.command::<()>(&["SET", key, "another application's"]).await;
}

async fn restore_stream(redis: &RedisServer, key: &str) {
    redis.command::<()>(&["RENAME", "elsewhere", key]).await;
}

/// Both ends hold some entries each way, and the agent has an admin listener.
async fn in_step(transport: &str) -> (Cloud, Device, Vec<Stored>, Vec<Stored>) {
    let cloud = Cloud::start().await;
    let admin = format!("127.0.0.1:{}", free_port());
    let settings = [("transport", transport), ("admin_listen", &admin)];
    let device = Device::start_with(&cloud, "dev1", &settings).await;
    let up = add_up(&device, "before", 10).await;
    let down = add_down(&cloud, &device, "before", 10).await;
    device.carried_both_ways(&cloud).await;
    (cloud, device, up, down)
}

async fn status(device: &Device) -> String {
    device.command(&["status"]).await.stdout
}

/// Returns whether a line names_key this key, its type and the expected type.
fn names_key(log: &str, key: &str) -> bool {
    let words = format!("wrong type of the redis key {key}: expected a stream, found a string");
    log.lines().any(|line| line.contains(&words))
}

#[tokio::test]
async fn an_out_stream_of_the_wrong_type_stops_only_its_direction_until_it_is_repaired() {
    for transport in TRANSPORTS {
        let (cloud, device, mut up, mut down) = in_step(transport).await;
        let sessions = || cloud.hub.log().matches("session started").count();
        let before = sessions();
        for redis in [&device.redis, &cloud.redis] {
            let is_device = std::ptr::eq(redis, &device.redis);
            let key = if is_device { OUT.to_owned() } else { out("dev1") };
            replace_with_string(redis, &key).await;
            // The other direction continues.
            if is_device {
                down.extend(add_down(&cloud, &device, "during the fault", 10).await);
            } else {
                up.extend(add_up(&device, "during the fault", 10).await);
            }
            let (carried_up, carried_down) = (up.len(), down.len());
            eventually_true("the other direction to continue", async || {
                cloud.carried("dev1").await.len() == carried_up
                    && device.carried().await.len() == carried_down
            })
            .await;
            eventually_true("the key to be named", async || {
                let log = if is_device { device.log() } else { cloud.hub.log() };
                names_key(&log, &key)
            })
            .await;
            if is_device {
                eventually_true("status to show it", async || {
                    let status = status(&device).await;
                    status.contains("stopped") && status.contains(OUT)
                })
                .await;
            }
            restore_stream(redis, &key).await;
            let begun = Instant::now();
            if is_device {
                up.extend(add_up(&device, "afterwards", 10).await);
            } else {
                down.extend(add_down(&cloud, &device, "afterwards", 10).await);
            }
            device.carried_both_ways(&cloud).await;
            assert!(begun.elapsed() < PROMISED, "{:?}", begun.elapsed());
        }
        // Each fault costs at most one session when it begins and one when it ends. Over HTTP the hub can
        // report it only by ending the session.
        assert!(
            transport == "http" || sessions() <= before + 4,
            "{transport}: {} sessions",
            sessions() - before
        );
        crate::recovery::assert_all_carried(&cloud, &device).await;
        let status = status(&device).await;
        assert!(!status.contains("stopped"), "{status}");
    }
}

#[tokio::test]
async fn an_in_stream_of_the_wrong_type_or_without_ids_left_stops_only_its_direction() {
    for (transport, is_exhausted) in [("ws", false), ("ws", true), ("http", false)] {
        let (cloud, device, mut up, mut down) = in_step(transport).await;
        for redis in [&device.redis, &cloud.redis] {
            let is_device = std::ptr::eq(redis, &device.redis);
            let key = if is_device { IN } else { CLOUD_IN };
            let last = Seq::MAX.to_string();
            if is_exhausted {
                redis.command::<String>(&["XADD", key, &last, "not", "ours"]).await;
            } else {
                replace_with_string(redis, key).await;
            }
            up.extend(add_up(&device, "during the fault", 10).await);
            down.extend(add_down(&cloud, &device, "during the fault", 10).await);
            let has_continued = async || match is_device {
                true => cloud.carried("dev1").await.len() == up.len(),
                false => device.carried().await.len() == down.len(),
            };
            eventually_true("the other direction to continue", has_continued).await;
            let is_named = async || {
                let log = if is_device { device.log() } else { cloud.hub.log() };
                if is_exhausted {
                    log.contains(key) && log.contains("highest possible ID")
                } else {
                    names_key(&log, key)
                }
            };
            eventually_true("the key to be named", is_named).await;
            let shown = async || {
                let status = status(&device).await;
                let why = if is_device { key } else { "reported by the hub" };
                status.contains("stopped") && status.contains(why)
            };
            eventually_true("status to show it", shown).await;
            let sessions = cloud.hub.log().matches("session started").count();
            throughout("one session", Duration::from_secs(3), sessions, async || {
                cloud.hub.log().matches("session started").count()
            })
            .await;
            if is_exhausted {
                redis.command::<u64>(&["XDEL", key, &last]).await;
                let left: Vec<Stored> = redis.entries(key).await;
                let id = left.last().expect("it has entries").id.clone();
                redis.command::<()>(&["XSETID", key, &id]).await;
            } else {
                restore_stream(redis, key).await;
            }
            let begun = Instant::now();
            device.carried_both_ways(&cloud).await;
            assert!(begun.elapsed() < PROMISED, "{:?}", begun.elapsed());
            eventually_true("status not to show it any more", async || {
                !status(&device).await.contains("stopped")
            })
            .await;
        }
        crate::recovery::assert_all_carried(&cloud, &device).await;
    }
}

/// Only an entry that must be dead-lettered reveals that the dead-letter key cannot be used.
#[tokio::test]
async fn a_dead_letter_key_of_the_wrong_type_stops_one_direction_in_one_session() {
    let (cloud, device, mut up, _) = in_step("ws").await;
    cloud.redis.command::<()>(&["SET", "spoke-hub:dead:x", "another application's"]).await;
    let poison = [spoke_tests::entries::fields([("seq", "mine")])];
    cloud.redis.add_all(&out("dev1"), &poison).await;
    add_down(&cloud, &device, "afterwards", 10).await;
    eventually_true("the key to be named", async || {
        names_key(&cloud.hub.log(), "spoke-hub:dead:x")
    })
    .await;
    let sessions = || cloud.hub.log().matches("session started").count();
    let before = sessions();
    up.extend(add_up(&device, "during the fault", 10).await);
    throughout("one session", Duration::from_secs(6), before, async || sessions()).await;
    assert_eq!(cloud.carried("dev1").await.len(), up.len());
    cloud.redis.command::<u64>(&["DEL", "spoke-hub:dead:x"]).await;
    let begun = Instant::now();
    eventually_true("all but the poison", async || device.carried().await.len() == 20).await;
    assert!(begun.elapsed() < PROMISED, "{:?}", begun.elapsed());
    assert_eq!(cloud.redis.length("spoke-hub:dead:x").await, 1);
}

#[tokio::test]
async fn over_http_too_a_devices_in_stream_of_the_wrong_type_stops_only_its_direction() {
    let (cloud, device, ..) = in_step("http").await;
    replace_with_string(&device.redis, IN).await;
    let down = add_down(&cloud, &device, "during the fault", 500).await;
    let up = add_up(&device, "during the fault", 10).await;
    eventually_true("entries up to be carried", async || {
        cloud.carried("dev1").await.len() == 10 + up.len()
    })
    .await;
    eventually_true("the key to be named", async || names_key(&device.log(), IN)).await;
    restore_stream(&device.redis, IN).await;
    let begun = Instant::now();
    eventually_true("all entries down", async || device.carried().await.len() == 10 + down.len())
        .await;
    assert!(begun.elapsed() < PROMISED, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_client_whose_out_stream_has_the_wrong_type_connects_sends_and_is_listed() {
    let cloud = Cloud::start().await;
    cloud.redis.command::<()>(&["SET", &out("dev1"), "another application's"]).await;
    let device = Device::start(&cloud, "dev1").await;
    let up = add_up(&device, "first", 10).await;
    eventually_true("its entries to be carried", async || {
        cloud.carried("dev1").await.len() == up.len()
    })
    .await;
    let mut start = Start::with(&["clients"]);
    start.environment = cloud.hub.environment().to_vec();
    let clients = run(&path_of("spoke-hub"), &start).await.done().stdout;
    assert!(clients.contains("key of its out stream has another type"), "{clients}");
    cloud.redis.command::<u64>(&["DEL", &out("dev1")]).await;
    add_down(&cloud, &device, "then", 10).await;
    crate::recovery::assert_all_carried(&cloud, &device).await;
}
