//! What the device's Redis tells of the agent, whether one runs or not: cursors, what waits, losses.

use spoke_protocol::{
    client_id::ClientId,
    loss::Checkpoint,
    message::Cursor,
    seq::Seq,
    sync::{accounting::Extent, resume::OriginStanding},
};
use spoke_store::{
    Redis, StoreError, copy::CopyStore, keys::DeviceKeys, loss_ledger, origin::OriginStore,
};

/// What is in the device's Redis.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The out stream.
    pub out: OriginStanding,
    /// The in stream.
    pub inbound: Cursor,
    /// What is in the out stream and not acknowledged yet.
    pub waiting: Waiting,
    /// Entries known to be lost on their way up, on their way down, and the lines of the ledger.
    pub losses: Losses,
}

/// What is known to be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Losses {
    /// Entries of this device.
    pub up: u64,
    /// Entries for this device.
    pub down: u64,
    /// Lines of the ledger.
    pub lines: u64,
}

/// What waits to be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// How many entries.
    pub entries: Count,
    /// The first of them.
    pub oldest: Option<Seq>,
}

/// A count that is not driven further than it is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// So many.
    Exactly(u64),
    /// More than so many.
    MoreThan(u64),
}

/// How far to count what can only be counted by reading it.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Entries at most.
    pub entries: u64,
    /// Bytes at most.
    pub bytes: usize,
}

impl Bound {
    /// For a person who asks.
    pub const FOR_A_PERSON: Self = Self { entries: 10_000, bytes: 32 * 1024 * 1024 };
    /// For a line that is made anew every minute.
    pub const FOR_A_LINE: Self = Self { entries: 1000, bytes: 1024 * 1024 };
}

/// Entries of one read: each may be as large as 1 MiB.
const PAGE: usize = 100;

/// Reads the device's Redis.
#[derive(Clone)]
pub struct DeviceStore {
    redis: Redis,
    origin: OriginStore,
    copy: CopyStore,
    lost: String,
}

impl Default for Count {
    fn default() -> Self {
        Self::Exactly(0)
    }
}

impl DeviceStore {
    /// The store of this client behind these keys.
    pub fn new(redis: Redis, keys: &DeviceKeys, client: &ClientId) -> Self {
        Self {
            origin: OriginStore::device(redis.clone(), keys, client),
            copy: CopyStore::device(redis.clone(), keys, client),
            lost: keys.lost(),
            redis,
        }
    }

    /// All there is to know.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn facts(&self) -> Result<Facts, StoreError> {
        let (out, inbound, down, lines) = tokio::try_join!(
            self.origin.standing(),
            self.copy.cursor(),
            self.copy.lost_entries(),
            loss_ledger::length(&self.redis, &self.lost)
        )?;
        let losses = Losses { up: out.lost, down, lines };
        let waiting = self.count(&out, Bound::FOR_A_PERSON).await?;
        Ok(Facts { out, inbound, waiting, losses })
    }

    /// What waits to be carried.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn waiting(&self, bound: Bound) -> Result<Waiting, StoreError> {
        let standing = self.origin.standing().await?;
        self.count(&standing, bound).await
    }

    /// How many entries wait at the most, without counting them, and the first of them.
    ///
    /// # Errors
    /// `StoreError` as Redis gives it.
    pub async fn backlog(&self) -> Result<(u64, Option<Seq>), StoreError> {
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

    async fn count(&self, standing: &OriginStanding, bound: Bound) -> Result<Waiting, StoreError> {
        let (Extent { first, last, length, .. }, acked) =
            (standing.extent, standing.memory.acked.seq);
        if length == 0 || last <= acked {
            return Ok(Waiting::default());
        }
        if acked < first {
            return Ok(Waiting { entries: Count::Exactly(length), oldest: Some(first) });
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
            if counted >= bound.entries || bytes >= bound.bytes {
                return Ok(Waiting { entries: Count::MoreThan(counted), oldest });
            }
        }
        Ok(Waiting { entries: Count::Exactly(counted), oldest })
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exactly(count) => write!(f, "{count}"),
            Self::MoreThan(count) => write!(f, "more than {count}"),
        }
    }
}
