use proptest::prelude::*;

use super::*;
use crate::loss::{BadTally, Checkpoint};

const E1: Epoch = Epoch::FIRST;

fn at(seq: u64, added: u64) -> Checkpoint {
    Checkpoint::new(Seq::new(seq, 0), Tally { added, ..Tally::ZERO })
}

/// A stream to which `added` entries were added at 1-0, 2-0, …, and which still has the last `length`.
fn extent(added: u64, length: u64) -> Extent {
    let first = if length > 0 { Seq::new(added - length + 1, 0) } else { Seq::ZERO };
    Extent { first, last: Seq::new(added, 0), length, added, ..Extent::default() }
}

fn found(after: Checkpoint, acked: Checkpoint, extent: &Extent) -> Vec<(String, u64)> {
    let (losses, _) = find_missing(E1, after, acked, extent);
    losses.iter().map(|loss| (loss.cause.word().to_owned(), loss.count.unwrap())).collect()
}

fn one(cause: &str, count: u64) -> Vec<(String, u64)> {
    vec![(cause.to_owned(), count)]
}

#[test]
fn nothing_is_missing_if_the_stream_continues_at_the_cursor() {
    for extent in [extent(10, 10), extent(10, 5), extent(10, 6), extent(10, 0)] {
        let after = if extent.length == 0 { at(10, 10) } else { at(5, 5) };
        let (losses, past) = find_missing(E1, after, after, &extent);
        assert_eq!((losses, past), (vec![], after.tally), "{extent:?}");
    }
}

#[test]
fn entries_trimmed_past_the_cursor_are_counted_with_their_range() {
    let (losses, past) = find_missing(E1, at(5, 5), at(5, 5), &extent(100, 40));
    let (from, to) = (Seq::new(5, 1), Seq::new(60, u64::MAX));
    let expected = Loss { epoch: E1, from, to, count: Some(55), cause: LossCause::Trimmed };
    assert_eq!(losses, [expected]);
    assert_eq!(past, Tally { added: 60, lost: 55, ..Tally::ZERO });

    let (losses, _) = find_missing(E1, at(5, 5), at(5, 5), &extent(100, 0));
    assert_eq!((losses[0].count, losses[0].to), (Some(95), Seq::new(100, 0)));
}

#[test]
fn an_entry_deleted_by_an_app_is_not_a_loss() {
    let deleted = |seq: u64, extent: Extent| Extent { max_deleted: Seq::new(seq, 0), ..extent };
    // 7 was deleted from the middle of the waiting entries.
    let holes = Extent { length: 94, ..deleted(7, extent(100, 95)) };
    assert_eq!(found(at(5, 5), at(5, 5), &holes), []);
    // Only 6 was deleted, at the front.
    let front = deleted(6, extent(100, 94));
    assert_eq!(found(at(5, 5), at(5, 5), &front), []);
    // Deleted before the cursor, which does not affect later entries.
    let before = deleted(3, extent(100, 40));
    assert_eq!(found(at(5, 5), at(5, 5), &before), one("trimmed", 55));
    // Deleted and trimmed: an upper bound.
    let both = deleted(80, Extent { length: 39, ..extent(100, 40) });
    assert_eq!(found(at(5, 5), at(5, 5), &both), one("trimmed-or-deleted", 55));
}

#[test]
fn a_deleted_entry_does_not_hide_one_that_is_trimmed_later() {
    let deleted = |extent: Extent| Extent { max_deleted: Seq::new(80, 0), ..extent };
    // Trimmed up to 60, and 80 was deleted from the rest: one of 56 is not a loss, and is not counted yet.
    let first = deleted(Extent { length: 39, ..extent(100, 40) });
    let (losses, past) = find_missing(E1, at(5, 5), at(5, 5), &first);
    assert_eq!(losses[0].count, Some(55));
    assert_eq!((past.added, past.precision), (60, TallyPrecision::AtLeast));
    // 61 was trimmed as well.
    let then = deleted(Extent { length: 38, ..extent(100, 39) });
    let (losses, _) = find_missing(E1, Checkpoint::new(Seq::new(60, 0), past), at(5, 5), &then);
    assert_eq!((losses[0].count, losses[0].to), (Some(1), Seq::new(61, u64::MAX)));
    // The same at the beginning of a stream.
    let zero = Checkpoint::START;
    let (losses, past) =
        find_missing(E1, zero, zero, &deleted(Extent { length: 99, ..extent(100, 100) }));
    assert_eq!((losses, past.is_unknown()), (vec![], false));
    // The same in the origin's ledger, where the deleted entry was among the missing ones.
    let cursor = at(5, 5);
    let front = Extent { max_deleted: Seq::new(30, 0), ..extent(100, 40) };
    let (_, written) = find_unrecorded(E1, cursor, cursor, &front, None).unwrap();
    let then = Extent { max_deleted: Seq::new(30, 0), ..extent(100, 39) };
    let (losses, _) = find_unrecorded(E1, cursor, cursor, &then, Some(written)).unwrap();
    assert_eq!(losses[0].count, Some(1));
}

