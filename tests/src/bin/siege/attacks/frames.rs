//! Attacks by frames of `spoke.v1`.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use rand::{SeedableRng, rngs::StdRng};
use spoke_protocol::{
    Seq,
    limits::{BATCH_BYTES_MAX, ENTRY_FIELDS_MAX, FIELD_BYTES_MIN},
    message::Features,
    wire::frame::SUBPROTOCOL,
};
use spoke_tests::{
    cloud::now_ms,
    hostile::{
        frames::{Batch, Claim, greeting, malformed, tiny as tiny_frames},
        raw::binary,
    },
};

use super::SOCKETS;
use crate::{
    arena::Target,
    flood::{Flood, pour},
};

/// The bytes with which three sockets once stopped a hub for nine seconds.
const BURST_BYTES: usize = 1_100_000;
/// Bytes a second of all sockets together: 0.37 Mbit/s.
const TRICKLE_BYTES: usize = 46_000;

fn agreed() -> Vec<u8> {
    greeting(Features::COMPRESSION)
}

/// A flood on one socket, whose session is not taken over, and then on each of eight.
async fn on_all(target: &Target, span: Duration, flood: impl Fn(u64) -> Flood) {
    pour(target, span / 2, vec![flood(0)]).await;
    pour(target, span / 2, (0..SOCKETS).map(flood).collect()).await;
}

/// A new packed batch of empty fields.
fn bomb() -> Vec<u8> {
    binary(&Batch::of_empty_fields().packed(&Claim::at(now_ms())))
}

pub(super) fn clock() -> Arc<AtomicU64> {
    Arc::new(AtomicU64::new(now_ms() - 60 * 60_000))
}

pub(crate) async fn no_hello_burst(target: &Target, span: Duration) {
    let burst = bomb();
    let burst = burst.repeat(BURST_BYTES / burst.len());
    on_all(target, span, |_| {
        let burst = burst.clone();
        Flood::new(SUBPROTOCOL, Vec::new(), move || burst.clone())
    })
    .await;
}

pub(crate) async fn no_hello_trickle(target: &Target, span: Duration) {
    let bomb = bomb();
    let pause = Duration::from_secs(SOCKETS) * bomb.len() as u32 / TRICKLE_BYTES as u32;
    on_all(target, span, |_| {
        let bomb = bomb.clone();
        Flood { pause, ..Flood::new(SUBPROTOCOL, Vec::new(), move || bomb.clone()) }
    })
    .await;
}

pub(crate) async fn packed_unagreed(target: &Target, span: Duration) {
    let bomb = bomb();
    on_all(target, span, |_| Flood::repeating(SUBPROTOCOL, greeting(Features::default()), &bomb))
        .await;
}

pub(crate) async fn packed_new(target: &Target, span: Duration) {
    // The most fields that a batch may have, and far more.
    let most = BATCH_BYTES_MAX / FIELD_BYTES_MIN / ENTRY_FIELDS_MAX;
    let batches = [Batch::new(most, ENTRY_FIELDS_MAX, b"", b""), Batch::of_empty_fields()];
    let [fitting, bomb] = batches.map(Arc::new);
    on_all(target, span, |n| {
        let (batch, entries) = match n % 2 {
            0 => (fitting.clone(), most as u64),
            _ => (bomb.clone(), 1000),
        };
        Flood::joined(SUBPROTOCOL, agreed(), move |place| {
            binary(&batch.packed(&place.claim(entries)))
        })
    })
    .await;
}

pub(crate) async fn packed_seen(target: &Target, span: Duration) {
    // The first moves the cursor; all others are at the cursor or below.
    let batch = Batch::of_empty_fields();
    let now = now_ms();
    let seen = [now, now - 1, 1].map(|ms| binary(&batch.packed(&Claim::at(ms)))).concat();
    on_all(target, span, |_| Flood::repeating(SUBPROTOCOL, agreed(), &seen)).await;
}

