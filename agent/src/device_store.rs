//! Reads the agent's state from the device's Redis, whether an agent runs or not: cursors, backlog,
//! losses.

use spoke_protocol::{
    Checkpoint, ClientId, Seq,
    message::Cursor,
    sync::{Extent, OriginStanding},
};
use spoke_store::{CopyStore, OriginStore, Redis, StoreError, keys::DeviceKeys, loss_ledger};

/// The state of this device's streams.
#[derive(Debug, Clone)]
pub(crate) struct DeviceSummary {
    /// The out stream.
    pub out: OriginStanding,
    /// The in stream.
    pub inbound: Cursor,
    /// Entries of the out stream that are not acknowledged yet.
    pub backlog: DeviceBacklog,
    /// Counts of lost entries.
    pub losses: LossCounts,
}

/// Counts of entries that are known to be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LossCounts {
    /// Entries that this device sent.
    pub up: u64,
    /// Entries sent to this device.
    pub down: u64,
    /// Lines of the loss ledger.
    pub lines: u64,
}

/// Entries that wait to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct DeviceBacklog {
    /// The number of entries.
    pub entries: BoundedCount,
    /// The first of these entries.
    pub oldest: Option<Seq>,
}

/// A count that stops at a [`CountLimit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BoundedCount {
    /// The exact number.
    Exactly(u64),
    /// The number counted before the limit was reached.
    MoreThan(u64),
}

/// The limit of a count that has to read the entries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CountLimit {
    /// Maximum number of entries.
    pub entries: u64,
    /// Maximum number of bytes.
    pub bytes: usize,
}

impl CountLimit {
    /// For the commands.
    pub(crate) const COMMAND: Self = Self { entries: 10_000, bytes: 32 * 1024 * 1024 };
    /// For the status line, which is refreshed every minute.
    pub(crate) const STATUS_LINE: Self = Self { entries: 1000, bytes: 1024 * 1024 };
}

/// Entries of one read. Each may have up to 1 MiB.
const PAGE: usize = 100;

/// Reads the streams and the loss ledger of one client.
#[derive(Clone)]
pub(crate) struct DeviceStore {
    redis: Redis,
    origin: OriginStore,
    copy: CopyStore,
    lost: String,
}

impl Default for BoundedCount {
    fn default() -> Self {
        Self::Exactly(0)
    }
}

impl DeviceStore {
    /// Creates a reader of the streams of `client`.
    pub(crate) fn new(redis: Redis, keys: &DeviceKeys, client: &ClientId) -> Self {
        Self {
            origin: OriginStore::device(redis.clone(), keys, client),
            copy: CopyStore::device(redis.clone(), keys, client),
            lost: keys.lost(),
            redis,
        }
    }

    /// Returns the state of both streams.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails.
    pub(crate) async fn summary(&self) -> Result<DeviceSummary, StoreError> {
        let (out, inbound, down, lines) = tokio::try_join!(
            self.origin.standing(),
            self.copy.cursor(),
            self.copy.lost_entries(),
            loss_ledger::length(&self.redis, &self.lost)
        )?;
        let losses = LossCounts { up: out.lost, down, lines };
        let backlog = self.count(&out, CountLimit::COMMAND).await?;
        Ok(DeviceSummary { out, inbound, backlog, losses })
    }

    /// Counts the entries that wait to be sent.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails.
    pub(crate) async fn backlog(&self, limit: CountLimit) -> Result<DeviceBacklog, StoreError> {
        let standing = self.origin.standing().await?;
        self.count(&standing, limit).await
    }

    /// Returns an upper bound of the waiting entries, without reading them, and the first of them.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails.
    pub(crate) async fn estimate_backlog(&self) -> Result<(u64, Option<Seq>), StoreError> {
        let OriginStanding { extent, memory, .. } = self.origin.standing().await?;
        let Checkpoint { seq: acked, tally } = memory.acked;
        if extent.length == 0 || extent.last <= acked {
            return Ok((0, None));
        }
        if acked < extent.first {
            return Ok((extent.length, Some(extent.first)));
        }
        let past = extent.added.saturating_sub(tally.added);
        let oldest = self.origin.peek(acked, 1).await?.first().map(|entry| entry.seq);
        Ok((oldest.map_or(0, |_| past.min(extent.length)), oldest))
    }

    async fn count(
        &self,
        standing: &OriginStanding,
        limit: CountLimit,
    ) -> Result<DeviceBacklog, StoreError> {
        let (Extent { first, last, length, .. }, acked) =
            (standing.extent, standing.memory.acked.seq);
        if length == 0 || last <= acked {
            return Ok(DeviceBacklog::default());
        }
        if acked < first {
            return Ok(DeviceBacklog {
                entries: BoundedCount::Exactly(length),
                oldest: Some(first),
            });
        }
        let (mut counted, mut bytes, mut after) = (0, 0, acked);
        let mut oldest = None;
        loop {
            let page = self.origin.peek(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            oldest = oldest.or(page.first().map(|entry| entry.seq));
            after = last.seq;
            counted += page.len() as u64;
            bytes += page.iter().map(|entry| entry.bytes()).sum::<usize>();
            if page.len() < PAGE {
                break;
            }
            if counted >= limit.entries || bytes >= limit.bytes {
                return Ok(DeviceBacklog { entries: BoundedCount::MoreThan(counted), oldest });
            }
        }
        Ok(DeviceBacklog { entries: BoundedCount::Exactly(counted), oldest })
    }
}

impl std::fmt::Display for BoundedCount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exactly(count) => write!(f, "{count}"),
            Self::MoreThan(count) => write!(f, "more than {count}"),
        }
    }
}
