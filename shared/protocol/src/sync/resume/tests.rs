use super::*;

const A: Option<Digest> = Some(Digest([1; 16]));
const B: Option<Digest> = Some(Digest([2; 16]));

fn exactly(added: u64) -> Tally {
    Tally { added, ..Tally::ZERO }
}

fn key() -> SealKey {
    SealKey::new([7; 16])
}

fn seq(ms: u64) -> Seq {
    Seq::new(ms, 0)
}

/// An origin in this epoch, with acknowledgements up to `acked`, the high-water mark `mark` and the last ID
/// `last`. Every ID has an entry, so a tally equals an ID.
fn origin(epoch: u64, acked: u64, mark: u64, last: u64) -> OriginStanding {
    let epochs =
        (1..=epoch).map(|epoch| EpochStart { epoch: Epoch(epoch), start: Checkpoint::START });
    let memory = OriginMemory {
        epoch: Epoch(epoch),
        epochs: epochs.collect(),
        high_water_mark: HighWaterMark { seq: seq(mark), added: mark },
        acked: Checkpoint::new(seq(acked), exactly(acked)),
        seal_key: Some(key()),
        ..OriginMemory::default()
    };
    let extent =
        Extent { first: seq(1), last: seq(last), length: last, added: last, ..Extent::default() };
    OriginStanding { extent, memory, ..OriginStanding::default() }
}

fn cursor(epoch: u64, at: u64, digest: Option<Digest>) -> Cursor {
    let seal = Some(key().seal(Epoch(epoch), seq(at), exactly(at)));
    Cursor { epoch: Epoch(epoch), seq: seq(at), digest, tally: exactly(at), seal, is_found: false }
}

#[test]
fn if_both_ends_agree_the_sender_resumes_after_the_cursor() {
    use ResumeFinding::{Agree, CopyRewound};
    let none = Cursor::default();
    for (name, standing, cursor, at_cursor, expected) in [
        ("both new", origin(0, 0, 0, 0), none, None, (1, 0, Agree)),
        ("first entries wait", origin(0, 0, 0, 5), none, None, (1, 0, Agree)),
        ("both ends agree", origin(1, 5, 9, 9), cursor(1, 5, A), A, (1, 5, Agree)),
        ("an ack was lost", origin(1, 5, 9, 9), cursor(1, 7, A), A, (1, 7, Agree)),
        ("cursor trimmed", origin(1, 5, 9, 9), cursor(1, 5, A), None, (1, 5, Agree)),
        ("cursor on a skipped entry", origin(1, 5, 9, 9), cursor(1, 5, None), A, (1, 5, Agree)),
        ("copy wiped", origin(1, 5, 9, 9), none, None, (1, 0, CopyRewound)),
        (
            "copy lost its latest entries",
            origin(2, 7, 9, 9),
            cursor(2, 5, A),
            A,
            (2, 5, CopyRewound),
        ),
        ("state lost, stream kept", origin(0, 0, 0, 9), cursor(3, 5, A), A, (3, 5, Agree)),
    ] {
        let position = find_position(&standing, &cursor, at_cursor, PartnerMatch::Same);
        let found = (position.epoch.0, position.after.ms, position.finding);
        assert_eq!(found, expected, "{name}");
        assert_eq!((position.joins_after, position.loss), (position.after, None), "{name}");
        assert_eq!(position.tally, exactly(expected.1), "{name}");
    }
}

#[test]
fn after_an_origin_rewind_a_new_epoch_begins_after_what_was_certainly_carried() {
    for (name, standing, cursor, at_cursor, expected) in [
        ("wiped", origin(0, 0, 0, 0), cursor(1, 5, A), None, (2, 0, 5)),
        ("wiped, new entries", origin(0, 0, 0, 9), cursor(1, 5, A), None, (2, 0, 5)),
        ("wiped, another entry at the cursor", origin(0, 0, 0, 9), cursor(1, 5, A), B, (2, 0, 5)),
        ("rewound", origin(1, 2, 3, 3), cursor(1, 5, A), None, (2, 3, 5)),
        (
            "rewound, new entries past the cursor",
            origin(1, 2, 3, 9),
            cursor(1, 5, A),
            None,
            (2, 3, 5),
        ),
        ("rewound, another entry at the cursor", origin(1, 2, 3, 9), cursor(1, 5, A), B, (2, 3, 5)),
        (
            "rewound, the same entry at the cursor",
            origin(1, 2, 3, 9),
            cursor(1, 5, A),
            A,
            (2, 3, 5),
        ),
        ("only the mark is lost", origin(1, 2, 4, 9), cursor(1, 5, A), A, (2, 4, 5)),
        ("stream replaced, state kept", origin(1, 2, 9, 9), cursor(1, 5, A), B, (2, 0, 5)),
        ("restored from an old backup", origin(1, 2, 3, 7), cursor(3, 5, A), None, (4, 2, 7)),
    ] {
        let position = find_position(&standing, &cursor, at_cursor, PartnerMatch::Same);
        let found = (position.epoch.0, position.after.ms, position.inherited.ms);
        assert_eq!(found, expected, "{name}");
        assert_eq!(position.finding, ResumeFinding::OriginReplaced, "{name}");
        assert_eq!(position.joins_after, Seq::ZERO, "{name}");
        let loss = position.loss.unwrap();
        assert_eq!((loss.from, loss.to), (position.after.after(), cursor.seq), "{name}");
        assert_eq!((loss.count, loss.cause), (None, LossCause::OriginRewound), "{name}");
    }
}

