use proptest::prelude::*;

use super::*;
use crate::{
    entry::{Digest, RejectReason},
    instance::InstanceId,
    limits::{BATCH_BYTES_MAX, ENTRY_FIELDS_MAX, FIELD_BYTES_MIN, UNKNOWN_VALUES_MAX},
    loss::{BatchAccount, Loss, LossCause, Tally, TallyPrecision},
    message::{Cursor, Goaway, GoawayReason, Hello, OriginState, Push, ReceiveLimits, Welcome},
    partner::PartnerId,
    seal::Seal,
    seq::{Epoch, Seq},
    wire::golden::{self, HELP},
};

fn own(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn entry(seq: Seq, fields: &[(&str, &str)]) -> Entry {
    Entry { seq, fields: fields.iter().map(|(name, value)| (own(name), own(value))).collect() }
}

fn hello() -> Hello {
    Hello {
        major: 1,
        minor: 0,
        version: "0.1.0".to_owned(),
        origin: OriginState {
            epoch: Epoch(1),
            start: Seq::ZERO,
            first: Seq::new(1_700_000_000_000, 0),
            last: Seq::new(1_700_000_000_001, 2),
            added: 5,
            acked: Seq::new(1_700_000_000_000, 1),
        },
        cursor: Cursor {
            epoch: Epoch(2),
            seq: Seq::new(7, 0),
            digest: Some(Digest([0xab; 16])),
            tally: Tally { added: 9, dead: 2, lost: 3, precision: TallyPrecision::Exact },
            seal: Some(Seal([0xcd; 16])),
            is_found: false,
        },
        features: Features::COMPRESSION,
        instance: InstanceId(0x0123_4567_89ab_cdef),
        partner: PartnerId([0x12; 16]),
    }
}

fn welcome() -> Welcome {
    Welcome {
        major: 1,
        minor: 0,
        version: "0.1.0".to_owned(),
        generation: 3,
        cursor: Cursor::default(),
        origin: OriginState { epoch: Epoch(2), ..OriginState::default() },
        granted: ReceiveLimits::default(),
        heartbeat_ms: 30_000,
        server_time_ms: 1_700_000_000_000,
        features: Features(0),
        partner: PartnerId([0x34; 16]),
    }
}

fn loss(count: Option<u64>, cause: LossCause) -> Loss {
    Loss { epoch: Epoch(2), from: Seq::new(5, 1), to: Seq::new(300, 2), count, cause }
}

fn push() -> Push {
    let ms = 1_700_000_000_000;
    Push {
        epoch: Epoch(1),
        after: Seq::new(ms, 0),
        through: Seq::new(ms + 4, 9),
        entries: vec![
            entry(Seq::new(ms, 1), &[("topic", "test")]),
            entry(Seq::new(ms, 3), &[("a", ""), ("a", "\u{0}")]),
            entry(Seq::new(ms + 4, 9), &[("", "x")]),
        ],
        account: BatchAccount {
            tally: Tally { added: 7, dead: 1, lost: 3, precision: TallyPrecision::Exact },
            losses: vec![
                loss(Some(3), LossCause::Trimmed),
                Loss { epoch: Epoch(1), ..loss(None, LossCause::OriginRewound) },
            ],
            is_inherited: true,
        },
        seal: Some(Seal([0xef; 16])),
    }
}

/// Returns every frame of 0.1 with the value that its golden bytes encode.
fn all_frames() -> [(&'static str, Frame); 8] {
    let refused = vec![(Seq::new(4, 0), RejectReason::TooLarge)];
    let (epoch, seq) = (Epoch(1), Seq::new(5, 1));
    let (reason, message) = (GoawayReason::Restart, "bye".to_owned());
    [
        ("hello", Frame::Hello(Box::new(hello()))),
        ("welcome", Frame::Welcome(Box::new(welcome()))),
        ("push", Frame::Push(push())),
        ("ack", Frame::Ack(Ack { epoch, seq, refused })),
        ("ping", Frame::Ping),
        ("pong", Frame::Pong(Ack { epoch, seq, refused: vec![] })),
        ("goaway", Frame::Goaway(Goaway { reason, message, wait_ms: 500 })),
        ("hold", Frame::Hold("full".to_owned())),
    ]
}

#[test]
fn the_bytes_of_0_1_are_decoded_and_encoded_exactly() {
    let mut golden = golden::frames(include_str!("../golden/0.1/frames.hex"));
    for (name, frame) in all_frames() {
        let bytes = golden.remove(name).unwrap();
        assert_eq!(
            Frame::decode(bytes.clone().into(), Features::COMPRESSION),
            Ok(frame.clone()),
            "{name}: {HELP}"
        );
        let encoded = frame.encode(Features(0));
        assert_eq!(hex::encode(encoded), hex::encode(bytes), "{name}: {HELP}");
    }
    let packed = Frame::decode(golden.remove("packed").unwrap().into(), Features::COMPRESSION);
    let Ok(Frame::Push(packed)) = packed else { panic!("{packed:?}: {HELP}") };
    assert_eq!((packed.through, packed.bytes()), (Seq::new(2, 0), 1001), "{HELP}");
    assert!(golden.is_empty(), "{golden:?}");
}

#[test]
fn the_known_parts_of_a_later_minor_version_are_decoded() {
    let newer = golden::frames(include_str!("../golden/newer.hex"));
    let (minor, version, features) = (1, "0.2.0".to_owned(), Features(u64::MAX));
    let mut push = push();
    push.account.losses[0].cause = LossCause::Other;
    for (name, frame) in all_frames() {
        let known = match frame {
            Frame::Hello(known) => Frame::Hello(Box::new(Hello {
                minor,
                version: version.clone(),
                features,
                ..*known
            })),
            Frame::Welcome(known) => {
                let version = version.clone();
                Frame::Welcome(Box::new(Welcome { minor, version, features, ..*known }))
            }
            Frame::Push(_) => Frame::Push(push.clone()),
            Frame::Ack(known) => {
                Frame::Ack(Ack { refused: vec![(Seq::new(4, 0), RejectReason::Other)], ..known })
            }
            Frame::Goaway(known) => Frame::Goaway(Goaway { reason: GoawayReason::Other, ..known }),
            same @ (Frame::Ping | Frame::Pong(_) | Frame::Hold(_)) => same,
        };
        assert_eq!(
            Frame::decode(newer[name].clone().into(), Features::COMPRESSION),
            Ok(known),
            "{name}: {HELP}"
        );
    }
}

#[test]
fn an_invalid_frame_is_refused() {
    let table = [
        ("", "nothing"),
        ("c0", "no array"),
        ("90", "an empty array"),
        ("9163", "an unknown kind"),
        ("910500", "bytes after the frame"),
        ("9205", "a missing element"),
        ("dd7fffffff05", "an array longer than the frame"),
        ("950401050193", "a refusal cut short"),
        ("9703010000000092", "an entry without its three values"),
        ("97030100000000dd00003000", "more entries than a batch holds"),
        ("970301000000009303009191", "fields without a value"),
        ("97030105000500 90", "an empty range"),
        ("97030105000400 90", "a batch that ends before it begins"),
        ("97030100000100 93cfffffffffffffffff0090", "an entry past the end of its batch"),
        ("9408c6ffffffff", "packed bytes of 4 GiB"),
    ];
    for (frame, problem) in table {
        let bytes = hex::decode(frame.replace(' ', "")).unwrap();
        assert!(Frame::decode(bytes.into(), Features::COMPRESSION).is_err(), "{problem}");
    }
}

#[test]
fn a_packed_batch_cannot_unpack_to_more_than_a_frame() {
    let bomb = zstd::bulk::compress(&vec![0; 2 * FRAME_BYTES_MAX], 1).unwrap();
    for length in [FRAME_BYTES_MAX as u64, 2 * FRAME_BYTES_MAX as u64] {
        let mut w = FrameWriter(Vec::new());
        w.array(3).uint(PACKED).uint(length).bytes(&bomb);
        assert!(Frame::decode(w.0.into(), Features::COMPRESSION).is_err());
    }
}

#[test]
fn a_packed_frame_is_refused_unless_the_handshake_agreed_on_it() {
    let bomb = zstd::bulk::compress(&vec![0; FRAME_BYTES_MAX], 1).unwrap();
    let mut w = FrameWriter(Vec::new());
    w.array(3).uint(PACKED).uint(FRAME_BYTES_MAX as u64).bytes(&bomb);
    assert_eq!(Frame::decode(w.0.into(), Features(0)), Err(DecodeError::NotAgreed));
}

#[test]
fn an_empty_field_counts_as_64_bytes_in_a_batch_but_a_single_entry_always_passes() {
    let batch_of = |entries: u64, fields: usize| {
        let fields = vec![(Bytes::new(), Bytes::new()); fields];
        let entries = (1..=entries).map(|n| Entry { seq: Seq::new(n, 0), fields: fields.clone() });
        let entries: Vec<_> = entries.collect();
        let through = entries[entries.len() - 1].seq;
        Frame::Push(Push { epoch: Epoch(1), through, entries, ..Push::default() })
    };
    let most = BATCH_BYTES_MAX / FIELD_BYTES_MIN;
    for (entries, fields, is_accepted) in [
        (2, 1024, true),
        (64, most / 64, true),
        (64, most / 64 + 1, false),
        (1000, 128, false),
        (1, 8 * ENTRY_FIELDS_MAX, true),
    ] {
        let frame = batch_of(entries, fields);
        let packed = frame.encode(Features::COMPRESSION);
        assert!(packed.len() < 40_000, "{}", packed.len());
        let is_read = Frame::decode(packed, Features::COMPRESSION) == Ok(frame);
        assert_eq!(is_read, is_accepted, "{entries} entries of {fields} fields");
    }
}

#[test]
fn additions_of_a_newer_version_are_skipped_up_to_a_limit() {
    let with_tail = |values: usize| {
        let mut w = FrameWriter(Vec::new());
        w.array(1 + values).uint(PING);
        (0..values).for_each(|_| _ = w.uint(0u64));
        Frame::decode(w.0.into(), Features(0))
    };
    assert_eq!(with_tail(UNKNOWN_VALUES_MAX), Ok(Frame::Ping));
    let over = Err(DecodeError::Bound("unknown tail"));
    assert_eq!(with_tail(UNKNOWN_VALUES_MAX + 1), over);
    let mut nested = vec![0x92, PING as u8];
    nested.extend([0x91; 2 * UNKNOWN_VALUES_MAX]);
    nested.push(0);
    assert_eq!(Frame::decode(nested.into(), Features(0)), over);
}

#[test]
fn only_a_batch_may_be_packed() {
    let ping = Frame::Ping.encode(Features(0));
    let mut w = FrameWriter(Vec::new());
    w.array(3).uint(PACKED).uint(2u64).bytes(&zstd::bulk::compress(&ping, 1).unwrap());
    assert!(Frame::decode(w.0.into(), Features::COMPRESSION).is_err());
}

#[test]
fn a_batch_is_packed_only_if_agreed_on_and_if_it_gets_smaller() {
    let mut push = push();
    push.entries[2].fields[0].1 = vec![b'x'; 10_000].into();
    let frame = Frame::Push(push);
    let plain = frame.encode(Features(0));
    let packed = frame.encode(Features::COMPRESSION);
    assert!(packed.len() < plain.len() / 10);
    assert_eq!(Frame::decode(packed, Features::COMPRESSION), Ok(frame));
    let small = Frame::Push(self::push());
    assert_eq!(small.encode(Features::COMPRESSION), small.encode(Features(0)));
}

#[test]
fn entries_of_100_bytes_take_at_most_15_per_cent_more_on_the_wire() {
    let value = "v".repeat(100);
    let ms = 1_700_000_000_000;
    let entries: Vec<_> = (1..=500)
        .map(|n| entry(Seq::new(ms + n, 0), &[("topic", "test"), ("payload", &value)]))
        .collect();
    let through = entries[499].seq;
    let after = Seq::new(ms, 0);
    let push = Push { epoch: Epoch(1), after, through, entries, ..Push::default() };
    let bytes = push.bytes();
    let wire = Frame::Push(push).encode(Features(0)).len();
    assert!(wire * 100 <= bytes * 115, "{wire} bytes on the wire for {bytes}");
}

fn seqs() -> impl Strategy<Value = Seq> {
    prop_oneof![
        (any::<u64>(), any::<u64>()).prop_map(|(ms, n)| Seq::new(ms, n)),
        (0..4u64, 0..4u64).prop_map(|(ms, n)| Seq::new(ms, n)),
        Just(Seq::MAX),
    ]
}

fn byte_strings() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

prop_compose! {
    fn pushes()(
        epoch in 0..=Epoch::MAX.0,
        mut seqs in prop::collection::btree_set(seqs(), 2..20),
        fields in prop::collection::vec(
            prop::collection::vec((byte_strings(), byte_strings()), 0..5), 20..21),
    ) -> Push {
        let after = seqs.pop_first().unwrap();
        let through = *seqs.last().unwrap();
        let entries = seqs.into_iter().zip(fields).map(|(seq, fields)| Entry { seq, fields });
        let entries = entries.collect();
        Push { epoch: Epoch(epoch), after, through, entries, ..Push::default() }
    }
}

proptest! {
    #[test]
    fn every_batch_round_trips_packed_or_not(push in pushes()) {
        let frame = Frame::Push(push);
        for features in [Features(0), Features::COMPRESSION] {
            prop_assert_eq!(Frame::decode(frame.encode(features), Features::COMPRESSION), Ok(frame.clone()));
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Frame::decode(bytes.into(), Features::COMPRESSION);
    }

    #[test]
    fn a_corrupted_frame_never_panics_and_a_truncated_one_is_refused(
        push in pushes(), at: prop::sample::Index, byte: u8
    ) {
        let whole = Frame::Push(push).encode(Features(0));
        let mut changed = whole.to_vec();
        let at = at.index(changed.len());
        changed[at] = byte;
        let _ = Frame::decode(changed.into(), Features::COMPRESSION);
        prop_assert!(Frame::decode(whole.slice(..at), Features::COMPRESSION).is_err());
    }
}
