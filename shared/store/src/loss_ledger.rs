//! The loss ledger: its lines as they stand in Redis, and what they come to.

use redis::{Value, cmd};

use super::{Redis, StoreError, decode};
use spoke_protocol::{
    client_id::ClientId,
    entry::{Direction, Entry},
    loss::{Loss, LossCause},
    seq::{Epoch, Seq},
};

/// A line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerLine {
    /// Whose stream it was.
    pub client: String,
    /// Which of the client's two streams.
    pub direction: Direction,
    /// What was lost.
    pub loss: Loss,
    /// When it was found, in milliseconds since 1970.
    pub at_ms: u64,
}

/// The fields of a line, in their order.
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

/// How many lines a ledger has.
///
/// # Errors
/// `StoreError` as Redis gives it.
pub async fn length(redis: &Redis, key: &str) -> Result<u64, StoreError> {
    decode::count(cmd("XLEN").arg(key).query_async(&mut redis.connection()).await?)
}

/// The newest lines of a ledger, newest first.
///
/// # Errors
/// `StoreError` as Redis gives it.
pub async fn newest(redis: &Redis, key: &str, count: usize) -> Result<Vec<LedgerLine>, StoreError> {
    let mut range = cmd("XREVRANGE");
    range.arg(key).arg("+").arg("-").arg("COUNT").arg(count);
    let reply: Value = range.query_async(&mut redis.connection()).await?;
    Ok(decode::entries(reply)?.iter().filter_map(line).collect())
}

/// None for an entry that is no line: people may write to the stream too.
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
