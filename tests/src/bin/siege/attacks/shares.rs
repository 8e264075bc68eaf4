//! Attacks on what all clients share: the memory of Redis, the loss ledger, the length of the copy.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::join;
use redis::cmd;
use serde_json::json;
use spoke_protocol::{Seq, message::Features, wire::frame::SUBPROTOCOL};
use spoke_store::limits::LOST_MAX_LEN;
use spoke_tests::{
    api::Api,
    cloud::{IN, LOST, admit, now_ms},
    hostile::{
        frames::{Batch, Lost, greeting},
        raw::binary,
    },
};

use super::{REQUESTS, SOCKETS, frames::clock};
use crate::{
    arena::{Arena, Target},
    flood::{Flood, Request, ask, pour},
};

/// The memory limit of the Redis that is filled.
const MEMORY: &str = "300mb";
/// The connections that once filled it in ten seconds.
pub(crate) const CONNECTIONS: usize = 14;
/// Losses in one batch.
const LOSSES: u64 = 16;
/// The client whose line must stay in the ledger.
const LOSER: &str = "loser";

pub(crate) async fn limit_memory(arena: &Arena) {
    let redis = &arena.stand.redis;
    redis.command::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    redis.command::<()>(&["CONFIG", "SET", "maxmemory", MEMORY]).await;
}