#[test]
fn in_an_epoch_unknown_to_the_origin_the_copy_is_trusted_only_up_to_its_cursor() {
    let position = find_position(&origin(1, 7, 9, 9), &cursor(2, 5, A), None, PartnerMatch::Same);
    assert_eq!((position.epoch, position.after, position.inherited), (Epoch(3), seq(5), seq(9)));
    assert_eq!(position.loss, None);
}

#[test]
fn an_origin_that_lost_its_state_takes_every_entry_for_one_that_an_older_epoch_may_have_carried() {
    let standing = origin(0, 0, 0, 9);
    for (name, cursor, at_cursor, inherited) in [
        ("there is no older epoch", cursor(1, 5, A), A, 0),
        ("an older epoch may have carried 6 to 9", cursor(2, 5, A), A, 9),
        ("the stream was replaced in the first epoch", cursor(1, 5, A), B, 5),
        ("the stream was replaced in a later one", cursor(2, 5, A), B, 9),
    ] {
        let position = find_position(&standing, &cursor, at_cursor, PartnerMatch::Same);
        assert_eq!(position.inherited, seq(inherited), "{name}");
    }
}

#[test]
fn of_two_tallies_at_one_place_the_sender_resumes_with_the_one_that_counts_more() {
    let standing = origin(1, 5, 9, 9);
    let low = exactly(4).at_least_if(true);
    let counted_low =
        Cursor { tally: low, seal: Some(key().seal(Epoch(1), seq(5), low)), ..cursor(1, 5, A) };
    let position = find_position(&standing, &counted_low, A, PartnerMatch::Same);
    assert_eq!((position.after, position.tally), (seq(5), exactly(5)));
}

#[test]
fn what_one_epoch_inherited_the_next_one_inherits_too() {
    // The second epoch had carried 5 of the 9 that may be in the copy under the first.
    let mut standing = origin(2, 3, 4, 12);
    standing.memory.inherited = seq(9);
    let position = find_position(&standing, &cursor(2, 5, A), None, PartnerMatch::Same);
    assert_eq!((position.epoch, position.after, position.inherited), (Epoch(3), seq(4), seq(9)));
}

#[test]
fn a_stream_recreated_beside_its_old_state_begins_a_new_epoch() {
    let mut standing = origin(1, 5, 9, 9);
    standing.extent =
        Extent { first: seq(20), last: seq(21), length: 2, added: 2, ..Extent::default() };
    let position = find_position(&standing, &cursor(1, 9, A), None, PartnerMatch::Same);
    assert_eq!((position.epoch, position.after), (Epoch(2), Seq::ZERO));
}

#[test]
fn a_clone_whose_state_covers_what_the_other_device_sent_begins_a_new_epoch() {
    // Both devices have 1 to 5, acknowledged up to 3, and have read up to 9. The other device sent its own 6.
    let standing = origin(1, 3, 9, 9);
    let position = find_position(&standing, &cursor(1, 6, A), None, PartnerMatch::Same);
    let found = (position.epoch.0, position.after.ms, position.inherited.ms);
    assert_eq!(found, (2, 3, 6));
    // A stream trimmed past 6 has no entry to compare, and none that could be confused with the other 6.
    let mut trimmed = origin(1, 3, 9, 9);
    trimmed.extent = Extent { first: seq(8), length: 2, ..trimmed.extent };
    assert_eq!(find_position(&trimmed, &cursor(1, 6, A), None, PartnerMatch::Same).epoch, Epoch(1));
}

