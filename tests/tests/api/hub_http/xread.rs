//! `GET /xread`: reading a client's entries, and waiting for new ones.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spoke_tests::{
    api::Api,
    entries::{Fields, awkward, numbered},
    wait::eventually_is,
};

use crate::hub_http::{OUT, assert_read_waits, entry_body, hub, unb64};

/// The IDs of the entries in an answer.
fn ids(answer: &Value) -> Vec<String> {
    let entries = answer["entries"].as_array().unwrap_or_else(|| panic!("no entries: {answer}"));
    entries.iter().map(|entry| entry["id"].as_str().unwrap_or_default().to_owned()).collect()
}

fn decoded(entry: &Value) -> Fields {
    let pairs = entry["fields"].as_array().into_iter().flatten();
    pairs.map(|pair| (unb64(&pair[0]), unb64(&pair[1]))).collect()
}

async fn read(api: &Api, query: &str) -> Value {
    api.get(&format!("/xread?{query}")).await.ok()
}

#[tokio::test]
async fn an_entry_added_with_the_contracts_xadd_command_can_be_read() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let line = ["XADD", OUT, "MAXLEN", "~", "1000", "*", "topic", "test", "payload"];
    let line = [&line[..], &[r#"{"type":"hello-client"}"#]].concat();
    let added = stand.redis.cli(&line).await.done();

    let answer = dev1.get("/xread").await.ok();

    assert_eq!(ids(&answer), [added.stdout.trim()]);
    let fields = json!([["topic", "test"], ["payload", r#"{"type":"hello-client"}"#]]);
    assert_eq!(answer["entries"][0]["fields"], fields);
}

#[tokio::test]
async fn every_awkward_entry_is_read_bit_for_bit() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let mut after = "0-0".to_owned();
    for (what, fields) in awkward() {
        let id = stand.redis.add(OUT, &fields).await;
        let answer = read(&dev1, &format!("seq={after}")).await;
        assert_eq!(ids(&answer), [id.as_str()], "{what}");
        assert!(decoded(&answer["entries"][0]) == fields, "{what} was changed");
        after = id;
    }
}

#[tokio::test]
async fn pages_follow_each_other_without_a_gap_or_a_repeat() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let all: Vec<_> = (0..250).map(numbered).collect();
    let added: Vec<_> = stand.redis.add_all(OUT, &all).await.into_iter().map(|e| e.id).collect();
    let (mut seen, mut seq) = (Vec::new(), "0-0".to_owned());
    loop {
        let page = read(&dev1, &format!("seq={seq}&count=100")).await;
        let ids = ids(&page);
        assert!(ids.len() <= 100);
        if ids.is_empty() {
            break;
        }
        seq = page["seq"].as_str().expect("a page has the next seq").to_owned();
        assert_eq!(Some(&seq), ids.last());
        seen.extend(ids);
    }
    assert_eq!(seen, added);
}

#[tokio::test]
async fn reading_after_a_seq_acknowledges_everything_up_to_it() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let first = stand.redis.add(OUT, &numbered(1)).await;
    let second = stand.redis.add(OUT, &numbered(2)).await;
    let acked =
        async || stand.redis.hash("spoke-hub:client:dev1:h").await.get("out_acked").cloned();
    read(&dev1, "").await;
    assert_eq!(acked().await.unwrap_or("0-0".to_owned()), "0-0", "nothing was acknowledged yet");
    for seq in [&first, &second] {
        read(&dev1, &format!("seq={seq}")).await;
        assert_eq!(acked().await.as_ref(), Some(seq));
    }
    read(&dev1, &format!("seq={first}")).await;
    assert_eq!(acked().await.as_ref(), Some(&second), "the acknowledgement never goes back");
}

#[tokio::test]
async fn a_read_without_new_entries_answers_empty_when_its_time_is_over() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    for (query, least, most) in [("", 0, 1000), ("blockMs=0", 0, 1000), ("blockMs=700", 700, 3000)]
    {
        let begun = Instant::now();
        let answer = read(&dev1, query).await;
        let took = begun.elapsed().as_millis();
        assert_eq!(answer["entries"], json!([]));
        assert!((least..most).contains(&took), "{query} took {took} ms");
    }
}

