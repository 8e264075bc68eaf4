//! `spoke-hub clients`, `tail`, `send`.

use serde_json::json;
use spoke_tests::{
    binaries::path_of,
    cloud::{Cloud, out},
    device::{Device, OUT},
    entries::{fields, numbered},
    process::{Finished, Process, Start, run},
    process_usage::resident_bytes_max,
    wait::{PATIENCE, eventually, eventually_is},
};

async fn command(cloud: &Cloud, arguments: &[&str]) -> Finished {
    run(&path_of("spoke-hub"), &start(cloud, arguments)).await
}

fn start(cloud: &Cloud, arguments: &[&str]) -> Start {
    let mut start = Start::with(arguments);
    start.environment = cloud.hub.environment().to_vec();
    start
}

#[tokio::test]
async fn clients_shows_which_clients_are_connected_and_their_progress() {
    let cloud = Cloud::start().await;
    assert_eq!(command(&cloud, &["clients", "--json"]).await.done().json(), json!([]));
    let mut device = Device::start(&cloud, "dev1").await;
    device.redis.add_all(OUT, &[numbered(1), numbered(2)]).await;
    device.carried_both_ways(&cloud).await;

    let rows = command(&cloud, &["clients", "--json"]).await.done().json();

    let row = &rows[0];
    assert_eq!((rows.as_array().unwrap().len(), &row["client"]), (1, &json!("dev1")), "{rows}");
    assert!(row["connectedSince"].is_u64(), "{row}");
    assert_eq!(row["version"], env!("CARGO_PKG_VERSION"), "{row}");
    assert_eq!(row["in"]["received"], 2, "{row}");
    assert_eq!(row["out"]["isCaughtUp"], true, "{row}");
    let text = command(&cloud, &["clients"]).await.done().stdout;
    assert!(text.contains("dev1"), "{text}");
    device.stop_agent().await;
    cloud.redis.add(&out("dev1"), &numbered(3)).await;
    eventually("the client to be shown as disconnected", PATIENCE, async || {
        let rows = command(&cloud, &["clients", "--json"]).await.done().json();
        let is_gone = rows[0]["connectedSince"].is_null();
        if is_gone && rows[0]["out"]["isCaughtUp"] == false { Ok(()) } else { Err(rows) }
    })
    .await;
}

#[tokio::test]
async fn clients_watch_shows_clients_as_they_connect_until_ctrl_c() {
    let cloud = Cloud::start().await;
    let log = cloud.folder().join("watched");
    let watch = start(&cloud, &["clients", "--watch"]);
    let mut watching = Process::start(&path_of("spoke-hub"), &watch, &log);
    for (client, words) in [(None, "no clients yet"), (Some("dev1"), "1 connected")] {
        let _device = match client {
            Some(client) => Some(Device::start(&cloud, client).await),
            None => None,
        };
        eventually("the clients to be shown", PATIENCE, async || {
            let shown = watching.log();
            if shown.contains(words) { Ok(()) } else { Err(shown) }
        })
        .await;
    }
    watching.interrupt();
    assert_eq!(watching.exited().await.code(), Some(0), "{}", watching.log());
}

#[tokio::test]
async fn clients_shows_the_backlog_both_ways_and_filters_by_part_of_a_name() {
    let cloud = Cloud::start().await;
    let mut device = Device::start(&cloud, "dev1").await;
    device.redis.add(OUT, &numbered(1)).await;
    device.carried_both_ways(&cloud).await;
    device.stop_agent().await;
    cloud.redis.add_all(&out("dev1"), &[numbered(2), numbered(3)]).await;
    device.redis.add_all(OUT, &[numbered(4), numbered(5)]).await;
    // The device reports two more entries, and its link breaks before it can send them.
    let hello = json!({ "version": "1", "cursor": { "epoch": 0, "seq": "0-0" }, "origin":
        { "epoch": 1, "start": "0-0", "first": "1-0", "last": "9999999999999-0", "added": 3, "acked": "0-0" } });
    cloud.client("dev1").await.post_json("/session", &hello).await.ok();

    let rows = command(&cloud, &["clients", "ev1", "--json"]).await.done().json();

    let row = &rows[0];
    assert_eq!((&row["in"]["waiting"], &row["out"]["waiting"]), (&json!(2), &json!(2)), "{row}");
    assert!(row["out"]["oldest"].is_u64() && row["in"]["at"].is_u64(), "{row}");
    assert_eq!(command(&cloud, &["clients", "dev2", "--json"]).await.done().json(), json!([]));
}

