//! The bodies of the fuzz targets: each reads any bytes as a stranger might send them.
//!
//! None may panic. What is taken must survive being written and read again; what is refused is
//! refused with words. How much memory a body may ask for is measured by those who run it.

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

/// A body, for whoever runs all of them.
pub type Body = fn(&[u8]);

/// All bodies with their names.
pub const ALL: [(&str, Body); 4] =
    [("frame", frame), ("packed", packed), ("forms", forms), ("words", words)];

/// A frame of `spoke.v1`.
pub fn frame(bytes: &[u8]) {
    match Frame::decode(Bytes::copy_from_slice(bytes), Features::COMPRESSION) {
        Ok(frame) => survives(&frame),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Bytes that a stranger has packed, which arbitrary bytes hardly ever are: PACKED around them,
/// with the length told as it is, or as their own first bytes have it.
pub fn packed(bytes: &[u8]) {
    let zstd = stored(bytes);
    let told = bytes.first_chunk().map_or(0, |first| u32::from_be_bytes(*first));
    for length in [bytes.len() as u32, told] {
        let mut packed = vec![0x93, 0x08, 0xce];
        packed.extend(length.to_be_bytes());
        packed.push(0xc6);
        packed.extend((zstd.len() as u32).to_be_bytes());
        packed.extend(&zstd);
        frame(&packed);
    }
}

/// The forms of HTTP and of `spoke.v1.json`.
pub fn forms(bytes: &[u8]) {
    form::<CursorBody>(bytes);
    form::<EntryBody>(bytes);
    form::<Fields>(bytes);
    form::<AddedBody>(bytes);
    form::<BatchAddedBody>(bytes);
    form::<HelloBody>(bytes);
    form::<WelcomeBody>(bytes);
    form::<XreadBody>(bytes);
    if let Some(XaddBody::Batch(batch)) = read::<XaddBody>(bytes) {
        let again = serde_json::to_vec(&batch).expect("a form can be written");
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

/// The words: what names, numbers and addresses are made of.
pub fn words(bytes: &[u8]) {
    if let Ok(seq) = Seq::from_bytes(bytes) {
        assert_eq!(seq.to_string().as_bytes(), bytes, "a seq has one form only");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(client) = word::<ClientId>(text) {
        assert!(!client.as_str().contains([':', '/', ' ', '*', '\n']), "it is a part of a key");
    }
    word::<Seq>(text);
    word::<RedisUrl>(text);
    word::<ServiceUrl>(text);
    if let Some(epoch) = read::<Epoch>(bytes) {
        assert_eq!(read(epoch.to_string().as_bytes()), Some(epoch));
    }
}

fn survives(frame: &Frame) {
    for features in [Features::default(), Features::COMPRESSION] {
        let again = Frame::decode(frame.encode(features), Features::COMPRESSION);
        assert_eq!(again.as_ref(), Ok(frame), "what was read can be written and read again");
    }
}

fn form<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) {
    if let Some(form) = read::<T>(bytes) {
        let again = serde_json::to_vec(&form).expect("a form can be written");
        assert_eq!(read(&again), Some(form), "what was read can be written and read again");
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let read = serde_json::from_slice(bytes);
    read.map_err(|error| assert!(!error.to_string().is_empty())).ok()
}

fn word<T: FromStr<Err: ToString>>(text: &str) -> Option<T> {
    let read = text.parse();
    read.map_err(|error: T::Err| assert!(!error.to_string().is_empty())).ok()
}

/// A zstd frame (RFC 8878) of raw blocks: packed bytes without a compressor.
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
