use super::*;
use crate::chaos::{ledger_claims::Side, load::Offer};

/// Entries 1 to `count` with the seqs 1-0 to `count`-0, of which the last is poison.
fn book(count: u64) -> Book {
    let mut book = Book::new("dev1.up");
    for number in 1..=count {
        let offer = Offer { number, fields: vec![(vec![], vec![])], is_poison: number == count };
        book.record(&offer, Some(Seq::new(number, 0)));
    }
    book
}

fn copied(book: &Book, number: u64, epoch: u64) -> Copied {
    let added = &book.entries[number as usize - 1];
    let (seq, digest) = (added.seq.unwrap_or_default(), added.digest);
    Copied { number: Some(number), seq, epoch: Some(epoch), digest }
}

fn copy(book: &Book, numbers: &[(u64, u64)]) -> Vec<Copied> {
    numbers.iter().map(|&(number, epoch)| copied(book, number, epoch)).collect()
}

fn line((from, to): (u64, u64), count: u64, cause: &str) -> Line {
    let (from, to) = (Seq::new(from, 0), Seq::new(to, 0));
    Line { side: Side::Copy, epoch: 1, from, to, count: Some(count), cause: cause.to_owned() }
}

/// The kinds of faults of this copy of five entries, of which 5 is poison and a dead letter.
fn wrong(book: &Book, copy: &[Copied], lines: &[Line], rewinds: u32) -> Vec<&'static str> {
    let (dead, held) = (BTreeSet::from([5]), BTreeSet::from([4]));
    let evidence =
        Evidence { book, copy, dead: &dead, held: &held, lines, epoch: 1, copy_rewinds: rewinds };
    let verdict = judge(&evidence);
    let faults = verdict.faults().map(|(word, faults)| (word, faults.len()));
    let words: Vec<_> = faults.into_iter().filter(|(_, n)| *n > 0).map(|(word, _)| word).collect();
    assert_eq!(words.is_empty(), verdict.is_good());
    words
}

#[test]
fn an_entry_neither_carried_once_nor_accounted_for_is_a_fault() {
    let all = [(1, 1), (2, 1), (3, 1), (4, 1)];
    let no_two = [(1, 1), (3, 1), (4, 1)];
    let two_again = [(1, 1), (2, 1), (3, 1), (4, 1), (2, 2)];
    let trimmed = |count| [line((1, 2), count, "trimmed")];
    type Row<'a> = (&'a str, &'a [(u64, u64)], &'a [Line], u32, &'a [&'static str]);
    let table: [Row; 14] = [
        ("all carried", &all, &[], 0, &[]),
        ("one missing", &no_two, &[], 0, &["missing"]),
        ("one in the ledger", &no_two, &trimmed(1), 0, &[]),
        ("more in the ledger than is missing", &no_two, &trimmed(2), 0, &["misstated by a ledger"]),
        ("more in the ledger, of which one came back since", &no_two, &trimmed(2), 1, &[]),
        (
            "a count that is an upper bound",
            &no_two,
            &[line((1, 2), 2, "trimmed-or-deleted")],
            0,
            &[],
        ),
        (
            "a rewound line without a rewound copy",
            &no_two,
            &[line((2, 2), 1, "rewound")],
            0,
            &["misstated by a ledger"],
        ),
        ("a rewound copy", &no_two, &[line((2, 2), 1, "rewound")], 1, &[]),
        ("another range", &no_two, &[line((3, 4), 1, "trimmed")], 1, &["missing"]),
        ("twice", &two_again, &[], 0, &["duplicated"]),
        ("twice, and known to be uncertain", &two_again, &[line((2, 2), 1, "uncertain")], 1, &[]),
        (
            "twice, and others are uncertain",
            &two_again,
            &[line((3, 9), 1, "uncertain")],
            1,
            &["duplicated"],
        ),
        ("out of order", &[(2, 1), (1, 1), (3, 1), (4, 1)], &[], 0, &["out of order"]),
        ("out of order in two epochs", &[(2, 1), (1, 2), (3, 2), (4, 2)], &[], 0, &[]),
    ];
    let mut book = book(5);
    book.trim(Seq::new(3, 0));
    for (name, numbers, lines, rewinds, expected) in table {
        assert_eq!(wrong(&book, &copy(&book, numbers), lines, rewinds), expected, "{name}");
    }
}