#[tokio::test]
async fn tail_prints_entries_of_all_clients_or_of_one_as_they_arrive() {
    let cloud = Cloud::start().await;
    let (dev1, dev2) = (cloud.client("dev1").await, cloud.client("dev2").await);
    let post = async |api: &spoke_tests::api::Api, seq: &str, payload: &str| {
        let body = json!({ "seq": seq, "fields": [["topic", "test"], ["payload", payload]] });
        api.post_json("/xadd", &body).await.ok();
    };
    post(&dev1, "1-0", "from before").await;
    let log = |name: &str| cloud.folder().join(name);
    let program = path_of("spoke-hub");
    let all = Process::start(&program, &start(&cloud, &["tail"]), &log("all"));
    let of_one = ["tail", "--client", "dev2", "--all", "--json"];
    let one = Process::start(&program, &start(&cloud, &of_one), &log("one"));
    // Both print nothing at start, so entries are posted until both print one.
    let mut n = 1;
    eventually("both to print", PATIENCE, async || {
        n += 1;
        post(&dev1, &format!("{n}-0"), "for all to see").await;
        post(&dev2, &format!("{n}-0"), "of dev2 \u{1b}[2J").await;
        let (all, one) = (all.log(), one.log());
        let is_printed =
            all.contains("for all") && all.contains("of dev2") && one.contains("of dev2");
        is_printed.then_some(()).ok_or((all, one))
    })
    .await;

    let (all, one) = (all.log(), one.log());
    assert!(all.contains("client=dev1") && all.contains("payload=for all to see"), "{all}");
    assert!(!all.contains("from before"), "without --all it prints only new entries: {all}");
    assert!(!all.contains('\u{1b}'), "an escape sequence of an entry was printed");
    assert!(!one.contains("dev1"), "{one}");
    for line in one.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).expect("a JSON object a line");
        assert_eq!(entry["fields"][0], json!(["client", "dev2"]), "{entry}");
    }
}

#[tokio::test]
async fn tail_of_a_stream_of_large_entries_uses_little_memory() {
    let cloud = Cloud::start().await;
    let mebibyte = "x".repeat(1024 * 1024 - 1024);
    let add = async |n: usize, pairs: &[(&str, &str)]| {
        cloud
            .redis
            .add_as("spoke-hub:in:x", &format!("{n}-0"), &fields(pairs.iter().copied()))
            .await;
    };
    let small = [("client", "dev1"), ("epoch", "1"), ("seq", "1-0")];
    for n in 1..=1000 {
        add(n, &small).await;
    }
    for n in 1001..=1060 {
        add(n, &[&small[..], &[("body", &mebibyte)]].concat()).await;
    }
    add(1061, &[("body", &"x".repeat(20 * 1024 * 1024))]).await;
    add(1062, &[("client", "x")]).await;
    let log = cloud.folder().join("tail");
    let tail = ["tail", "--all", "--client", "x", "--json"];
    let tail = Process::start(&path_of("spoke-hub"), &start(&cloud, &tail), &log);
    eventually("tail to reach the end", PATIENCE, async || {
        let log = tail.log();
        log.contains("1062-0").then_some(()).ok_or(log.len())
    })
    .await;
    let mib = resident_bytes_max(tail.pid()) / 1024 / 1024;
    assert!(mib < 40, "{mib} MiB");
}

#[tokio::test]
async fn send_reaches_the_device_and_refuses_an_unknown_client() {
    let cloud = Cloud::start().await;
    let device = Device::start(&cloud, "dev1").await;
    let sent = command(&cloud, &["send", "dev1", "topic", "test", "a", "1", "a", "2"]).await.done();
    device.carried_both_ways(&cloud).await;
    let copy = device.carried().await;
    let expected = fields([("topic", "test"), ("a", "1"), ("a", "2")]);
    assert_eq!((copy[0].seq.as_str(), &copy[0].fields), (sent.stdout.trim(), &expected));

    let unknown = command(&cloud, &["send", "nobody", "a", "b"]).await;

    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(unknown.stderr.contains("nobody"), "{unknown:?}");
    assert!(!cloud.redis.command::<bool>(&["EXISTS", &out("nobody")]).await);
}

#[tokio::test]
async fn send_accepts_a_provisioned_client_that_has_never_connected() {
    let cloud = Cloud::start().await;
    cloud.provision("dev7").await;
    command(&cloud, &["send", "dev7", "a", "b"]).await.done();
    eventually_is("the entry to be in the out stream", 1, async || {
        cloud.redis.length(&out("dev7")).await
    })
    .await;
    let invalid = command(&cloud, &["send", "dev7", "seq", "1-1"]).await;
    assert_eq!(invalid.code, Some(1), "an invalid entry is not sent: {invalid:?}");
    assert_eq!(cloud.redis.length(&out("dev7")).await, 1);
}