pub(crate) async fn packed_gap(target: &Target, span: Duration) {
    let after = Seq::new(now_ms() - 1000, 0);
    let claim = Claim { after, first: Seq::new(after.ms + 1, 0), ..Claim::at(0) };
    let gap = binary(&Batch::of_empty_fields().packed(&claim));
    let stale = Claim { epoch: 0, ..claim };
    let stale = binary(&Batch::of_empty_fields().packed(&stale));
    on_all(target, span, |n| {
        Flood::repeating(SUBPROTOCOL, agreed(), if n % 2 == 0 { &gap } else { &stale })
    })
    .await;
}

pub(crate) async fn plain_empty(target: &Target, span: Duration) {
    let most = BATCH_BYTES_MAX / FIELD_BYTES_MIN / ENTRY_FIELDS_MAX;
    let batches = [Batch::new(most, ENTRY_FIELDS_MAX, b"", b""), Batch::of_empty_fields()];
    let [fitting, bomb] = batches.map(Arc::new);
    on_all(target, span, |n| {
        let first = if n % 4 == 3 { Vec::new() } else { agreed() };
        match n % 2 {
            0 => {
                let batch = fitting.clone();
                Flood::joined(SUBPROTOCOL, first, move |place| {
                    binary(&batch.push(&place.claim(most as u64), &[]))
                })
            }
            // The same batch without end.
            _ => Flood::repeating(SUBPROTOCOL, first, &binary(&bomb.push(&Claim::at(7), &[]))),
        }
    })
    .await;
}

pub(crate) async fn one_field(target: &Target, span: Duration) {
    let batches = [1000, 1000, 300_000];
    let batches = batches.map(|entries| (Arc::new(Batch::new(entries, 1, b"", b"")), entries));
    on_all(target, span, |n| {
        let (batch, entries) = batches[n as usize % batches.len()].clone();
        Flood::joined(SUBPROTOCOL, agreed(), move |place| {
            binary(&batch.packed(&place.claim(entries as u64)))
        })
    })
    .await;
}

pub(crate) async fn garbage(target: &Target, span: Duration) {
    let frames: Arc<Vec<_>> = {
        let frames = malformed(&mut StdRng::seed_from_u64(1));
        Arc::new(frames.iter().map(|frame| binary(frame)).collect())
    };
    on_all(target, span, |n| {
        let (frames, mut next) = (frames.clone(), n as usize);
        let first = if n % 2 == 0 { agreed() } else { Vec::new() };
        Flood::new(SUBPROTOCOL, first, move || {
            next += 1;
            frames[next % frames.len()].clone()
        })
    })
    .await;
}

pub(crate) async fn tiny(target: &Target, span: Duration) {
    let frames = tiny_frames();
    on_all(target, span, |n| {
        let frame = binary(&frames[n as usize % frames.len()]);
        Flood::repeating(SUBPROTOCOL, agreed(), &frame)
    })
    .await;
}

pub(crate) async fn unacknowledged(target: &Target, span: Duration) {
    let batch = Arc::new(Batch::new(1, 1, b"n", b"1"));
    on_all(target, span, |_| {
        let batch = batch.clone();
        Flood::joined(SUBPROTOCOL, agreed(), move |place| {
            (0..200).flat_map(|_| binary(&batch.push(&place.claim(1), &[]))).collect()
        })
    })
    .await;
}

pub(crate) async fn full_batches(target: &Target, span: Duration) {
    // Many fields, and few large ones.
    let values = [(1000, 4, 120), (1000, 1, 500), (4, 1, 120_000)];
    let batches = values.map(|(entries, fields, bytes)| {
        (Arc::new(Batch::new(entries, fields, b"name", &vec![b'x'; bytes])), entries as u64)
    });
    on_all(target, span, |n| {
        let (batch, entries) = batches[n as usize % batches.len()].clone();
        Flood::joined(SUBPROTOCOL, agreed(), move |place| {
            binary(&batch.push(&place.claim(entries), &[]))
        })
    })
    .await;
}