#[tokio::test]
async fn a_waiting_read_is_answered_as_soon_as_an_entry_arrives() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    for n in 1..=5 {
        let last = stand.redis.entries(OUT).await.pop().map_or("0-0".to_owned(), |entry| entry.id);
        let waiting = tokio::spawn({
            let dev1 = dev1.clone();
            async move { (read(&dev1, &format!("seq={last}&blockMs=20000")).await, Instant::now()) }
        });
        assert_read_waits(&stand).await;
        // An entry for another client does not end the wait.
        stand.redis.add("spoke-hub:out:dev2:x", &numbered(0)).await;
        stand.redis.add("spoke-hub:out:dev11:x", &numbered(0)).await;
        assert!(!waiting.is_finished());

        let id = stand.redis.add(OUT, &numbered(n)).await;
        let added_at = Instant::now();

        let (answer, answered_at) = waiting.await.unwrap();
        assert_eq!(ids(&answer), [id]);
        let took = answered_at.saturating_duration_since(added_at);
        assert!(took < Duration::from_secs(2), "the answer took {took:?}");
    }
}

#[tokio::test]
async fn while_one_client_waits_another_is_served_within_50_ms() {
    let stand = hub().await;
    let (dev1, dev2) = (stand.client("dev1").await, stand.client("dev2").await);
    let begun = Instant::now();
    let waiting = (0..4).map(|_| {
        let dev1 = dev1.clone();
        tokio::spawn(async move { read(&dev1, "blockMs=2500").await })
    });
    let waiting: Vec<_> = waiting.collect();

    let mut times = Vec::new();
    for ms in 1..=40 {
        let begun = Instant::now();
        dev2.post_json("/xadd", &entry_body(&format!("{ms}-0"), ms)).await.ok();
        times.push(begun.elapsed());
    }

    times.sort_unstable();
    // The median: a busy machine may delay any single request.
    assert!(times[20] < Duration::from_millis(50), "{times:?}");
    assert!(
        begun.elapsed() < Duration::from_millis(2400),
        "no read was waiting meanwhile: {times:?}"
    );
    for waiting in waiting {
        assert_eq!(waiting.await.unwrap()["entries"], json!([]));
    }
    assert!(begun.elapsed() >= Duration::from_millis(2500));
}

#[tokio::test]
async fn invalid_query_values_are_refused_and_named() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    for (name, value) in [
        ("seq", "x"),
        ("seq", "1"),
        ("seq", "18446744073709551616-0"),
        ("count", "0"),
        ("count", "-1"),
        ("count", "1e3"),
        ("count", "99999999999999999999"),
        ("blockMs", "-1"),
        ("blockMs", "soon"),
        ("epoch", "x"),
    ] {
        let answer = dev1.get(&format!("/xread?{name}={value}")).await;
        assert_eq!(answer.refusal(), (400, "malformed".to_owned()), "{name}={value}");
        assert!(answer.message().contains(name), "{name}={value}: {answer:?}");
    }
}

#[tokio::test]
async fn a_waiting_read_that_disconnects_frees_its_connection() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    // In total more than a client may have open at a time.
    for _ in 0..20 {
        let request = dev1.request(http::Method::GET, "/xread?blockMs=20000");
        let _ = tokio::time::timeout(Duration::from_millis(30), dev1.call(request)).await;
    }
    eventually_is("the hub to serve this client again", 200, async || {
        dev1.get("/xread?blockMs=1").await.status
    })
    .await;
}

#[tokio::test]
async fn a_hub_that_shuts_down_answers_waiting_reads() {
    let mut stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let waiting = tokio::spawn(async move { read(&dev1, "blockMs=25000").await });
    assert_read_waits(&stand).await;

    let status = stand.service.terminate().await;

    assert_eq!(waiting.await.unwrap()["entries"], json!([]));
    assert_eq!(status.code(), Some(0), "{status}");
}
