//! The compression of batches: PACKED frames.

use bytes::Bytes;

use super::{codes::PACKED, encode::FrameWriter};
use crate::{
    limits::{COMPRESS_BYTES_MIN, FRAME_BYTES_MAX},
    wire::msgpack::{DecodeError, MsgpackReader},
};

/// Compresses an encoded batch into a PACKED frame, or returns it as it is where that is not smaller.
pub(super) fn pack(plain: Vec<u8>) -> Vec<u8> {
    // Level 1 is much faster than any link that is worth compressing for.
    let pays = |packed: &Vec<u8>| packed.len() + packed.len() / 8 < plain.len();
    if plain.len() < COMPRESS_BYTES_MIN {
        return plain;
    }
    match zstd::bulk::compress(&plain, 1).ok().filter(pays) {
        Some(packed) => {
            let mut w = FrameWriter(Vec::with_capacity(packed.len() + 16));
            w.array(3).uint(PACKED).uint(plain.len() as u64).bytes(&packed);
            w.0
        }
        None => plain,
    }
}

/// Decompresses the rest of a PACKED frame.
///
/// # Errors
/// [`DecodeError`] if it is longer than a frame may be, or not zstd.
pub(super) fn unpack(r: &mut MsgpackReader) -> Result<Bytes, DecodeError> {
    let length = r.bounded("unpacked length", FRAME_BYTES_MAX as u64)? as usize;
    let packed = r.bytes("packed bytes")?;
    let plain = zstd::bulk::decompress(&packed, length).map_err(|_| DecodeError::Not("zstd"))?;
    Ok(plain.into())
}
