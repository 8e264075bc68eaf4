//! The loss ledger: its lines in Redis.

use redis::{Value, cmd};

use super::{Redis, StoreError, decode};
use spoke_protocol::{ClientId, Direction, Entry, Epoch, Loss, LossCause, Seq};

/// A line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerLine {
    /// The client.
    pub client: String,
    /// The direction of the stream.
    pub direction: Direction,
    /// The lost range.
    pub loss: Loss,
    /// The time when it was found, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Returns the fields of a line, in order.
pub(super) fn fields(
    (client, direction): (&ClientId, Direction),
    loss: &Loss,
    now_ms: u64,
) -> [(&'static str, String); 8] {
    let count = loss.count.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
    [
        ("client", client.to_string()),
        ("direction", direction.word().to_owned()),
        ("epoch", loss.epoch.to_string()),
        ("from", loss.from.to_string()),
        ("to", loss.to.to_string()),
        ("count", count),
        ("cause", loss.cause.word().to_owned()),
        ("at", now_ms.to_string()),
    ]
}

/// Returns the number of lines of a ledger.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn length(redis: &Redis, key: &str) -> Result<u64, StoreError> {
    decode::count(cmd("XLEN").arg(key).query_async(&mut redis.connection()).await?)
}

/// Reads the newest lines of a ledger, newest first.
///
/// # Errors
/// [`StoreError`] if Redis fails.
pub async fn newest(redis: &Redis, key: &str, count: usize) -> Result<Vec<LedgerLine>, StoreError> {
    let mut range = cmd("XREVRANGE");
    range.arg(key).arg("+").arg("-").arg("COUNT").arg(count);
    let reply: Value = range.query_async(&mut redis.connection()).await?;
    Ok(decode::entries(reply)?.iter().filter_map(line).collect())
}

/// Decodes a line; none for an entry that is not a line, since anyone may add to the stream.
fn line(entry: &Entry) -> Option<LedgerLine> {
    let text = |name: &str| {
        let (_, value) = entry.fields.iter().find(|(field, _)| field == name.as_bytes())?;
        std::str::from_utf8(value).ok()
    };
    let seq = |name| text(name)?.parse::<Seq>().ok();
    let loss = Loss {
        epoch: Epoch(text("epoch")?.parse().ok()?),
        from: seq("from")?,
        to: seq("to")?,
        count: text("count")?.parse().ok(),
        cause: LossCause::from_word(text("cause")?),
    };
    let direction = Direction::from_word(text("direction")?)?;
    let at_ms = text("at")?.parse().ok()?;
    Some(LedgerLine { client: text("client")?.to_owned(), direction, loss, at_ms })
}
