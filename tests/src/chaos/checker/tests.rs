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

/// What is wrong with this copy of five entries, of which 5 is poison and a dead letter.
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
fn each_entry_is_carried_once_or_accounted_for_or_it_is_a_fault() {
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
        ("the same, but it came back since", &no_two, &trimmed(2), 1, &[]),
        ("at most so many", &no_two, &[line((1, 2), 2, "trimmed-or-deleted")], 0, &[]),
        (
            "a copy rewound that was not",
            &no_two,
            &[line((2, 2), 1, "rewound")],
            0,
            &["misstated by a ledger"],
        ),
        ("a copy rewound", &no_two, &[line((2, 2), 1, "rewound")], 1, &[]),
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
fn what_no_app_trimmed_is_lost_only_where_the_copy_went_back() {
    let mut book = book(5);
    let found = copy(&book, &[(1, 1), (3, 1), (4, 1)]);
    let trimmed = [line((2, 2), 1, "trimmed")];
    assert_eq!(wrong(&book, &found, &trimmed, 0), ["misstated by a ledger"]);
    assert_eq!(wrong(&book, &found, &trimmed, 1), [""; 0]);
    book.trim(Seq::new(3, 0));
    assert_eq!(wrong(&book, &found, &trimmed, 0), [""; 0]);
}

#[test]
fn what_the_origin_still_holds_is_not_lost_unless_it_went_back() {
    let mut book = book(5);
    let found = copy(&book, &[(1, 1), (2, 1), (3, 1)]);
    let rewound = [line((4, 4), 1, "rewound")];
    assert_eq!(wrong(&book, &found, &rewound, 1), ["misstated by a ledger"]);
    book.rewind();
    assert_eq!(wrong(&book, &found, &rewound, 1), [""; 0]);
}

#[test]
fn what_its_own_redis_forgot_or_an_app_deleted_is_fine_once_or_not_at_all() {
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
fn an_id_that_was_given_out_twice_does_not_hide_the_second_entry() {
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
fn bytes_and_seq_and_origin_are_looked_at_and_poison_is_not_carried() {
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
fn a_dead_letter_excuses_poison_only_and_may_go_with_the_end_of_its_redis_file() {
    let mut book = book(6);
    // 5 stands among the dead letters without being poison; 6 is poison and does not.
    let found = copy(&book, &[(1, 1), (2, 1), (3, 1), (4, 1)]);
    assert_eq!(wrong(&book, &found, &[], 0), ["missing"]);
    book.entries[4].is_poison = true;
    assert_eq!(wrong(&book, &found, &[], 0), ["missing"]);
    book.rewind();
    assert_eq!(wrong(&book, &found, &[], 0), [""; 0]);
}

#[test]
fn a_devices_copy_may_fall_back_once_for_each_epoch_after_the_first() {
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
