//! A stolen session token is used against its device: the real agent continues afterwards and loses
//! nothing silently.

use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};
use spoke_protocol::{
    Epoch, PartnerId, Seq,
    message::{Cursor, Features, Frame, Hello, OriginState},
    wire::frame::SUBPROTOCOL,
};
use spoke_tests::{
    api::Api,
    binaries::path_of,
    checker::from_hub,
    cloud::{Cloud, IN, admit, now_ms, out, url},
    device::{self, Device, OUT},
    entries::{Stored, fields, numbered},
    hostile::frames::{Batch, Claim, empty_push, greeting},
    process::{Finished, Start, run},
    wait::{PATIENCE, eventually, throughout},
    websocket::{Heard, JSON_SUBPROTOCOL, hello, open},
};
use tokio_tungstenite::tungstenite::Message;

/// Entries before the theft, and after it.
const ENTRIES: usize = 10;
/// The highest possible epoch.
const LAST: u64 = (1 << 53) - 1;
/// How long a duplicate could take to appear.
const DUPLICATES_WITHIN: Duration = Duration::from_millis(500);

/// One thing that a thief does with a token.
#[derive(Debug, Clone)]
enum Theft {
    /// This request, with this body.
    Request(&'static str, Value),
    /// This message of `spoke.v1.json`.
    Message(Value),
    /// These frames after a HELLO.
    Frames(Vec<Vec<u8>>),
    /// This HELLO.
    Hello(Box<Hello>),
}

impl Theft {
    /// Does it, whatever the answer is.
    async fn commit(&self, api: &Api) {
        let token = api.token().expect("a token was stolen");
        match self {
            Self::Request(path, Value::Null) => drop(api.get(path).await),
            Self::Request(path, body) => {
                let answer = api.call(api.request(Method::POST, path).json(body)).await;
                assert!(answer.status < 500, "{self:?}: {answer:?}");
            }
            Self::Message(body) => {
                let mut socket = open(api.address(), token, JSON_SUBPROTOCOL).await;
                socket.ask("xadd", 1, body.clone()).await;
            }
            Self::Frames(frames) => {
                let mut socket = open(api.address(), token, SUBPROTOCOL).await;
                socket.send(Message::binary(greeting(Features::default()))).await;
                for frame in frames {
                    socket.send(Message::binary(frame.clone())).await;
                }
                let answers = [socket.next().await, socket.next().await];
                assert!(matches!(answers[0], Heard::Bytes(_)), "{self:?}: {answers:?}");
            }
            Self::Hello(hello) => {
                let mut socket = open(api.address(), token, SUBPROTOCOL).await;
                socket.send_frame(&Frame::Hello(hello.clone())).await;
                socket.next().await;
            }
        }
    }
}

/// Positions that no origin can have reached, or that it will reach soon.
fn positions() -> [Seq; 4] {
    let now = now_ms();
    [Seq::MAX, Seq::new(now + 3_600_000, 0), Seq::new(now + 60_000, u64::MAX), Seq::new(now, 0)]
}

fn batches() -> Vec<Value> {
    let mut batches = Vec::new();
    for place in positions() {
        let text = place.to_string();
        let entries = json!([{ "seq": text, "fields": [["thief", "1"]] }]);
        batches.push(json!({ "seq": text, "fields": [["thief", "1"]] }));
        for epoch in [1, 2, 3, u64::from(u32::MAX), LAST] {
            batches.push(json!({ "epoch": epoch, "entries": entries }));
            batches.push(json!({ "epoch": epoch, "entries": [], "through": text }));
        }
    }
    batches
}

fn pushes() -> Vec<Theft> {
    let batch = Batch::new(1, 1, b"thief", b"1");
    let mut pushes = Vec::new();
    for place in positions() {
        for epoch in [1, 2, u64::from(u32::MAX), LAST] {
            let claim = Claim { epoch, first: place, ..Claim::at(0) };
            pushes.push(batch.push(&claim, &[]));
            pushes.push(batch.push(&Claim { flags: 2, ..claim }, &[]));
            pushes.push(empty_push(epoch, Seq::ZERO, place));
        }
    }
    pushes.into_iter().map(|push| Theft::Frames(vec![push])).collect()
}

/// HELLO and `/session` of an origin that claims another epoch or position.
fn greetings() -> Vec<Theft> {
    let mut all = Vec::new();
    for place in [Seq::MAX, Seq::new(now_ms() + 3_600_000, 0)] {
        for epoch in [2, 17, u64::from(u32::MAX), LAST] {
            let origin = OriginState {
                epoch: Epoch(epoch),
                start: Seq::ZERO,
                first: Seq::new(1, 0),
                last: place,
                added: u64::from(u32::MAX),
                acked: place,
            };
            let cursor = Cursor { epoch: Epoch(epoch), seq: place, ..Cursor::default() };
            all.push(Theft::Hello(Box::new(Hello { origin, cursor, ..hello() })));
            let origin = json!({
                "epoch": epoch, "start": "0-0", "first": "1-0", "last": place.to_string(),
                "added": 1, "acked": place.to_string(),
            });
            let cursor = json!({ "epoch": epoch, "seq": place.to_string() });
            let session = json!({ "version": "0", "origin": origin, "cursor": cursor });
            all.push(Theft::Request("/session", session));
        }
    }
    all
}

/// A device that has carried something each way, and whose agent is stopped.
async fn victim(cloud: &Cloud, client: &str) -> (Device, Vec<Stored>) {
    let mut device = Device::start_with(cloud, client, &[("trim", "acked")]).await;
    let added = device.redis.add_all(OUT, &before()).await;
    cloud.redis.add_all(&out(client), &before()).await;
    device.acknowledged_both_ways(cloud).await;
    device.stop_agent().await;
    (device, added)
}

fn before() -> Vec<spoke_tests::entries::Fields> {
    (0..ENTRIES).map(numbered).collect()
}

fn after() -> Vec<spoke_tests::entries::Fields> {
    (ENTRIES..2 * ENTRIES).map(numbered).collect()
}

/// The numbers of the device's entries in the hub's copy.
async fn numbers(cloud: &Cloud, client: &str) -> Vec<usize> {
    let copy = cloud.redis.entries(IN).await;
    let ours = copy.iter().filter(|entry| entry.text("client").as_deref() == Some(client));
    ours.filter_map(|entry| entry.text("n")?.parse().ok()).collect()
}

/// Asserts that new entries arrive once and in order, both ways.
async fn assert_carries_on(cloud: &Cloud, device: &Device, what: &str) {
    device.redis.add_all(OUT, &after()).await;
    cloud.redis.add_all(&out(&device.client), &after()).await;
    let all: Vec<_> = (0..2 * ENTRIES).collect();
    let up = async || numbers(cloud, &device.client).await;
    let down = async || {
        let copy = from_hub(&device.redis.entries(device::IN).await);
        let number = |entry: &spoke_tests::checker::Carried| {
            let (_, value) = entry.fields.iter().find(|(name, _)| name == b"n")?;
            String::from_utf8_lossy(value).parse::<usize>().ok()
        };
        copy.iter().filter_map(number).collect::<Vec<_>>()
    };
    eventually(&format!("{what}: all 20 entries each way"), PATIENCE, async || {
        let seen = (up().await, down().await);
        if seen.0.len() >= all.len() && seen.1.len() >= all.len() { Ok(()) } else { Err(seen) }
    })
    .await;
    let is_complete = async || (up().await == all, down().await == all);
    throughout(&format!("{what}: once and in order"), DUPLICATES_WITHIN, (true, true), is_complete)
        .await;
}

/// Commits each theft against a device of its own, some at a time.
async fn commit_each(thefts: Vec<Theft>, name: &str) {
    const AT_ONCE: usize = 6;
    let cloud = Cloud::start().await;
    for (part, thefts) in thefts.chunks(AT_ONCE).enumerate() {
        let all = thefts.iter().enumerate().map(async |(n, theft)| {
            let client = format!("{name}{part}-{n}");
            let (mut device, _) = victim(&cloud, &client).await;
            let api = cloud.client(&client).await;
            theft.commit(&api).await;
            theft.commit(&api).await;
            device.start_agent();
            assert_carries_on(&cloud, &device, &format!("{theft:?}")).await;
        });
        join_all(all).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_cursor_a_thief_moved_by_a_request_loses_nothing() {
    commit_each(batches().into_iter().map(|body| Theft::Request("/xadd", body)).collect(), "http")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_cursor_a_thief_moved_by_a_message_loses_nothing() {
    commit_each(batches().into_iter().step_by(3).map(Theft::Message).collect(), "json").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_cursor_a_thief_moved_by_a_frame_loses_nothing() {
    commit_each(pushes(), "push").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_in_whose_name_a_thief_opened_a_session_loses_nothing() {
    commit_each(greetings(), "hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_a_thief_read_and_acknowledged_still_reach_the_device() {
    let cloud = Cloud::start().await;
    let (mut device, _) = victim(&cloud, "dev1").await;
    let api = cloud.client("dev1").await;
    let waiting: Vec<_> = (ENTRIES..2 * ENTRIES).map(numbered).collect();
    let sent = cloud.redis.add_all(&out("dev1"), &waiting).await;
    for seq in [&sent[ENTRIES / 2].id, &sent[ENTRIES - 1].id, "18446744073709551615-0"] {
        for query in [
            format!("seq={seq}"),
            format!("seq={seq}&epoch=1"),
            format!("seq={seq}&epoch=4294967295"),
        ] {
            api.get(&format!("/xread?{query}")).await;
        }
    }
    device.start_agent();
    let all: Vec<_> = (0..2 * ENTRIES).collect();
    eventually("what was sent to the device", PATIENCE, async || {
        let copy = from_hub(&device.redis.entries(device::IN).await);
        let ours: Vec<_> = copy.iter().filter_map(|entry| entry.fields.last()).cloned().collect();
        let expected: Vec<_> =
            all.iter().map(|n| fields([("n", n.to_string())]).remove(0)).collect();
        if ours == expected { Ok(()) } else { Err(ours.len()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thief_beside_a_running_agent_causes_no_loss() {
    let cloud = Cloud::start().await;
    let device = Device::start_with(&cloud, "dev1", &[("trim", "acked")]).await;
    device.redis.add_all(OUT, &before()).await;
    cloud.redis.add_all(&out("dev1"), &before()).await;
    device.acknowledged_both_ways(&cloud).await;
    let api = cloud.hub.api().with_token(&admit(&cloud.redis, "dev1").await);
    let mut thefts = pushes();
    thefts.extend(batches().into_iter().map(|body| Theft::Request("/xadd", body)));
    for theft in thefts.iter().step_by(4) {
        theft.commit(&api).await;
    }
    assert_carries_on(&cloud, &device, "beside a running agent").await;
}

/// Enrols a device again with the state that it has.
async fn enrol(cloud: &Cloud, device: &Device, secret: &str) -> Finished {
    let path = |name: &str| device.folder().join(name).display().to_string();
    let (auth, hub) = (url(cloud.auth_proxy.address()), url(cloud.hub_proxy.address()));
    let (state, config, redis) = (path("state"), path("agent.toml"), device.redis.url());
    let arguments = [
        ["--client", &device.client],
        ["--auth", &auth],
        ["--hub", &hub],
        ["--redis", &redis],
        ["--state-dir", &state],
        ["--config", &config],
        ["--otp-secret", secret],
    ];
    let arguments = [&["enrol"][..], &arguments.concat()].concat();
    run(&path_of("spoke-agent"), &Start::with(&arguments)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_revoked_and_provisioned_again_after_a_theft_loses_nothing() {
    let cloud = Cloud::start().await;
    let auth = async |arguments: &[&str]| {
        let mut start = Start::with(arguments);
        start.environment = cloud.auth.environment().to_vec();
        run(&path_of("spoke-auth"), &start).await.done()
    };
    for (n, body) in batches().into_iter().step_by(5).enumerate() {
        let client = format!("dev{n}");
        let (mut device, _) = victim(&cloud, &client).await;
        let theft = Theft::Request("/xadd", body);
        let api = cloud.client(&client).await;
        theft.commit(&api).await;
        auth(&["revoke", &client]).await;
        let made = auth(&["provision", &client, "--again", "--json"]).await.json();
        let secret = made["otpSecret"].as_str().expect("provision makes a secret").to_owned();
        let enrolled = enrol(&cloud, &device, &secret).await;
        assert_eq!(enrolled.code, Some(0), "{enrolled:?}");
        // The old token is no longer valid.
        assert_eq!(api.get("/seq").await.status, 401);
        device.start_agent();
        assert_carries_on(&cloud, &device, &format!("{theft:?}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_an_operator_resets_loses_nothing() {
    let cloud = Cloud::start().await;
    let reset = async |client: &str| {
        let mut start = Start::with(&["reset-client", client]);
        start.environment = cloud.hub.environment().to_vec();
        run(&path_of("spoke-hub"), &start).await
    };
    for is_stopped in [true, false] {
        let client = format!("stopped-{is_stopped}");
        let (mut device, _) = victim(&cloud, &client).await;
        if !is_stopped {
            device.start_agent();
            device.carried_both_ways(&cloud).await;
        }
        let printed = reset(&client).await.done().stdout;
        assert!(printed.contains(&format!("{client} is in epoch 2 now")), "{printed}");
        if is_stopped {
            device.start_agent();
        }
        assert_carries_on(&cloud, &device, &client).await;
    }
    let refused = reset("nobody").await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("unknown client nobody"), "{refused:?}");
}

/// HELLOs that claim to have lost the cursor and found an entry, or to come from another hub.
fn claims() -> Vec<Theft> {
    let mut claims = Vec::new();
    for seq in [Seq::new(now_ms() + 3_600_000, 0), Seq::new(now_ms() + 100, 0), Seq::new(1, 0)] {
        for epoch in [Epoch::UNKNOWN, Epoch(1), Epoch(2)] {
            let cursor = Cursor { epoch, seq, is_found: true, ..Cursor::default() };
            claims.push(Hello { cursor, ..hello() });
            let partner = PartnerId([9; PartnerId::BYTES]);
            claims.push(Hello { cursor, partner, ..hello() });
        }
    }
    claims.into_iter().map(|hello| Theft::Hello(Box::new(hello))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_position_a_thief_claimed_to_have_found_loses_nothing() {
    commit_each(claims(), "claim").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_a_thief_claimed_does_not_advance_the_hubs_ids() {
    let cloud = Cloud::start().await;
    for (n, theft) in claims().into_iter().enumerate() {
        let client = format!("dev{n}");
        cloud.provision(&client).await;
        cloud.redis.add_all(&out(&client), &before()).await;
        let api = cloud.hub.api().with_token(&admit(&cloud.redis, &client).await);
        api.get("/xread?seq=0-0").await.ok();
        theft.commit(&api).await;
        let id = cloud.redis.add(&out(&client), &numbered(1)).await;
        let ahead = id.parse::<Seq>().unwrap().ms.saturating_sub(now_ms());
        assert!(ahead < 60_000, "{theft:?}: the next ID is {id}");
    }
}
