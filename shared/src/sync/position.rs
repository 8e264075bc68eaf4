//! Where a sender begins: the proof that origin and copy speak of the same life of the stream.
//!
//! A bare watermark loses data in silence: a device's Redis comes back empty or shortened, gives
//! out IDs at or below the cursor, and the copy calls new entries duplicates. So the side that can
//! look at the origin compares the entry at the cursor with the copy's digest of it, and the ends
//! of both, before it sends anything; where they do not agree it begins a new epoch.
//! (The pair of epoch and offset is Centrifugo's; the digest of the entry at the offset, LiteFS's.)

use crate::{
    entry::Digest,
    seq::{Epoch, Seq},
    wire::frame::{Cursor, Origin},
};

/// Where to begin, and what has to be written down at the origin first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The epoch to send under.
    pub epoch: Epoch,
    /// After which entry to begin to read.
    pub after: Seq,
    /// Where the copy's cursor stands under that epoch, which the first batch must join: `0-0` at
    /// the beginning of a life, though the stream may still hold entries of the life before.
    pub joint: Seq,
    /// How the two ends were found.
    pub finding: Finding,
}

/// Where a sender begins, once that is written down at its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Where to begin and under which epoch.
    pub position: Position,
    /// The stream as it stands under that epoch.
    pub origin: Origin,
    /// Up to where dead letters were written in that epoch.
    pub buried: Seq,
}

/// How the two ends were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// They agree, or one has nothing that could disagree.
    Agree,
    /// The copy forgot what it had acknowledged: what the origin still has is sent again.
    CopyRewound,
    /// The origin is in another life: a new epoch begins.
    OriginReplaced,
}

/// Decides where the sender begins. `at_cursor` is the digest of the origin's entry at the cursor's
/// seq, if the origin holds one.
pub fn begin(origin: &Origin, cursor: &Cursor, at_cursor: Option<Digest>) -> Position {
    let resume = |epoch, after, finding| Position { epoch, after, joint: after, finding };
    let anew = |epoch, after, finding| Position { epoch, after, joint: Seq::ZERO, finding };
    if !cursor.epoch.is_known() {
        let told_before = !origin.acked.is_zero();
        let finding = if told_before { Finding::CopyRewound } else { Finding::Agree };
        return resume(origin.epoch.max(Epoch::FIRST), Seq::ZERO, finding);
    }
    // The origin began a new life and the copy has not heard of it yet.
    if origin.epoch > cursor.epoch {
        return anew(origin.epoch, origin.start, Finding::Agree);
    }
    if is_same_life(origin, cursor, at_cursor) {
        let rewound = origin.epoch == cursor.epoch && cursor.seq < origin.acked;
        let finding = if rewound { Finding::CopyRewound } else { Finding::Agree };
        return resume(cursor.epoch, cursor.seq, finding);
    }
    // What the origin's own memory says was acknowledged went under with the rest if it lies past
    // the origin's end; up to the end, the memory and the stream are of one making.
    let after = if origin.epoch.is_known() { origin.acked.min(origin.last) } else { Seq::ZERO };
    anew(cursor.epoch.next(), after, Finding::OriginReplaced)
}

fn is_same_life(origin: &Origin, cursor: &Cursor, at_cursor: Option<Digest>) -> bool {
    if cursor.seq.is_zero() {
        return true;
    }
    match (at_cursor, cursor.digest) {
        // The entry itself proves it, even where the origin's memory of its epoch is gone.
        (Some(here), Some(there)) => here == there,
        // No entry to look at: deleted or trimmed by the app, or never carried. Then the origin's
        // memory has to know this life, and its end must not lie behind the cursor.
        _ => origin.epoch == cursor.epoch && origin.last >= cursor.seq,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Option<Digest> = Some(Digest([1; 16]));
    const B: Option<Digest> = Some(Digest([2; 16]));

    fn origin(epoch: u32, acked: u64, last: u64) -> Origin {
        Origin {
            epoch: Epoch(epoch),
            first: Seq::new(1, 0),
            last: Seq::new(last, 0),
            acked: Seq::new(acked, 0),
            added: last,
            start: Seq::ZERO,
        }
    }

    fn cursor(epoch: u32, seq: u64, digest: Option<Digest>) -> Cursor {
        Cursor { epoch: Epoch(epoch), seq: Seq::new(seq, 0), digest }
    }

    fn found(epoch: u32, after: u64, finding: Finding) -> Position {
        let after = Seq::new(after, 0);
        let is_anew = finding == Finding::OriginReplaced;
        let joint = if is_anew { Seq::ZERO } else { after };
        Position { epoch: Epoch(epoch), after, joint, finding }
    }

    #[test]
    fn each_pair_of_ends_has_its_position() {
        use Finding::{Agree, CopyRewound, OriginReplaced};
        let table = [
            ("both new", origin(0, 0, 0), cursor(0, 0, None), None, found(1, 0, Agree)),
            ("first entries wait", origin(0, 0, 5), cursor(0, 0, None), None, found(1, 0, Agree)),
            ("in step", origin(1, 5, 9), cursor(1, 5, A), A, found(1, 5, Agree)),
            ("an ack was lost", origin(1, 5, 9), cursor(1, 7, A), A, found(1, 7, Agree)),
            ("cursor trimmed", origin(1, 5, 9), cursor(1, 5, A), None, found(1, 5, Agree)),
            ("cursor passed over", origin(1, 5, 9), cursor(1, 5, None), A, found(1, 5, Agree)),
            ("copy wiped", origin(1, 5, 9), cursor(0, 0, None), None, found(1, 0, CopyRewound)),
            ("copy lost a tail", origin(2, 7, 9), cursor(2, 5, A), A, found(2, 5, CopyRewound)),
            ("origin wiped", origin(0, 0, 0), cursor(1, 5, A), None, found(2, 0, OriginReplaced)),
            (
                "wiped, written to",
                origin(0, 0, 9),
                cursor(1, 5, A),
                None,
                found(2, 0, OriginReplaced),
            ),
            ("wiped, same ID", origin(0, 0, 9), cursor(1, 5, A), B, found(2, 0, OriginReplaced)),
            ("memory gone, stream kept", origin(0, 0, 9), cursor(3, 5, A), A, found(3, 5, Agree)),
            (
                "origin shortened",
                origin(1, 2, 3),
                cursor(1, 5, A),
                None,
                found(2, 2, OriginReplaced),
            ),
            (
                "same ID, other entry",
                origin(1, 2, 9),
                cursor(1, 5, A),
                B,
                found(2, 2, OriginReplaced),
            ),
            (
                "origin of an old backup",
                origin(1, 2, 3),
                cursor(3, 5, A),
                None,
                found(4, 2, OriginReplaced),
            ),
            ("new life not told yet", origin(2, 0, 3), cursor(1, 5, A), None, found(2, 0, Agree)),
            (
                "new life, nothing carried",
                origin(0, 0, 3),
                cursor(2, 0, None),
                None,
                found(2, 0, Agree),
            ),
        ];
        for (name, origin, cursor, at_cursor, expected) in table {
            assert_eq!(begin(&origin, &cursor, at_cursor), expected, "{name}");
        }
    }
}
