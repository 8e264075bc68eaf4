//! The messages of the protocol, whatever carries them.

use crate::{
    entry::{Digest, Entry, EntryLimits, RejectReason},
    instance::InstanceId,
    limits::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, WINDOW_BATCHES},
    loss::{BatchAccount, Tally},
    partner::PartnerId,
    seal::Seal,
    seq::{Epoch, Seq},
};

/// The protocol's major version: both sides must agree on it.
pub const MAJOR: u64 = 1;
/// The protocol's minor version: each side says its own; a difference of one is fine.
pub const MINOR: u64 = 0;

/// Where an origin stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OriginState {
    /// Its epoch as the origin's side remembers it.
    pub epoch: Epoch,
    /// After which seq this life of the stream begins.
    pub start: Seq,
    /// The first entry it still has; `0-0` for none.
    pub first: Seq,
    /// The last ID it has given out.
    pub last: Seq,
    /// How many entries were ever added to it.
    pub added: u64,
    /// Up to where the copy's side has acknowledged.
    pub acked: Seq,
}

/// Where a copy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// The epoch of the last entry it holds; unknown if it holds none.
    pub epoch: Epoch,
    /// The seq of that entry.
    pub seq: Seq,
    /// The digest of that entry, if it was carried and not passed over.
    pub digest: Option<Digest>,
    /// The origin's count at that entry, as the batch said that brought it.
    pub tally: Tally,
    /// The origin's seal on this cursor.
    pub seal: Option<Seal>,
    /// The copy has lost its cursor, and this is the newest entry that it found of the origin. A copy
    /// that does not keep the epochs of its entries says that of none.
    pub is_found: bool,
}

impl Cursor {
    /// Where a copy knows itself to be: one that has lost its cursor is nowhere, whatever it found.
    pub fn confirmed(&self) -> (Epoch, Seq) {
        if self.is_found { (Epoch::UNKNOWN, Seq::ZERO) } else { (self.epoch, self.seq) }
    }
}

/// An agent's first frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Its protocol's major version.
    pub major: u64,
    /// Its protocol's minor version.
    pub minor: u64,
    /// The agent's own version.
    pub version: String,
    /// The device's out stream.
    pub origin: OriginState,
    /// The device's in stream.
    pub cursor: Cursor,
    /// What it can do beyond the version.
    pub features: Features,
    /// Which process it is.
    pub instance: InstanceId,
    /// With whom its streams stand where they do.
    pub partner: PartnerId,
}

/// A hub's first frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Its protocol's major version.
    pub major: u64,
    /// Its protocol's minor version.
    pub minor: u64,
    /// The hub's own version.
    pub version: String,
    /// The generation of this session.
    pub generation: u64,
    /// How far this client's entries have come.
    pub cursor: Cursor,
    /// The client's out stream at the hub.
    pub origin: OriginState,
    /// What the hub takes.
    pub granted: ReceiveLimits,
    /// The agent is to be heard from this often, in milliseconds.
    pub heartbeat_ms: u64,
    /// The hub's clock, in milliseconds since 1970.
    pub server_time_ms: u64,
    /// What both can do beyond the version.
    pub features: Features,
    /// What the client is to this hub.
    pub partner: PartnerId,
}

/// What a side can do beyond its protocol version, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(pub u64);

impl Features {
    /// Takes PACKED.
    pub const COMPRESSION: Self = Self(1);

    /// What both can do.
    pub fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of `other` is in here.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a receiver takes: the sender keeps to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveLimits {
    /// Batches under way without an acknowledgement.
    pub window_batches: usize,
    /// Entries of one batch.
    pub batch_entries: usize,
    /// Bytes of names and values in one batch of several entries.
    pub batch_bytes: usize,
    /// What one entry may hold.
    pub entry: EntryLimits,
}

impl Default for ReceiveLimits {
    fn default() -> Self {
        Self {
            window_batches: WINDOW_BATCHES,
            batch_entries: BATCH_ENTRIES_MAX,
            batch_bytes: BATCH_BYTES_MAX,
            entry: EntryLimits::default(),
        }
    }
}

/// A batch: all that is to be carried after `after` and up to `through`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Push {
    /// The life of the origin that these belong to.
    pub epoch: Epoch,
    /// Where the batch before ended.
    pub after: Seq,
    /// Where this one ends: its last entry, or one behind it that can never be carried.
    pub through: Seq,
    /// The entries, in order.
    pub entries: Vec<Entry>,
    /// What it says of its origin beside them.
    pub account: BatchAccount,
    /// The origin's seal on a cursor that stands at the batch's end.
    pub seal: Option<Seal>,
}

impl Push {
    /// Bytes of all names and values.
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(Entry::bytes).sum()
    }
}

/// All up to here is kept, or refused for good.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ack {
    /// The epoch of the cursor.
    pub epoch: Epoch,
    /// The cursor.
    pub seq: Seq,
    /// Entries at or before the cursor that were refused since the last acknowledgement.
    pub refused: Vec<(Seq, RejectReason)>,
}

/// Why a side ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoawayReason {
    /// It stops or restarts; come back.
    Restart,
    /// A newer session of this client has begun.
    Superseded,
    /// The session's token has ended or was revoked.
    Unauthorized,
    /// Its store cannot take anything now.
    Unavailable,
    /// A batch began behind the cursor: start over from the cursor.
    Gap,
    /// A batch of an older life of the origin.
    StaleEpoch,
    /// A batch or a greeting tells of a life of the origin further on than the next.
    EpochAhead,
    /// A seq lies more than a day ahead of the hub's clock.
    SeqAhead,
    /// The other side broke the protocol.
    Protocol,
    /// The versions do not go together.
    Version,
    /// Something that a newer version knows.
    Other,
}

impl GoawayReason {
    const ALL: [Self; 10] = [
        Self::Restart,
        Self::Superseded,
        Self::Unauthorized,
        Self::Unavailable,
        Self::Gap,
        Self::StaleEpoch,
        Self::EpochAhead,
        Self::SeqAhead,
        Self::Protocol,
        Self::Version,
    ];

    /// The stable word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Superseded => "superseded",
            Self::Unauthorized => "unauthorized",
            Self::Unavailable => "unavailable",
            Self::Gap => "gap",
            Self::StaleEpoch => "stale-epoch",
            Self::EpochAhead => "epoch-ahead",
            Self::SeqAhead => "seq-ahead",
            Self::Protocol => "protocol",
            Self::Version => "version",
            Self::Other => "other",
        }
    }

    /// All that `word` gives.
    pub fn words() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().chain([Self::Other]).map(Self::word)
    }

    /// The reason of this word; `Other` for one that is not known here.
    pub fn from_word(word: &str) -> Self {
        Self::ALL.into_iter().find(|reason| reason.word() == word).unwrap_or(Self::Other)
    }
}

/// The last frame of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goaway {
    /// Why.
    pub reason: GoawayReason,
    /// The same for a person.
    pub message: String,
    /// Not to come back before this has passed, in milliseconds.
    pub wait_ms: u64,
}

/// One message of `spoke.v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is its payload's type")]
pub enum Frame {
    Hello(Box<Hello>),
    Welcome(Box<Welcome>),
    Push(Push),
    Ack(Ack),
    Ping,
    /// The answer to PING: where the receiver's copy stands, should an ACK have been lost.
    Pong(Ack),
    Goaway(Goaway),
    /// The copy takes nothing now, and what has no ACK is thrown away: no PUSH follows in this session.
    /// Says why, for a person.
    Hold(String),
}