#[test]
fn a_loss_that_no_app_trimmed_requires_a_rewound_copy() {
    let mut book = book(5);
    let found = copy(&book, &[(1, 1), (3, 1), (4, 1)]);
    let trimmed = [line((2, 2), 1, "trimmed")];
    assert_eq!(wrong(&book, &found, &trimmed, 0), ["misstated by a ledger"]);
    assert_eq!(wrong(&book, &found, &trimmed, 1), [""; 0]);
    book.trim(Seq::new(3, 0));
    assert_eq!(wrong(&book, &found, &trimmed, 0), [""; 0]);
}

#[test]
fn an_entry_still_in_its_origin_is_not_lost_unless_the_origin_was_rewound() {
    let mut book = book(5);
    let found = copy(&book, &[(1, 1), (2, 1), (3, 1)]);
    let rewound = [line((4, 4), 1, "rewound")];
    assert_eq!(wrong(&book, &found, &rewound, 1), ["misstated by a ledger"]);
    book.rewind();
    assert_eq!(wrong(&book, &found, &rewound, 1), [""; 0]);
}

#[test]
fn an_entry_forgotten_or_deleted_at_its_origin_may_be_carried_at_most_once() {
    let mut book = book(5);
    book.entries[1].fate = Fate::Forgotten;
    book.entries[2].fate = Fate::Deleted;
    book.entries[3].fate = Fate::Unanswered;
    for (numbers, expected) in [
        (&[(1, 1)][..], &[][..]),
        (&[(1, 1), (2, 1), (3, 1), (4, 1)], &[]),
        (&[(1, 1), (2, 1), (2, 2)], &["duplicated"]),
    ] {
        assert_eq!(wrong(&book, &copy(&book, numbers), &[], 0), expected, "{numbers:?}");
    }
}

#[test]
fn an_id_generated_twice_does_not_hide_the_second_entry() {
    let mut book = book(5);
    book.entries[3].fate = Fate::Forgotten;
    let offer = Offer { number: 6, fields: Vec::new(), is_poison: false };
    book.record(&offer, Some(Seq::new(4, 0)));
    let mut found = copy(&book, &[(1, 1), (2, 1), (3, 1), (4, 1)]);
    assert_eq!(wrong(&book, &found, &[], 0), ["missing"]);
    found.push(copied(&book, 6, 2));
    assert_eq!(wrong(&book, &found, &[], 0), [""; 0]);
}

#[test]
fn a_changed_digest_seq_or_number_and_carried_poison_are_faults() {
    let book = book(5);
    let good = copy(&book, &[(1, 1), (2, 1), (3, 1), (4, 1)]);
    let changes: [fn(&mut Copied); 4] = [
        |copied| copied.digest ^= 1,
        |copied| copied.seq = Seq::new(4, 1),
        |copied| copied.number = Some(5),
        |copied| copied.number = None,
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut copy = good.clone();
        change(&mut copy[3]);
        assert!(wrong(&book, &copy, &[], 0).contains(&"altered"), "change {n}");
    }
}

#[test]
fn a_dead_letter_accounts_only_for_poison_and_may_be_lost_in_a_rewind() {
    let mut book = book(6);
    // 5 is a dead letter without being poison; 6 is poison without being a dead letter.
    let found = copy(&book, &[(1, 1), (2, 1), (3, 1), (4, 1)]);
    assert_eq!(wrong(&book, &found, &[], 0), ["missing"]);
    book.entries[4].is_poison = true;
    assert_eq!(wrong(&book, &found, &[], 0), ["missing"]);
    book.rewind();
    assert_eq!(wrong(&book, &found, &[], 0), [""; 0]);
}

#[test]
fn a_devices_copy_may_step_back_once_for_each_epoch_after_the_first() {
    let book = book(5);
    let mut found = copy(&book, &[(3, 1), (1, 1), (2, 1), (4, 1)]);
    found.iter_mut().for_each(|copied| copied.epoch = None);
    let dead = BTreeSet::from([5]);
    for (epoch, faults) in [(1, 1), (2, 0)] {
        let evidence = Evidence {
            book: &book,
            copy: &found,
            dead: &dead,
            held: &dead,
            lines: &[],
            epoch,
            copy_rewinds: 0,
        };
        assert_eq!(judge(&evidence).misordered.len(), faults, "epoch {epoch}");
    }
}
