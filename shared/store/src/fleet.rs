//! Reads and writes for an operator of the hub: list clients, show entries, send an entry.

mod recent;
mod list;

use bytes::Bytes;
use redis::{Value, cmd};

pub use self::{
    list::{
        ClientRow, DuplicateIdentities, Fleet, MissingPartitions, PendingEntries, find_clients,
        list_clients,
    },
    recent::{RecentEntries, RecentEntry, RecentField, recent_down, recent_losses, recent_up},
};
use super::{Redis, StoreError, decode, partitions::Partition, peek::peek};
use spoke_protocol::{ClientId, Entry, Field, Seq};

/// Returns the newest ID of the in stream.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn newest(Partition { redis, keys }: &Partition) -> Result<Seq, StoreError> {
    let mut last = cmd("XREVRANGE");
    last.arg(keys.inbound()).arg("+").arg("-").arg("COUNT").arg(1);
    let entries = decode::entries(last.query_async(&mut redis.connection()).await?)?;
    Ok(entries.first().map_or(Seq::ZERO, |entry| entry.seq))
}

/// Reads entries of the in stream after `after`: at most `count`, and about
/// [`PEEK_BYTES`](crate::limits::PEEK_BYTES). An entry that is too large for a client has no fields.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn inbound(
    Partition { redis, keys }: &Partition,
    after: Seq,
    count: usize,
) -> Result<Vec<Entry>, StoreError> {
    peek(redis, &keys.inbound(), after, count).await
}

/// Adds an entry to a client's out stream. Returns none if neither hub nor auth knows the client.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn send(
    Partition { redis, keys }: &Partition,
    (auth_redis, auth_key): (&Redis, &str),
    client: &ClientId,
    fields: &[Field],
) -> Result<Option<Seq>, StoreError> {
    let (mut here, mut there) = (cmd("EXISTS"), cmd("EXISTS"));
    let known: u64 = here.arg(keys.client(client)).query_async(&mut redis.connection()).await?;
    let registered: u64 = there.arg(auth_key).query_async(&mut auth_redis.connection()).await?;
    if known + registered == 0 {
        return Ok(None);
    }
    let mut xadd = cmd("XADD");
    xadd.arg(keys.out(client)).arg("*");
    for (name, value) in fields {
        xadd.arg::<&[u8]>(name).arg::<&[u8]>(value);
    }
    let id: Value = xadd.query_async(&mut redis.connection()).await?;
    decode::seq(id).map(Some)
}

/// Returns a pattern that matches exactly this prefix.
fn escaped(prefix: &str) -> String {
    prefix.chars().fold(String::new(), |mut text, char| {
        if "*?[]\\^".contains(char) {
            text.push('\\');
        }
        text.push(char);
        text
    })
}

/// Returns the fields of pairs of words from a command line.
pub fn fields(words: &[String]) -> Vec<Field> {
    let bytes = |word: &String| Bytes::copy_from_slice(word.as_bytes());
    words.chunks_exact(2).map(|pair| (bytes(&pair[0]), bytes(&pair[1]))).collect()
}
