//! One memory budget for all clients of a hub, and memory that is released afterwards.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use spoke_protocol::{message::Features, wire::frame::SUBPROTOCOL};
use spoke_service::limits::REQUESTS_PER_CLIENT_MAX;
use spoke_tests::{
    api::Api,
    cloud::admit,
    hostile::{
        bodies::{Form, empty_fields},
        frames::greeting,
        raw::{binary, socket, websocket_frame},
    },
    load_probe::{Siege, resident_kib},
    single_service::Stand,
    wait::eventually_true,
    websocket::JSON_SUBPROTOCOL,
};
use tokio::io::AsyncWriteExt;

use crate::hostile::{good_client, hub};

const MIB: u64 = 1024;
const CLIENTS: usize = 6;
/// The smallest budget that can be set.
const BUDGET_MIB: u64 = 64;
const SETTING: [(&str, &str); 1] = [("budget_mib", "64")];
/// What a hub uses beside its budget: its code, connection buffers, and what the allocator keeps.
const OTHER_MIB: u64 = 64;

async fn clients(stand: &Stand) -> Vec<Api> {
    join_all((0..CLIENTS).map(async |n| stand.client(&format!("evil-{n}")).await)).await
}

/// Sends 32 requests of each client at once, `rounds` times, whatever the answers.
async fn flood(clients: &[Api], body: &str, rounds: usize) {
    let each = clients.iter().flat_map(|client| vec![client; REQUESTS_PER_CLIENT_MAX]);
    join_all(each.map(async |client| {
        for _ in 0..rounds {
            let answer = client.post_body("/xadd", "application/json", body).await;
            if answer.status == 503 {
                assert!(answer.retry_after().is_some(), "{answer:?}");
            }
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn six_clients_at_their_limits_stay_within_the_budget_and_a_seventh_notices_nothing() {
    let mut stand = hub(&SETTING).await;
    let pid = stand.service.process().pid();
    let evil = clients(&stand).await;
    // A megabyte that decodes to the most memory, and one that decodes to the least.
    let fields = empty_fields(1, (800, 128), Form::Pairs, "");
    assert!((700_000..1_300_000).contains(&fields.len()), "{}", fields.len());
    let value = json!({ "seq": "1-0", "fields": [["a", "x".repeat(1_000_000)]] }).to_string();
    let attack = async || {
        flood(&evil, &fields, 2).await;
        flood(&evil, &value, 2).await;
    };

    let siege = Siege::lay(pid, async |recorder| good_client(&stand, recorder).await, attack).await;

    siege.assert_borne("six clients with 32 bodies of a megabyte", BUDGET_MIB + OTHER_MIB);
    let kept = siege.after.memory_kib.saturating_sub(siege.before.memory_kib) / MIB;
    assert!(kept <= OTHER_MIB, "the hub keeps {kept} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_messages_are_charged_to_the_budget_before_they_arrive() {
    let mut stand = hub(&SETTING).await;
    let pid = stand.service.process().pid();
    let before = resident_kib(pid);
    let mut sockets = Vec::new();
    // A client has one session at a time.
    for n in 0..40 {
        let token = admit(&stand.redis, &format!("evil-{n}")).await;
        let subprotocol = [SUBPROTOCOL, JSON_SUBPROTOCOL][n % 2];
        let mut stream = socket(stand.service.address(), &token, subprotocol).await.unwrap();
        if subprotocol == SUBPROTOCOL {
            stream.write_all(&binary(&greeting(Features::default()))).await.unwrap();
        }
        sockets.push(stream);
    }
    // Forty messages of four mebibytes without their ends; the budget admits a few of them.
    let most = (4 << 20) - 100;
    let message = websocket_frame(0x82, most, &vec![0; most as usize - 10]);
    let sending = join_all(sockets.iter_mut().map(async |socket| {
        let _ = tokio::time::timeout(Duration::from_secs(2), socket.write_all(&message)).await;
    }));
    sending.await;
    let more = resident_kib(pid).saturating_sub(before) / MIB;
    assert!(more <= BUDGET_MIB, "{more} MiB for unfinished messages");
    // A small request of another client is not delayed by them.
    let good = stand.client("good").await;
    let begun = Instant::now();
    good.post_json("/xadd", &json!({ "seq": "1-0", "fields": [["a", "b"]] })).await.ok();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    drop(sockets);
    eventually_true("the whole budget to be released", async || {
        let figures = stand.service.admin().get("/metrics").await.text;
        figures.lines().any(|line| line == "spoke_hub_budget_bytes 0")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_use_only_their_own_clients_share_of_the_budget() {
    let stand = hub(&SETTING).await;
    let token = admit(&stand.redis, "evil").await;
    let mut slow = Vec::new();
    for _ in 0..REQUESTS_PER_CLIENT_MAX - 4 {
        let headers = [("content-type", "application/json"), ("content-length", "4000000")];
        let head = crate::hostile::request("POST", "/xadd", Some(&token), &headers);
        let mut stream = crate::hostile::connect(&stand).await;
        stream.write_all(&head).await.unwrap();
        stream.write_all(br#"{"seq""#).await.unwrap();
        slow.push(stream);
    }
    let good = stand.client("good").await;
    let large = json!({ "seq": "1-0", "fields": [["a", "x".repeat(1_000_000)]] });
    good.post_json("/xadd", &large).await.ok();
    // The same client's next large request does not fit its own share, and is refused.
    let larger = json!({ "seq": "1-0", "fields": [["a", "x".repeat(4_000_000)]] });
    let mine = stand.api().with_token(&token).post_json("/xadd", &larger).await;
    assert_eq!(mine.refusal(), (503, "unavailable".to_owned()));
}
