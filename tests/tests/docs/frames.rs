//! The examples of frames in docs/protocol.md are what the code writes and reads, byte for byte.

use std::collections::BTreeMap;

use bytes::Bytes;
use spoke_shared::{
    entry::{Digest, Entry, Unfit},
    instance::Instance,
    seq::{Epoch, Seq},
    sync::account::{Account, Cause, Known, Loss, Tally},
    wire::frame::{
        Ack, Cursor, Features, Frame, Goaway, Granted, Hello, Origin, Push, Reason, Welcome,
    },
};

use crate::page::blocks;

const MS: u64 = 1_700_000_000_000;

/// What the document shows, by name: pairs of hex digits up to a `#` in each line.
fn shown() -> BTreeMap<String, Bytes> {
    let blocks = blocks("docs/protocol.md").into_iter().filter(|block| block.language == "hex");
    let bytes = |text: &str| {
        let code = text.lines().filter_map(|line| line.split('#').next());
        let digits: String = code.flat_map(str::split_whitespace).collect();
        Bytes::from(
            (0..digits.len()).step_by(2).map(|at| byte(&digits[at..at + 2])).collect::<Vec<_>>(),
        )
    };
    blocks.map(|block| (block.words[0].clone(), bytes(&block.text))).collect()
}

fn byte(digits: &str) -> u8 {
    u8::from_str_radix(digits, 16).expect("an example is in hex digits")
}

fn entry(ms: u64, n: u64, fields: &[(&'static str, &'static str)]) -> Entry {
    let fields = fields.iter().map(|(name, value)| (Bytes::from(*name), Bytes::from(*value)));
    Entry { seq: Seq::new(ms, n), fields: fields.collect() }
}

fn hello() -> Hello {
    Hello {
        major: 1,
        minor: 0,
        version: "0.1.0".to_owned(),
        origin: Origin {
            epoch: Epoch(1),
            start: Seq::ZERO,
            first: Seq::new(MS, 0),
            last: Seq::new(MS + 1, 2),
            added: 5,
            acked: Seq::new(MS, 1),
        },
        cursor: Cursor {
            epoch: Epoch(2),
            seq: Seq::new(7, 0),
            digest: Some(Digest([0xab; 16])),
            tally: Tally { added: 9, dead: 2, lost: 3, known: Known::Exactly },
        },
        features: Features::COMPRESSION,
        instance: Instance(0x0123_4567_89ab_cdef),
    }
}

fn welcome() -> Welcome {
    Welcome {
        major: 1,
        minor: 0,
        version: "0.1.0".to_owned(),
        generation: 3,
        cursor: Cursor::default(),
        origin: Origin { epoch: Epoch(2), ..Origin::default() },
        granted: Granted::default(),
        heartbeat_ms: 30_000,
        server_time_ms: MS,
        features: Features(0),
    }
}

fn push() -> Push {
    let (from, to) = (Seq::new(5, 1), Seq::new(300, 2));
    let loss = |epoch, count, cause| Loss { epoch: Epoch(epoch), from, to, count, cause };
    Push {
        epoch: Epoch(1),
        after: Seq::new(MS, 0),
        through: Seq::new(MS + 4, 9),
        entries: vec![
            entry(MS, 1, &[("topic", "test")]),
            entry(MS, 3, &[("a", ""), ("a", "\u{0}")]),
            entry(MS + 4, 9, &[("", "x")]),
        ],
        account: Account {
            tally: Tally { added: 7, dead: 1, lost: 3, known: Known::Exactly },
            losses: vec![loss(2, Some(3), Cause::Trimmed), loss(1, None, Cause::OriginRewound)],
            is_inherited: true,
        },
    }
}

/// A batch that is worth packing.
fn long() -> Push {
    let value = Bytes::from("hello".repeat(200));
    Push {
        epoch: Epoch(1),
        after: Seq::new(MS, 0),
        through: Seq::new(MS, 1),
        entries: vec![Entry {
            seq: Seq::new(MS, 1),
            fields: vec![(Bytes::from("payload"), value)],
        }],
        account: Account::default(),
    }
}

#[test]
fn each_example_of_a_frame_is_what_the_code_writes_and_reads() {
    let ack = |refused| Ack { epoch: Epoch(1), seq: Seq::new(5, 1), refused };
    let goaway = || Goaway { reason: Reason::Restart, message: "bye".to_owned(), wait_ms: 500 };
    let frames = [
        ("HELLO", Frame::Hello(Box::new(hello()))),
        ("WELCOME", Frame::Welcome(Box::new(welcome()))),
        ("PUSH", Frame::Push(push())),
        ("ACK", Frame::Ack(ack(vec![(Seq::new(4, 0), Unfit::TooLarge)]))),
        ("PING", Frame::Ping),
        ("PONG", Frame::Pong(ack(vec![]))),
        ("GOAWAY", Frame::Goaway(goaway())),
    ];
    let mut shown = shown();
    for (name, frame) in frames {
        let bytes = shown.remove(name).unwrap_or_else(|| panic!("there is no example of {name}"));
        assert_eq!(
            format!("{:02x?}", frame.encode(Features(0)).to_vec()),
            format!("{:02x?}", bytes.to_vec()),
            "{name}"
        );
        assert_eq!(Frame::decode(bytes), Ok(frame), "{name}");
    }
    // How well it packs is the library's affair and may change; what it unpacks to may not.
    let packed = shown.remove("PACKED").expect("there is an example of PACKED");
    let frame = Frame::Push(long());
    assert_eq!(
        Frame::decode(packed.clone()),
        Ok(frame.clone()),
        "{:02x?}",
        frame.encode(Features::COMPRESSION).to_vec()
    );
    assert_eq!(frame.encode(Features::COMPRESSION)[..2], packed[..2]);
    assert!(shown.is_empty(), "nobody checks {:?}", shown.keys());
}
