//! The example frames in docs/protocol.md are what the code writes and reads, byte for byte.

use std::collections::BTreeMap;

use bytes::Bytes;
use spoke_protocol::{
    BatchAccount, Entry, Epoch, Seq,
    message::{Features, Frame, Push},
};

use crate::pages::{golden, page::blocks};

const MS: u64 = 1_700_000_000_000;

/// The examples of the document, by name.
fn shown() -> BTreeMap<String, Bytes> {
    let blocks = blocks("docs/protocol.md").into_iter().filter(|block| block.language == "hex");
    let read = |name: String, text: String| {
        let bytes = golden::frames(&format!("== {name}\n{text}")).remove(name.as_str());
        (name, Bytes::from(bytes.expect("an example has bytes")))
    };
    blocks.map(|block| read(block.words[0].clone(), block.text)).collect()
}

/// A batch that is worth compressing.
fn compressible_batch() -> Push {
    let value = Bytes::from("hello".repeat(200));
    Push {
        epoch: Epoch(1),
        after: Seq::new(MS, 0),
        through: Seq::new(MS, 1),
        entries: vec![Entry {
            seq: Seq::new(MS, 1),
            fields: vec![(Bytes::from("payload"), value)],
        }],
        account: BatchAccount::default(),
        seal: None,
    }
}

#[test]
fn every_example_frame_is_what_the_code_writes_and_reads() {
    // The codec's own test checks the decoded values, with the same file.
    let mut golden =
        golden::frames(include_str!("../../../../shared/protocol/src/wire/golden/0.1/frames.hex"));
    golden.remove("packed").expect("0.1 has a compressed frame");
    let mut shown = shown();
    for (name, bytes) in golden {
        let name = name.to_uppercase();
        let example =
            shown.remove(&name).unwrap_or_else(|| panic!("there is no example of {name}"));
        let hex = format!("{bytes:02x?}");
        assert_eq!(format!("{:02x?}", example.to_vec()), hex, "{name}");
        let frame = Frame::decode(example, Features::COMPRESSION).expect("an example is a frame");
        assert_eq!(format!("{:02x?}", frame.encode(Features(0)).to_vec()), hex, "{name}");
    }
    // The compressed bytes depend on the library and may change; the decompressed ones may not.
    let packed = shown.remove("PACKED").expect("there is an example of PACKED");
    let frame = Frame::Push(compressible_batch());
    assert_eq!(
        Frame::decode(packed.clone(), Features::COMPRESSION),
        Ok(frame.clone()),
        "{:02x?}",
        frame.encode(Features::COMPRESSION).to_vec()
    );
    assert_eq!(frame.encode(Features::COMPRESSION)[..2], packed[..2]);
    assert!(shown.is_empty(), "nothing checks {:?}", shown.keys());
}