/// Sends entries of a mebibyte over fourteen connections of this many clients: a socket for each, and HTTP.
pub(crate) async fn fill(target: &Target, span: Duration, clients: usize) {
    let value = vec![b'x'; (1 << 20) - 4096];
    let clock = clock();
    let batch = Arc::new(Batch::new(1, 1, b"blob", &value));
    let floods = (0..clients.min(SOCKETS as usize)).map(|client| {
        let batch = batch.clone();
        let flood = Flood::joined(SUBPROTOCOL, greeting(Features::default()), move |place| {
            binary(&batch.push(&place.claim(1), &[]))
        });
        Flood { client, ..flood }
    });
    let floods: Vec<_> = floods.collect();
    let text = String::from_utf8_lossy(&value).into_owned();
    let requests = ask(target, span, CONNECTIONS - floods.len(), |n| {
        let ms = clock.fetch_add(1, Ordering::Relaxed);
        let body = format!(r#"{{"seq":"{ms}-0","fields":[["blob","{text}"]]}}"#);
        Request { client: clients - 1 - n % clients, ..Request::post("/xadd", body) }
    });
    join(pour(target, span, floods), requests).await;
}

/// Records a loss of another client, which has to stay in the ledger.
pub(crate) async fn lose_one(arena: &Arena) {
    let token = admit(&arena.stand.redis, LOSER).await;
    let api: Api = arena.stand.api().with_token(&token);
    let now = now_ms();
    let batch = |range: std::ops::Range<u64>, losses| {
        let entry = json!([{ "seq": format!("{}-0", now + range.end), "fields": [["a", ""]] }]);
        let account = json!({ "tally": format!("{},0,0", range.end), "losses": losses });
        json!({ "epoch": 1, "entries": entry, "account": account })
    };
    api.post_json("/xadd", &batch(0..1, json!([]))).await.ok();
    let from = format!("{}-0", now + 2);
    let lost = json!([{ "epoch": 1, "from": from, "to": from, "count": 1, "cause": "trimmed" }]);
    let mut lossy = batch(1..3, lost);
    lossy["after"] = json!(format!("{}-0", now + 1));
    lossy["account"]["tally"] = json!("3,0,1");
    api.post_json("/xadd", &lossy).await.ok();
    let there = is_line_there(arena).await;
    assert!(there.is_empty(), "a true loss is recorded: {there:?}");
    // As in production, where the ledger is nearly full.
    let filling =
        "for n = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'client', 'old', 'n', n) end";
    let mut eval = cmd("EVAL");
    eval.arg(filling).arg(1).arg(LOST).arg(LOST_MAX_LEN / 2);
    arena.stand.redis.query::<()>(&eval).await;
}

pub(crate) async fn invent_losses(target: &Target, span: Duration) {
    let clock = clock();
    let batch = Arc::new(Batch::new(1, 1, b"a", b""));
    let floods = (0..SOCKETS).map(|_| {
        let batch = batch.clone();
        Flood::joined(SUBPROTOCOL, greeting(Features::default()), move |place| {
            // Between the previous entry and this one, like a true loss.
            let mut claim = place.claim(1);
            let from = claim.after.ms + 1;
            let losses: Vec<_> = (from..from + LOSSES).map(|ms| lost(ms, 1)).collect();
            claim.first = place.pass(LOSSES);
            binary(&batch.push(&claim, &losses))
        })
    });
    let requests = ask(target, span, REQUESTS, |n| {
        let ms = clock.fetch_add(LOSSES + 1, Ordering::Relaxed);
        let losses: Vec<_> = (ms..ms + LOSSES).map(|ms| {
            json!({ "epoch": 1, "from": format!("{ms}-0"), "to": format!("{ms}-9"), "count": 10, "cause": "trimmed" })
        }).collect();
        let entry = json!([{ "seq": format!("{}-0", ms + LOSSES), "fields": [["a", ""]] }]);
        let body = json!({ "entries": entry, "account": { "tally": "~", "losses": losses } });
        Request { client: 1 + n % 3, ..Request::post("/xadd", body.to_string()) }
    });
    join(pour(target, span, floods.collect()), requests).await;
}

fn lost(ms: u64, count: u64) -> Lost {
    Lost { range: (Seq::new(ms, 0), Seq::new(ms, count - 1)), count }
}

pub(crate) async fn is_line_there(arena: &Arena) -> Vec<String> {
    let ledger = arena.stand.redis.entries(LOST).await;
    match ledger.iter().any(|line| line.text("client").as_deref() == Some(LOSER)) {
        true => Vec::new(),
        false => vec!["another client's line is gone from the ledger".to_owned()],
    }
}

pub(crate) async fn begin_group(arena: &Arena) {
    let create = ["XGROUP", "CREATE", IN, "billing", "0", "MKSTREAM"];
    arena.stand.redis.command::<()>(&create).await;
}

pub(crate) async fn overflow(target: &Target, span: Duration) {
    let batch = Arc::new(Batch::new(500, 1, b"n", b"1"));
    let floods = (0..SOCKETS).map(|_| {
        let batch = batch.clone();
        Flood::joined(SUBPROTOCOL, greeting(Features::default()), move |place| {
            binary(&batch.push(&place.claim(500), &[]))
        })
    });
    pour(target, span, floods.collect()).await;
}

/// Checks that each acknowledged entry of the good client is in the copy, or in the ledger as dropped.
pub(crate) async fn are_entries_there(arena: &Arena) -> Vec<String> {
    let copy = arena.stand.redis.entries(IN).await;
    let good = copy.iter().filter(|entry| entry.text("client").as_deref() == Some("good"));
    let held: std::collections::HashSet<_> = good.filter_map(|entry| entry.text("seq")).collect();
    let ledger = arena.stand.redis.entries(LOST).await;
    let in_ledger = |seq: &Seq| {
        ledger.iter().any(|line| {
            let bound = |name| line.text(name).and_then(|text| text.parse::<Seq>().ok());
            let range = bound("from").zip(bound("to"));
            line.text("client").as_deref() == Some("good")
                && range.is_some_and(|(from, to)| (from..=to).contains(seq))
        })
    };
    let taken = arena.http.taken();
    let gone =
        taken.iter().filter(|seq| !held.contains(&seq.to_string()) && !in_ledger(seq)).count();
    match gone {
        0 => Vec::new(),
        _ => vec![format!("{gone} of {} acknowledged entries are gone silently", taken.len())],
    }
}
