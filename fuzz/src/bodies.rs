//! The bodies of the fuzz targets: each parses arbitrary, untrusted bytes.
//!
//! None may panic. A value that is accepted must round-trip through its encoding, and an error must
//! have a message. The memory that a body allocates is measured by its caller.

use std::{fmt::Debug, str::FromStr};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use spoke_protocol::{
    ClientId, Epoch, Seq,
    message::{Features, Frame},
    wire::json::{
        AddedBody, BatchAddedBody, CursorBody, EntryBody, Fields, HelloBody, RequestBody,
        WelcomeBody, XaddBody, XreadBody,
    },
};
use spoke_service::config::ServiceUrl;
use spoke_store::RedisUrl;

/// A body, for a caller that runs all of them.
pub type Body = fn(&[u8]);

/// All bodies with their names.
pub const ALL: [(&str, Body); 4] =
    [("frame", frame), ("packed", packed), ("forms", forms), ("words", words)];

/// A frame of `spoke.v1`.
pub fn frame(bytes: &[u8]) {
    match Frame::decode(Bytes::copy_from_slice(bytes), Features::COMPRESSION) {
        Ok(frame) => check_round_trip(&frame),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A PACKED frame around the bytes, which arbitrary bytes hardly ever are. Its announced length is the
/// true one, and then the one in the first bytes.
pub fn packed(bytes: &[u8]) {
    let zstd = stored(bytes);
    let announced = bytes.first_chunk().map_or(0, |first| u32::from_be_bytes(*first));
    for length in [bytes.len() as u32, announced] {
        let mut packed = vec![0x93, 0x08, 0xce];
        packed.extend(length.to_be_bytes());
        packed.push(0xc6);
        packed.extend((zstd.len() as u32).to_be_bytes());
        packed.extend(&zstd);
        frame(&packed);
    }
}

/// The JSON bodies of HTTP and of `spoke.v1.json`.
pub fn forms(bytes: &[u8]) {
    check_json::<CursorBody>(bytes);
    check_json::<EntryBody>(bytes);
    check_json::<Fields>(bytes);
    check_json::<AddedBody>(bytes);
    check_json::<BatchAddedBody>(bytes);
    check_json::<HelloBody>(bytes);
    check_json::<WelcomeBody>(bytes);
    check_json::<XreadBody>(bytes);
    if let Some(XaddBody::Batch(batch)) = read::<XaddBody>(bytes) {
        let again = serde_json::to_vec(&batch).expect("a JSON body can be written");
        assert_eq!(read(&again), Some(XaddBody::Batch(batch)));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        match RequestBody::read(text) {
            Ok(request) => {
                let _ = request.kind();
                if let Some(payload) = request.payload {
                    let _ = read::<XaddBody>(payload.get().as_bytes());
                }
            }
            Err(misread) => assert!(!misread.error.to_string().is_empty()),
        }
    }
}

/// Values with a text form: names, numbers and addresses.
pub fn words(bytes: &[u8]) {
    if let Ok(seq) = Seq::from_bytes(bytes) {
        assert_eq!(seq.to_string().as_bytes(), bytes, "a seq has one text only");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(client) = parse_text::<ClientId>(text) {
        assert!(
            !client.as_str().contains([':', '/', ' ', '*', '\n']),
            "a client ID is part of a key"
        );
    }
    parse_text::<Seq>(text);
    parse_text::<RedisUrl>(text);
    parse_text::<ServiceUrl>(text);
    if let Some(epoch) = read::<Epoch>(bytes) {
        assert_eq!(read(epoch.to_string().as_bytes()), Some(epoch));
    }
}

fn check_round_trip(frame: &Frame) {
    for features in [Features::default(), Features::COMPRESSION] {
        let again = Frame::decode(frame.encode(features), Features::COMPRESSION);
        assert_eq!(again.as_ref(), Ok(frame), "the frame round-trips");
    }
}

fn check_json<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) {
    if let Some(value) = read::<T>(bytes) {
        let again = serde_json::to_vec(&value).expect("a JSON body can be written");
        assert_eq!(read(&again), Some(value), "the value round-trips");
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let read = serde_json::from_slice(bytes);
    read.map_err(|error| assert!(!error.to_string().is_empty())).ok()
}

fn parse_text<T: FromStr<Err: ToString>>(text: &str) -> Option<T> {
    let read = text.parse();
    read.map_err(|error: T::Err| assert!(!error.to_string().is_empty())).ok()
}

/// Returns a zstd frame (RFC 8878) of raw blocks: packed bytes without a compressor.
fn stored(bytes: &[u8]) -> Vec<u8> {
    const BLOCK_MAX: usize = 128 * 1024;
    // The magic number; one segment with eight bytes of content size and no checksum.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1110_0000];
    frame.extend((bytes.len() as u64).to_le_bytes());
    let blocks = bytes.len().div_ceil(BLOCK_MAX).max(1);
    for n in 0..blocks {
        let block = &bytes[n * BLOCK_MAX..bytes.len().min((n + 1) * BLOCK_MAX)];
        let is_last = u32::from(n + 1 == blocks);
        frame.extend(&((block.len() as u32) << 3 | is_last).to_le_bytes()[..3]);
        frame.extend(block);
    }
    frame
}