#[test]
fn a_copy_that_does_not_know_the_new_epoch_yet_is_sent_it_again() {
    let mut standing = origin(2, 3, 9, 9);
    let start = |epoch, at| EpochStart {
        epoch: Epoch(epoch),
        start: Checkpoint::new(seq(at), exactly(at)),
    };
    standing.memory.epochs = vec![start(1, 0), start(2, 3)];
    standing.memory.inherited = seq(5);
    let position = find_position(&standing, &cursor(1, 5, A), None, PartnerMatch::Same);
    let found = (position.epoch, position.after, position.joins_after, position.inherited);
    assert_eq!(found, (Epoch(2), seq(3), Seq::ZERO, seq(5)));
    assert!(position.loss.is_some());

    // The copy was rewound to before the new epoch began: what it lost is sent again in the new epoch.
    let position = find_position(&standing, &cursor(1, 2, A), A, PartnerMatch::Same);
    assert_eq!((position.after, position.finding), (seq(2), ResumeFinding::CopyRewound));
    assert_eq!(position.loss, None);
}

#[test]
fn for_an_epoch_that_was_forgotten_all_is_sent_as_possible_duplicates() {
    let mut standing = origin(5, 3, 9, 9);
    standing.memory.epochs.drain(..3);
    let position = find_position(&standing, &cursor(1, 5, A), A, PartnerMatch::Same);
    assert_eq!((position.epoch, position.after), (Epoch(5), Seq::ZERO));
    assert_eq!(position.inherited, seq(5));
}

#[test]
fn a_cursor_not_set_by_a_batch_of_this_origin_acknowledges_nothing() {
    // 1 to 3 are acknowledged, 4 to 9 were read and perhaps sent, 10 to 12 wait.
    let standing = origin(1, 3, 9, 12);
    for (name, at, digest, at_cursor) in [
        ("before the mark", 5, None, A),
        ("before the mark, with an entry of its own", 5, B, A),
        ("at the mark", 9, None, A),
        ("past the mark", 11, None, A),
        ("past the end of the stream", 3_600_000, B, None),
    ] {
        let forged = Cursor { seal: None, ..cursor(1, at, digest) };
        let position = find_position(&standing, &forged, at_cursor, PartnerMatch::Same);
        let found = (position.epoch, position.after, position.inherited, position.joins_after);
        assert_eq!(found, (Epoch(2), seq(3), seq(12), Seq::ZERO), "{name}");
        assert_eq!(position.finding, ResumeFinding::ForeignCursor, "{name}");
        let loss = position.loss.unwrap();
        assert_eq!((loss.from, loss.to), (seq(3).after(), seq(at)), "{name}");
        assert_eq!((loss.count, loss.cause), (None, LossCause::ForeignCursor), "{name}");
    }
    // The seal of another position or of another tally is not valid.
    let moved = Cursor { seq: seq(6), ..cursor(1, 5, None) };
    let recounted = Cursor { tally: exactly(6), ..cursor(1, 5, None) };
    for forged in [moved, recounted] {
        assert_eq!(
            find_position(&standing, &forged, None, PartnerMatch::Same).finding,
            ResumeFinding::ForeignCursor
        );
    }
    // A recorded acknowledgement needs no seal.
    let acked = Cursor { seal: None, ..cursor(1, 3, None) };
    assert_eq!(
        find_position(&standing, &acked, None, PartnerMatch::Same).finding,
        ResumeFinding::Agree
    );
}

#[test]
fn a_copy_that_was_reset_gets_what_was_not_acknowledged_and_no_duplicate() {
    let reset = Cursor { epoch: Epoch(2), ..Cursor::default() };
    let position = find_position(&origin(1, 3, 9, 12), &reset, None, PartnerMatch::Same);
    let found = (position.epoch, position.after, position.inherited, position.joins_after);
    assert_eq!(found, (Epoch(3), seq(3), seq(12), Seq::ZERO));
    assert_eq!((position.tally, position.loss), (exactly(3), None));
    // A new device with the old name has acknowledged nothing.
    let position = find_position(&origin(0, 0, 0, 5), &reset, None, PartnerMatch::Same);
    assert_eq!((position.epoch, position.after), (Epoch(2), Seq::ZERO));
}

#[test]
fn a_stream_replaced_before_the_copy_knows_its_epoch_begins_another_one() {
    let mut standing = origin(3, 3, 9, 9);
    standing.extent = Extent::default();
    for cursor in [cursor(2, 3, None), Cursor { epoch: Epoch(2), ..Cursor::default() }] {
        let position = find_position(&standing, &cursor, None, PartnerMatch::Same);
        assert_eq!((position.epoch, position.after), (Epoch(4), Seq::ZERO));
        assert_eq!(position.finding, ResumeFinding::OriginReplaced);
    }
}
