//! Input that makes a reader allocate the most memory for the fewest bytes, made by an attacker who
//! knows how the reader works.

use spoke_protocol::limits::FRAME_BYTES_MAX;

/// All inputs, each with a description.
pub(crate) fn all() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("a batch of empty fields", empty_fields(1000, 1024)),
        ("a batch with the maximum number of empty fields", empty_fields(1000, 128)),
        ("a batch of empty fields, packed by zstd", packed(&empty_fields(1000, 1024))),
        ("zeros of 1 GiB, packed by zstd", packed_zeros()),
        ("an acknowledgement of refused entries", refused()),
        ("an array of arrays", vec![0x91; FRAME_BYTES_MAX]),
        ("an unknown tail of arrays", [vec![0x92, 0x05], vec![0x91; 4_000_000]].concat()),
        ("a list of empty pairs", json_list(r#"{"seq":"1-0","fields":["#, r#"["",""]"#, "]}")),
        ("an object of empty pairs", json_list(r#"{"seq":"1-0","fields":{"#, r#""":"""#, "}}")),
        ("a batch of empty entries", batch(r#"{"seq":"1-0","fields":[]}"#)),
        ("a batch of entries of one field", batch(r#"{"seq":"1-0","fields":{"":""}}"#)),
        ("a batch of many fields each", batch(&many_fields(128))),
        ("a batch of too many fields each", batch(&many_fields(300))),
        (
            "entries that were read",
            json_list(
                r#"{"epoch":1,"seq":"1-0","entries":["#,
                r#"{"id":"1-0","fields":[["",""]]}"#,
                "]}",
            ),
        ),
        (
            "entries that were refused",
            json_list(
                r#"{"seq":"1-0","accepted":0,"duplicates":0,"refused":["#,
                r#"{"seq":"1-0","reason":"empty"}"#,
                "]}",
            ),
        ),
        ("a payload of numbers", json_list(r#"{"type":"echo","payload":["#, "1", "]}")),
        ("an id of numbers", json_list(r#"{"type":"echo","id":["#, "1", "]}")),
        ("brackets", vec![b'['; FRAME_BYTES_MAX]),
        (
            "brackets in a payload",
            [
                br#"{"type":"echo","payload":"#.to_vec(),
                vec![b'['; 100_000],
                vec![b']'; 100_000],
                b"}".to_vec(),
            ]
            .concat(),
        ),
        ("one long number", vec![b'9'; FRAME_BYTES_MAX]),
        ("one long string", [vec![b'"'], vec![b'x'; 4_000_000], vec![b'"']].concat()),
        ("an unknown key", [b"{\"".to_vec(), vec![b'x'; 4_000_000], b"\":1}".to_vec()].concat()),
    ]
}

/// A PUSH of nothing but empty fields, as many as fit a frame.
fn empty_fields(entries: u32, fields: u32) -> Vec<u8> {
    let mut frame = vec![0x97, 0x03, 0x01, 0x00, 0x00, 0xcd, 0xff, 0xff, 0x00, 0xdd];
    frame.extend((3 * entries).to_be_bytes());
    for _ in 0..entries {
        frame.extend([0x01, 0x00, 0xdd]);
        frame.extend((2 * fields).to_be_bytes());
        frame.extend([0xc4, 0x00].repeat(2 * fields as usize));
    }
    frame.truncate(FRAME_BYTES_MAX);
    frame
}

fn packed(plain: &[u8]) -> Vec<u8> {
    wrapped(plain.len(), zstd::bulk::compress(plain, 19).expect("zstd packs"))
}

/// A PACKED frame that claims to unpack to one frame and would unpack to far more.
fn packed_zeros() -> Vec<u8> {
    let mut packer = zstd::stream::Encoder::new(Vec::new(), 1).expect("zstd packs");
    for _ in 0..1024 {
        std::io::Write::write_all(&mut packer, &vec![0; 1024 * 1024]).expect("zstd packs");
    }
    wrapped(FRAME_BYTES_MAX, packer.finish().expect("zstd packs"))
}

fn wrapped(length: usize, zstd: Vec<u8>) -> Vec<u8> {
    let mut frame = vec![0x93, 0x08, 0xce];
    frame.extend((length as u32).to_be_bytes());
    frame.push(0xc6);
    frame.extend((zstd.len() as u32).to_be_bytes());
    frame.extend(zstd);
    frame
}

/// An ACK that refuses a thousand entries, each with the longest reason.
fn refused() -> Vec<u8> {
    let mut frame = vec![0x95, 0x04, 0x01, 0x05, 0x01, 0xdd];
    frame.extend(3000u32.to_be_bytes());
    for _ in 0..1000 {
        frame.extend([0x04, 0x00, 0xda, 0x02, 0x00]);
        frame.extend([b'x'; 512]);
    }
    frame
}

/// `prefix`, as many of `element` as fit, `suffix`.
fn json_list(prefix: &str, element: &str, suffix: &str) -> Vec<u8> {
    let available = FRAME_BYTES_MAX - prefix.len() - suffix.len();
    let elements = vec![element; available / (element.len() + 1)].join(",");
    [prefix, &elements, suffix].concat().into_bytes()
}

fn batch(entry: &str) -> Vec<u8> {
    json_list(r#"{"entries":["#, entry, "]}")
}

fn many_fields(count: usize) -> String {
    format!(r#"{{"seq":"1-0","fields":{{{}}}}}"#, vec![r#""":"""#; count].join(","))
}
