//! Attacks by fields and parameters that make the hub search.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::cmd;
use spoke_protocol::{Seq, message::Features, wire::frame::SUBPROTOCOL};
use spoke_tests::{
    cloud::{IN, now_ms, out},
    hostile::{
        frames::{Batch, Claim, greeting},
        raw::binary,
    },
};

use super::{REQUESTS, SOCKETS};
use crate::{
    arena::{Arena, Target},
    flood::{Flood, Place, Request, ask, pour},
};

/// Entries of a copy that takes long to search.
const COPY_ENTRIES: u32 = 120_000;
/// Entries of an out stream.
const OUT_ENTRIES: u32 = 60_000;
/// Entries that one command adds.
const PART: u32 = 2000;
/// Adds another client's entries, which a search has to skip.
const FILL: &str = "
    for n = 1, ARGV[1] do
      redis.call('XADD', KEYS[1], '*', 'client', 'other', 'epoch', '1', 'seq', n .. '-0', 'n', n)
    end";

async fn fill(arena: &Arena, stream: &str, entries: u32) {
    for _ in 0..entries / PART {
        let mut eval = cmd("EVAL");
        eval.arg(FILL).arg(1).arg(stream).arg(PART);
        arena.stand.redis.query::<()>(&eval).await;
    }
}

pub(crate) async fn prepare(arena: &Arena) {
    fill(arena, IN, COPY_ENTRIES).await;
    // The entries after it keep the search from ending at once.
    arena.stand.redis.command::<()>(&["XDEL", IN, "1-0"]).await;
}

pub(crate) async fn prepare_reads(arena: &Arena) {
    fill(arena, &out("evil0"), OUT_ENTRIES).await;
}

/// Some use the next epoch, as the contract requires, and others any.
fn epochs() -> impl Fn(usize) -> u64 + Clone + Send {
    let next = Arc::new(AtomicU64::new(2));
    move |n| match n % 4 {
        0 => 2,
        1 => next.fetch_add(1, Ordering::Relaxed),
        2 => u64::from(u32::MAX),
        _ => u64::MAX,
    }
}

pub(crate) async fn over_http(target: &Target, span: Duration) {
    let epoch = epochs();
    ask(target, span, REQUESTS, |n| {
        let (epoch, seq) = (epoch(n), Seq::new(now_ms() - n as u64, 0));
        let body = format!(
            r#"{{"epoch":{epoch},"after":"0-0","entries":[{{"seq":"{seq}","fields":[["a",""]]}}],"account":{{"is_inherited":true}}}}"#
        );
        Request::post("/xadd", body)
    })
    .await;
}

pub(crate) async fn over_sockets(target: &Target, span: Duration) {
    let (batch, epoch) = (Arc::new(Batch::new(1, 1, b"a", b"")), epochs());
    let floods = (0..SOCKETS).map(|n| {
        let (batch, epoch) = (batch.clone(), epoch.clone());
        // Every other socket claims to be in the next epoch, as its HELLO may, and continues in it.
        let pushes = move |place: &mut Place| {
            let claim = place.claim(1);
            let epoch = if n % 2 == 0 { claim.epoch + 1 } else { epoch(n as usize) };
            let after = if n % 4 == 0 { Seq::ZERO } else { claim.after };
            binary(&batch.push(&Claim { epoch, after, flags: 2, ..claim }, &[]))
        };
        Flood::joined(SUBPROTOCOL, greeting(Features::default()), pushes)
    });
    pour(target, span, floods.collect()).await;
}

pub(crate) async fn odd_reads(target: &Target, span: Duration) {
    let max = u64::MAX;
    let paths = [
        "/xread?seq=0-0&count=1000".to_owned(),
        format!("/xread?seq={max}-{max}&epoch=1"),
        "/xread?seq=1-0&epoch=1&tally=1,0,0".to_owned(),
        format!("/xread?seq={}-0&epoch=1&tally=60000,0,59999", now_ms()),
        "/xread?epoch=4294967295".to_owned(),
        format!("/xread?seq=1-0&epoch=7&count={max}"),
        "/xread?seq=1-1&epoch=1&tally=9223372036854775807,0,0".to_owned(),
        "/seq".to_owned(),
    ];
    ask(target, span, REQUESTS, |n| Request::get(&paths[n % paths.len()])).await;
}
