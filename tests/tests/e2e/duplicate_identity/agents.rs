//! Two real agents with one identity.

use std::collections::BTreeMap;

use redis::cmd;
use spoke_tests::{
    checker::{Carried, assert_same, expected},
    cloud::{Cloud, now_ms},
    copy_state,
    device::{Device, IN, OUT, STATE},
    entries::{Fields, Stored, fields},
    redis::free_port,
    wait::{PATIENCE, eventually, eventually_true},
};

use crate::duplicate_identity::CLIENT;

const TRANSPORTS: [&str; 2] = ["ws", "http"];

fn entry(owner: &str, n: usize) -> Fields {
    fields([("owner", owner.to_owned()), ("n", n.to_string())])
}

async fn add(device: &Device, owner: &str, count: usize) -> Vec<Stored> {
    let entries: Vec<_> = (0..count).map(|n| entry(owner, n)).collect();
    device.redis.add_all(OUT, &entries).await
}

/// Starts a device whose agent has an admin listener for `status`.
async fn device(cloud: &Cloud, transport: &str) -> Device {
    let admin = format!("127.0.0.1:{}", free_port());
    let settings = [("transport", transport), ("admin_listen", &admin)];
    Device::start_with(cloud, "dev1", &settings).await
}

async fn clone_of(cloud: &Cloud, original: &Device, transport: &str) -> Device {
    let admin = format!("127.0.0.1:{}", free_port());
    let settings = [("transport", transport), ("admin_listen", admin.as_str())];
    Device::clone_of(cloud, original, &settings).await
}

async fn client_field(cloud: &Cloud, field: &str) -> String {
    cloud.redis.hash(CLIENT).await.get(field).cloned().unwrap_or_default()
}

async fn wait_for_refusals(cloud: &Cloud, times: u64) {
    eventually("one of the devices to be refused", PATIENCE, async || {
        let clones = client_field(cloud, "clones").await;
        if clones.parse::<u64>().is_ok_and(|clones| clones >= times) { Ok(()) } else { Err(clones) }
    })
    .await;
}

fn owner(entry: &Carried) -> String {
    String::from_utf8(entry.fields[0].1.clone()).unwrap()
}

/// Waits until the hub holds this many entries of one device. Seqs alone do not distinguish the devices.
async fn carried_of(cloud: &Cloud, name: &str, count: usize) {
    let awaited = format!("{count} entries of the {name}");
    eventually(&awaited, PATIENCE, async || {
        let carried = cloud.carried("dev1").await;
        let own = carried.iter().filter(|entry| owner(entry) == name).count();
        if own >= count { Ok(()) } else { Err(own) }
    })
    .await;
}

/// Asserts that each epoch has entries of one device only, and that the hub holds all entries of each device,
/// once and in order.
fn assert_separated(carried: &[Carried], devices: &[(&str, &[Stored])]) {
    let mut owners: BTreeMap<u64, String> = BTreeMap::new();
    for entry in carried {
        let first = owners.entry(entry.epoch.unwrap()).or_insert_with(|| owner(entry));
        assert_eq!(*first, owner(entry), "one epoch holds entries of both devices");
    }
    for (name, added) in devices {
        let own = carried.iter().filter(|entry| owner(entry) == *name);
        let own: Vec<_> = own.map(|entry| Carried { epoch: None, ..entry.clone() }).collect();
        assert_same(name, &expected(added, None), &own);
    }
}

fn lines<'a>(log: &'a str, words: &[&str]) -> Vec<&'a str> {
    log.lines().filter(|line| words.iter().all(|word| line.contains(word))).collect()
}

#[tokio::test]
async fn when_two_devices_share_an_identity_one_stays_and_the_other_says_why_it_waits() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let original = device(&cloud, transport).await;
        let mut of_original = add(&original, "original", 20).await;
        original.carried_both_ways(&cloud).await;
        let mut clone = clone_of(&cloud, &original, transport).await;
        let mut of_clone = add(&clone, "clone", 20).await;
        clone.start_agent();

        wait_for_refusals(&cloud, 1).await;
        let generation = client_field(&cloud, "generation").await;
        wait_for_refusals(&cloud, 4).await;

        assert_eq!(
            client_field(&cloud, "generation").await,
            generation,
            "the connected session was not replaced"
        );
        let warnings = lines(&cloud.hub.log(), &["WARN", "two devices share one identity"]).len();
        assert_eq!(warnings, 1, "the hub warns once");
        let log = original.log();
        let warnings = lines(&log, &["WARN", r#""reason":"clone""#]);
        assert_eq!(warnings.len(), 1, "the agent warns once: {warnings:?}");
        let addresses = [client_field(&cloud, "address").await, "revoke dev1".to_owned()];
        assert!(addresses.iter().all(|word| warnings[0].contains(word.as_str())), "{warnings:?}");
        let status = original.command(&["status", "--json"]).await.json();
        assert_eq!(status["agent"]["why"]["cause"], "clone", "{status}");
        let text = original.command(&["status"]).await.stdout;
        let plain = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(plain.contains("two devices share the identity dev1"), "{text}");
        assert!(plain.contains("enrol one of them again"), "{text}");

        of_clone.extend(add(&clone, "clone", 10).await);
        of_original.extend(add(&original, "original", 10).await);
        carried_of(&cloud, "clone", of_clone.len()).await;
        clone.stop_agent().await;
        if transport == "http" {
            // As if a minute and a half had passed: over HTTP no connection shows the session's end.
            copy_state::forget_time(&cloud.redis, CLIENT).await;
            cloud.redis.command::<()>(&["HSET", CLIENT, "last_seen", "0"]).await;
        }
        carried_of(&cloud, "original", of_original.len()).await;
        let both = [("original", &of_original[..]), ("clone", &of_clone[..])];
        assert_separated(&cloud.carried("dev1").await, &both);
    }
}

