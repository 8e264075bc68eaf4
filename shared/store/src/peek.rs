//! Entries of any stream, as many as a person or a count needs: bounded by bytes where they lie, so that
//! large ones cost whoever looks no memory.

use std::sync::LazyLock;

use redis::Script;

use super::{Redis, StoreError, decode, scripts::of_entries};
use crate::limits::{COPY_ENTRY_BYTES_MAX, PEEK_BYTES};
use spoke_protocol::{entry::Entry, seq::Seq};

static PEEK: LazyLock<Script> = LazyLock::new(|| of_entries(include_str!("scripts/peek.lua")));

/// Entries after `after`, at most `count` and about `limits::PEEK_BYTES`, without giving them out. One that
/// is too large to have been carried comes without its fields.
///
/// # Errors
/// `StoreError` as Redis gives it.
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
