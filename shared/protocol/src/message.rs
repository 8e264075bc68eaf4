//! The messages of the protocol, independent of their encoding.

use crate::{
    entry::{Digest, Entry, EntryLimits, RejectReason},
    instance::InstanceId,
    limits::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, WINDOW_BATCHES},
    loss::{BatchAccount, Tally},
    partner::PartnerId,
    seal::Seal,
    seq::{Epoch, Seq},
};

/// The major version of the protocol, which must be the same on both sides.
pub const MAJOR: u64 = 1;
/// The minor version of the protocol. Each side sends its own; they may differ by one.
pub const MINOR: u64 = 0;

/// The state of an origin stream, as the handshake sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OriginState {
    /// Its epoch.
    pub epoch: Epoch,
    /// The seq after which this epoch begins.
    pub start: Seq,
    /// The first entry that it still has; `0-0` for none.
    pub first: Seq,
    /// The last ID that it has generated.
    pub last: Seq,
    /// The number of entries ever added to it.
    pub added: u64,
    /// The last acknowledged seq.
    pub acked: Seq,
}

/// The cursor of a copy: the last entry of the origin that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// The epoch of that entry; unknown if there is none.
    pub epoch: Epoch,
    /// The seq of that entry.
    pub seq: Seq,
    /// The digest of that entry; none if the entry was skipped.
    pub digest: Option<Digest>,
    /// The origin's counts at that entry, from its batch.
    pub tally: Tally,
    /// The origin's seal on this cursor.
    pub seal: Option<Seal>,
    /// Whether the copy has lost its cursor, and this is the newest entry of the origin that a search found.
    /// The epoch is unknown if the copy does not keep the epochs of its entries.
    pub is_found: bool,
}

impl Cursor {
    /// Returns the epoch and seq of the cursor itself; unknown and `0-0` for a copy that has lost it, even if
    /// a search found an entry.
    pub fn confirmed(&self) -> (Epoch, Seq) {
        if self.is_found { (Epoch::UNKNOWN, Seq::ZERO) } else { (self.epoch, self.seq) }
    }
}

/// An agent's first frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The major version of its protocol.
    pub major: u64,
    /// The minor version of its protocol.
    pub minor: u64,
    /// The agent's version.
    pub version: String,
    /// The device's out stream.
    pub origin: OriginState,
    /// The device's in stream.
    pub cursor: Cursor,
    /// Its features.
    pub features: Features,
    /// Its process.
    pub instance: InstanceId,
    /// The peer with which its state was agreed.
    pub partner: PartnerId,
}

/// A hub's first frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The major version of its protocol.
    pub major: u64,
    /// The minor version of its protocol.
    pub minor: u64,
    /// The hub's version.
    pub version: String,
    /// The generation of this session.
    pub generation: u64,
    /// The cursor of this client's entries at the hub.
    pub cursor: Cursor,
    /// The client's out stream at the hub.
    pub origin: OriginState,
    /// The limits that the hub grants.
    pub granted: ReceiveLimits,
    /// How often the agent has to send something, in milliseconds.
    pub heartbeat_ms: u64,
    /// The hub's clock, in milliseconds since 1970.
    pub server_time_ms: u64,
    /// The features of both sides.
    pub features: Features,
    /// The identity of this pair of client and hub.
    pub partner: PartnerId,
}

/// Features beyond the protocol version, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(pub u64);

impl Features {
    /// Accepts PACKED.
    pub const COMPRESSION: Self = Self(1);

    /// Returns the features that both have.
    pub fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns whether all features of `other` are included.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The limits that a receiver grants to its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveLimits {
    /// The maximum number of batches in flight.
    pub window_batches: usize,
    /// The maximum number of entries in one batch.
    pub batch_entries: usize,
    /// The maximum number of bytes of names and values in one batch of several entries.
    pub batch_bytes: usize,
    /// The limits of one entry.
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

/// A batch: everything to carry after `after` up to `through`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Push {
    /// The epoch of the origin.
    pub epoch: Epoch,
    /// The end of the batch before.
    pub after: Seq,
    /// The end of this batch: its last entry, or a later one that can never be carried.
    pub through: Seq,
    /// The entries, in order.
    pub entries: Vec<Entry>,
    /// The origin's counts and losses.
    pub account: BatchAccount,
    /// The origin's seal on a cursor at the end of the batch.
    pub seal: Option<Seal>,
}

impl Push {
    /// Returns the bytes of all names and values.
    pub fn bytes(&self) -> usize {
        self.entries.iter().map(Entry::bytes).sum()
    }
}

/// An acknowledgement: everything up to here is stored, or refused permanently.
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
    /// The side shuts down or restarts.
    Restart,
    /// A newer session of this client has begun.
    Superseded,
    /// The session's token has expired or was revoked.
    Unauthorized,
    /// Its Redis cannot take anything now.
    Unavailable,
    /// A batch does not follow the cursor. The sender starts again from the cursor.
    Gap,
    /// A batch is of an older epoch of the origin.
    StaleEpoch,
    /// A batch or a HELLO is more than one epoch ahead.
    EpochAhead,
    /// A seq is more than a day ahead of the hub's clock.
    SeqAhead,
    /// The peer broke a rule of the protocol.
    Protocol,
    /// The versions are not compatible.
    Version,
    /// A reason of a newer version.
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

    /// Returns the stable word.
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

    /// Returns all words of [`Self::word`].
    pub fn words() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().chain([Self::Other]).map(Self::word)
    }

    /// Parses the word of [`Self::word`]; [`Self::Other`] for an unknown word.
    pub fn from_word(word: &str) -> Self {
        Self::ALL.into_iter().find(|reason| reason.word() == word).unwrap_or(Self::Other)
    }
}

/// The last frame of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goaway {
    /// The reason.
    pub reason: GoawayReason,
    /// The reason for a person.
    pub message: String,
    /// How long to wait before reconnecting, in milliseconds.
    pub wait_ms: u64,
}

/// A message of `spoke.v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is its payload's type")]
pub enum Frame {
    Hello(Box<Hello>),
    Welcome(Box<Welcome>),
    Push(Push),
    Ack(Ack),
    Ping,
    /// The answer to PING, with the receiver's cursor in case an ACK was lost.
    Pong(Ack),
    Goaway(Goaway),
    /// The copy cannot be written. Batches without an ACK are dropped, and no PUSH may follow in this session.
    /// The text is for a person.
    Hold(String),
}