#[tokio::test]
async fn a_clone_with_its_own_stream_gets_a_new_epoch_and_no_entry_is_a_duplicate() {
    let cloud = Cloud::start().await;
    let mut original = device(&cloud, "ws").await;
    let of_original = add(&original, "original", 30).await;
    original.carried_both_ways(&cloud).await;
    original.stop_agent().await;
    let mut clone = clone_of(&cloud, &original, "ws").await;
    // The clone's entries have the same IDs as the original's.
    let mut of_clone = Vec::new();
    for (n, Stored { id, .. }) in of_original.iter().enumerate() {
        clone.redis.add_as(OUT, id, &entry("clone", n)).await;
        of_clone.push(Stored { id: id.clone(), fields: entry("clone", n) });
    }

    clone.start_agent();

    carried_of(&cloud, "clone", of_clone.len()).await;
    let both = [("original", &of_original[..]), ("clone", &of_clone[..])];
    assert_separated(&cloud.carried("dev1").await, &both);
    assert_eq!(
        client_field(&cloud, "clones").await,
        "",
        "the devices were never connected at the same time"
    );
}

#[tokio::test]
async fn a_clone_with_a_copied_stream_gets_a_new_epoch_once_the_streams_diverge() {
    let cloud = Cloud::start().await;
    let mut original = device(&cloud, "ws").await;
    let mut of_original = add(&original, "original", 10).await;
    original.acknowledged_both_ways(&cloud).await;
    original.stop_agent().await;
    let mut clone = clone_of(&cloud, &original, "ws").await;
    copy_redis(&original, &clone).await;
    // Some IDs of the clone are below the cursor that the original leaves, some above it.
    let mut of_clone = add(&clone, "clone", 10).await;
    wait_past(&of_clone).await;
    original.start_agent();
    of_original.extend(add(&original, "original", 10).await);
    wait_past(&of_original).await;
    original.acknowledged_both_ways(&cloud).await;
    original.stop_agent().await;
    of_clone.extend(add(&clone, "clone", 10).await);

    clone.start_agent();

    carried_of(&cloud, "clone", of_clone.len()).await;
    let both = [("original", &of_original[..]), ("clone", &of_clone[..])];
    assert_separated(&cloud.carried("dev1").await, &both);
}

#[tokio::test]
async fn a_restarted_agent_with_a_half_open_old_session_is_not_a_clone() {
    let cloud = Cloud::start().await;
    let mut device = device(&cloud, "ws").await;
    for _ in 0..3 {
        add(&device, "original", 5).await;
        device.carried_both_ways(&cloud).await;
        // The hub does not see that the agent is gone.
        cloud.hub_proxy.strand();
        device.kill_agent();
        device.start_agent();
    }
    let last = add(&device, "original", 5).await;
    device.carried_both_ways(&cloud).await;
    assert_eq!(cloud.carried("dev1").await.last().unwrap().seq, last.last().unwrap().id);
    assert_eq!(client_field(&cloud, "clones").await, "");
    assert_eq!(lines(&device.log(), &["WARN", "superseded"]).len(), 0, "{}", device.log());
}

#[tokio::test]
async fn an_agent_that_reconnects_from_a_new_address_is_not_a_clone() {
    let cloud = Cloud::start().await;
    let device = device(&cloud, "ws").await;
    for _ in 0..5 {
        add(&device, "original", 5).await;
        device.carried_both_ways(&cloud).await;
        cloud.hub_proxy.strand();
    }
    add(&device, "original", 5).await;
    device.carried_both_ways(&cloud).await;
    assert_eq!(client_field(&cloud, "former").await, "");
    assert_eq!(client_field(&cloud, "clones").await, "");
    assert_eq!(lines(&device.log(), &["WARN", "superseded"]).len(), 0, "{}", device.log());
}

/// Waits until the millisecond of the last entry is over, so that no other entry gets the same ID.
async fn wait_past(added: &[Stored]) {
    let ms = added.last().and_then(|last| last.id.split('-').next()?.parse().ok()).unwrap();
    eventually_true("the next millisecond", async || now_ms() > ms).await;
}

async fn copy_redis(from: &Device, to: &Device) {
    for key in [OUT, STATE, IN] {
        let dump: Option<Vec<u8>> = from.redis.query(cmd("DUMP").arg(key)).await;
        if let Some(dump) = dump {
            to.redis.query::<()>(cmd("RESTORE").arg(key).arg(0).arg(dump)).await;
        }
    }
}
