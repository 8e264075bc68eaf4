//! Reads entries of any stream for a person or for a count. The script bounds their bytes, so that large entries
//! take no memory in the caller.

use std::sync::LazyLock;

use redis::Script;

use super::{Redis, StoreError, decode, scripts::of_entries};
use crate::limits::{COPY_ENTRY_BYTES_MAX, PEEK_BYTES};
use spoke_protocol::{Entry, Seq};

static PEEK: LazyLock<Script> = LazyLock::new(|| of_entries(include_str!("scripts/peek.lua")));

/// Reads entries after `after` without delivering them: at most `count`, and about [`PEEK_BYTES`]. An entry that is
/// too large to be carried has no fields.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub(super) async fn peek(
    redis: &Redis,
    stream: &str,
    after: Seq,
    count: usize,
) -> Result<Vec<Entry>, StoreError> {
    let mut script = PEEK.key(stream);
    script.arg(after.to_string()).arg(count).arg(PEEK_BYTES).arg(COPY_ENTRY_BYTES_MAX);
    decode::pages(decode::list(redis.invoke(&script).await?)?)
}
