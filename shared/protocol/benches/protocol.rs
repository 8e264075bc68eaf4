//! Measures each stage of a batch, so that a regression can be located.
//!
//! A batch has 1,000 entries, each with a topic and 100 hexadecimal digits, as in a device's backlog.

#![expect(clippy::disallowed_methods, reason = "benchmarks use the real clock")]

use std::time::Instant;

use bytes::Bytes;
use divan::{Bencher, black_box, counter::ItemsCount};
use spoke_protocol::{
    BatchAccount, Direction, Entry, EntryLimits, Epoch, PartnerMatch, Seq, Tally,
    message::{Ack, Cursor, Features, Frame, Push, ReceiveLimits},
    sync::{
        AppendResult, Extent, OriginRead, OriginStanding, Receiver, Sender, SenderStart, TrimMode,
        find_position,
    },
};

const ENTRIES: u64 = 1000;

fn main() {
    divan::main();
}

fn entries() -> Vec<Entry> {
    let mut state = 1u64;
    let mut digits = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{state:016x}")
    };
    (1..=ENTRIES)
        .map(|n| {
            let payload: String = (0..7).map(|_| digits()).collect();
            let fields = vec![
                (Bytes::from_static(b"topic"), Bytes::from_static(b"test")),
                (Bytes::from_static(b"payload"), Bytes::from(payload[..100].to_owned())),
            ];
            Entry { seq: Seq::new(1_700_000_000_000 + n / 3, n % 3), fields }
        })
        .collect()
}

fn push() -> Push {
    let entries = entries();
    let through = entries[entries.len() - 1].seq;
    let account = BatchAccount { tally: Tally::default(), ..BatchAccount::default() };
    Push { epoch: Epoch::FIRST, after: Seq::ZERO, through, entries, account, seal: None }
}

#[divan::bench(args = [Features(0), Features::COMPRESSION])]
fn encode(bencher: Bencher<'_, '_>, features: Features) {
    let frame = Frame::Push(push());
    bencher.counter(ItemsCount::new(ENTRIES)).bench(|| black_box(&frame).encode(features));
}

#[divan::bench(args = [Features(0), Features::COMPRESSION])]
fn decode(bencher: Bencher<'_, '_>, features: Features) {
    let bytes = Frame::Push(push()).encode(features);
    let decode = || Frame::decode(black_box(bytes.clone()), Features::COMPRESSION);
    bencher.counter(ItemsCount::new(ENTRIES)).bench(decode);
}

#[divan::bench]
fn sender(bencher: Bencher<'_, '_>) {
    let standing = OriginStanding::default();
    let position = find_position(&standing, &Cursor::default(), None, PartnerMatch::Same);
    let begun = SenderStart { position, standing };
    let entries = entries();
    let (first, last) = (entries[0].seq, entries[entries.len() - 1].seq);
    let extent = Extent { first, last, length: ENTRIES, added: ENTRIES, ..Extent::default() };
    bencher
        .counter(ItemsCount::new(ENTRIES))
        .with_inputs(|| {
            let mut sender =
                Sender::new(Direction::Up, ReceiveLimits::default(), TrimMode::Keep, &begun);
            sender.handle_news();
            (sender, OriginRead { entries: entries.clone(), extent, is_end: false })
        })
        .bench_values(|(mut sender, read)| {
            let now = Instant::now();
            sender.handle_read(read, now);
            while let Some(push) = sender.poll_push(now) {
                let (epoch, seq) = (push.epoch, push.through);
                let _ = black_box(sender.handle_ack(Ack { epoch, seq, refused: Vec::new() }, now));
            }
            sender
        });
}

#[divan::bench]
fn receiver(bencher: Bencher<'_, '_>) {
    let push = push();
    let cursor = push.through;
    bencher
        .counter(ItemsCount::new(ENTRIES))
        .with_inputs(|| {
            let start = (Epoch::FIRST, Seq::ZERO);
            (Receiver::new(Direction::Up, EntryLimits::default(), start), push.clone())
        })
        .bench_values(|(mut receiver, push)| {
            let append = black_box(receiver.handle_push(push));
            let done = AppendResult::Done { cursor, accepted: ENTRIES, duplicates: 0, id: None };
            (receiver.handle_appended(&done), append)
        });
}