#[test]
fn dead_letters_among_the_missing_entries_do_not_hide_later_losses() {
    // 30 were acknowledged, 4 of them as dead letters of unknown position; 20 are missing.
    let acked = Checkpoint::new(Seq::new(30, 0), Tally { added: 30, dead: 4, ..Tally::ZERO });
    let wiped = Checkpoint::START;
    let (losses, past) = find_missing(E1, wiped, acked, &extent(30, 10));
    assert_eq!(losses[0].count, Some(20));
    // Another 2 are trimmed: all four dead letters may have been among the first 20.
    let (losses, _) =
        find_missing(E1, Checkpoint::new(Seq::new(20, 0), past), acked, &extent(30, 8));
    assert_eq!(losses[0].count, Some(2));
    let (losses, _) =
        find_unrecorded(E1, Checkpoint::new(Seq::new(20, 0), past), acked, &extent(30, 8), None)
            .unwrap();
    assert_eq!(losses[0].count, Some(2));
}

#[test]
fn entries_the_copy_lost_are_distinguished_from_those_it_never_had() {
    assert_eq!(found(at(5, 5), at(30, 30), &extent(100, 80)), one("rewound", 15));
    let both = vec![("rewound".to_owned(), 25), ("trimmed".to_owned(), 30)];
    assert_eq!(found(at(5, 5), at(30, 30), &extent(100, 40)), both);
    // Of the 25 acknowledged entries 4 were dead letters, and 2 were lost before they were carried. Those 2
    // are in the origin's ledger; the copy lost them from its own ledger with the rest.
    let acked = Checkpoint::new(
        Seq::new(30, 0),
        Tally { added: 30, dead: 4, lost: 2, precision: TallyPrecision::Exact },
    );
    assert_eq!(found(at(5, 5), acked, &extent(100, 70)), one("rewound", 21));
    let (losses, _) = find_unrecorded(E1, at(5, 5), acked, &extent(100, 70), None).unwrap();
    assert_eq!(losses[0].count, Some(19));
    // A copy that was wiped.
    let wiped = Checkpoint::START;
    assert_eq!(found(wiped, at(30, 30), &extent(30, 10)), one("rewound", 20));
}

#[test]
fn a_cursor_past_the_acknowledgement_with_a_smaller_tally_has_lost_nothing_that_was_acknowledged() {
    let counted_low =
        |seq, added| Checkpoint { tally: at(seq, added).tally.at_least_if(true), ..at(seq, added) };
    for after in [counted_low(13, 12), counted_low(14, 12)] {
        let (losses, past) = find_missing(E1, after, at(13, 13), &extent(19, 0));
        let words: Vec<_> = losses.iter().map(|loss| (loss.cause.word(), loss.count)).collect();
        assert_eq!((words, past.added), (vec![("trimmed-or-deleted", Some(7))], 19), "{after:?}");
    }
}

proptest! {
    /// The receiver refuses losses that overlap, and the sender would send the same ones for ever.
    #[test]
    fn losses_are_in_order_and_never_overlap(
        (after, counted) in (0..30_u64, 0..30_u64),
        (acked, acked_counted, acked_dead) in (0..30_u64, 0..30_u64, 0..5_u64),
        (added, length, max_deleted) in (0..30_u64, 0..30_u64, 0..30_u64),
        is_exact in any::<bool>(),
    ) {
        let after = at(after, counted);
        let after = Checkpoint { tally: after.tally.at_least_if(!is_exact), ..after };
        let mut acked = at(acked, acked_counted);
        acked.tally.dead = acked_dead;
        let stream = extent(added, length.min(added));
        let stream = Extent { max_deleted: Seq::new(max_deleted.min(added), 0), ..stream };
        let (losses, _) = find_missing(E1, after, acked, &stream);
        prop_assert!(losses.iter().all(|loss| after.seq < loss.from && loss.from <= loss.to));
        prop_assert!(losses.windows(2).all(|pair| pair[0].to < pair[1].from), "{losses:?}");
    }
}

#[test]
fn losses_in_the_ledger_are_not_recorded_again() {
    let cursor = at(5, 5);
    let (losses, written) = find_unrecorded(E1, cursor, cursor, &extent(100, 40), None).unwrap();
    assert_eq!((losses.len(), written.through_added), (1, 60));
    assert_eq!(find_unrecorded(E1, cursor, cursor, &extent(100, 40), Some(written)), None);
    assert_eq!(RecordedLosses::from_text(&written.to_string()), Some(written));
    // Only what was trimmed since then is new.
    let (losses, more) =
        find_unrecorded(E1, cursor, cursor, &extent(150, 40), Some(written)).unwrap();
    assert_eq!((losses[0].count, losses[0].from), (Some(50), Seq::new(61, 0)));
    assert_eq!((more.base_added, more.through_added), (5, 110));
    // Another cursor begins a new record.
    let (losses, _) =
        find_unrecorded(E1, at(70, 70), at(70, 70), &extent(150, 40), Some(more)).unwrap();
    assert_eq!(losses[0].count, Some(40));
}

#[test]
fn a_tally_round_trips_through_its_text_and_other_text_is_refused() {
    for text in ["0,0,0", "12,3,9", "12,3,0~", "0,0,0~", "~", "9223372036854775807,0,0"] {
        assert_eq!(text.parse::<Tally>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "1",
        "1,0",
        "1,0,",
        "-1,0,0",
        "1,2,0",
        "1,1,1",
        "1,0,0,0",
        "9223372036854775808,0,0",
        "1,0,0 ",
    ] {
        assert_eq!(text.parse::<Tally>(), Err(BadTally), "{text:?}");
    }
    assert!(Tally::default().is_unknown());
}
