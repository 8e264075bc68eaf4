//! Hex digits without an allocation: each batch has a digest and a seal.

use std::{fmt, str};

/// The maximum number of bytes.
const BYTES_MAX: usize = 16;

/// Writes these bytes, at most [`BYTES_MAX`], as hex digits.
pub(crate) fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let mut digits = [0; 2 * BYTES_MAX];
    let digits = &mut digits[..2 * bytes.len()];
    hex::encode_to_slice(bytes, digits).map_err(|_| fmt::Error)?;
    f.write_str(str::from_utf8(digits).map_err(|_| fmt::Error)?)
}
