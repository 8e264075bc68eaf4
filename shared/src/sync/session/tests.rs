use bytes::Bytes;

use super::*;
use crate::{
    entry::{Direction, Entry, EntryLimits},
    limits::{HEARTBEAT, PROGRESS_TIMEOUT},
    seq::{Epoch, Seq},
    sync::{
        account::Extent,
        position::{Begun, Standing, begin},
        sender::Trim,
    },
    wire::frame::{Cursor, Granted},
};

fn session(heartbeat: Heartbeat, now: Instant) -> Session {
    let standing = Standing::default();
    let position = begin(&standing, &Cursor::default(), None);
    let begun = Begun { position, standing };
    let sender = Sender::new(Direction::Up, Granted::default(), Trim::Keep, &begun);
    let receiver =
        Receiver::new(Direction::Down, EntryLimits::default(), (Epoch::UNKNOWN, Seq::ZERO));
    let mut session = Session::new(sender, receiver, heartbeat, now);
    session.handle_news();
    session
}

fn entry(bytes: usize) -> Entry {
    let fields = vec![(Bytes::from_static(b"a"), Bytes::from(vec![0; bytes]))];
    Entry { seq: Seq::new(1, 0), fields }
}

/// Hands over one entry and lets the batch leave.
fn send(session: &mut Session, entry: Entry, now: Instant) {
    assert!(matches!(session.poll_work(), Some(Work::Origin(Task::Read { .. }))));
    let extent =
        Extent { first: entry.seq, last: entry.seq, length: 1, added: 1, ..Extent::default() };
    session.handle_read(Read { entries: vec![entry], extent });
    assert!(matches!(session.poll_frame(now), Some(Frame::Push(_))));
}

#[test]
fn one_that_hears_nothing_pings_and_at_last_gives_up() {
    let now = Instant::now();
    let mut session = session(Heartbeat::Pings(HEARTBEAT), now);
    assert_eq!(session.poll_timeout(), now + HEARTBEAT);
    session.handle_timeout(now + HEARTBEAT);
    assert_eq!(session.poll_frame(now), Some(Frame::Ping));
    assert!(!session.has_frame());
    session.handle_timeout(now + IDLE_TIMEOUT - Duration::from_millis(1));
    assert_eq!(session.end(), None);
    session.handle_timeout(now + IDLE_TIMEOUT);
    assert_eq!(session.end(), Some(&End::Silent(IDLE_TIMEOUT)));
}

#[test]
fn a_byte_in_the_middle_of_a_frame_counts_as_heard() {
    let now = Instant::now();
    let mut session = session(Heartbeat::Answers, now);
    session.handle_heard(now + IDLE_TIMEOUT / 2);
    session.handle_timeout(now + IDLE_TIMEOUT);
    assert_eq!(session.end(), None);
    assert_eq!(session.poll_timeout(), now + IDLE_TIMEOUT / 2 + IDLE_TIMEOUT);
}

#[test]
fn a_link_that_answers_pings_and_acknowledges_nothing_is_given_up() {
    let now = Instant::now();
    let mut session = session(Heartbeat::Pings(HEARTBEAT), now);
    send(&mut session, entry(10), now);
    let late = now + PROGRESS_TIMEOUT;
    session.handle_frame(Frame::Pong(Ack::default()), late);
    session.handle_timeout(late);
    assert_eq!(session.end(), Some(&End::Stalled));
}

#[test]
fn a_slow_link_is_given_time_for_an_entry_larger_than_its_window() {
    let now = Instant::now();
    let mut session = session(Heartbeat::Pings(HEARTBEAT), now);
    send(&mut session, entry(1024 * 1024), now);
    session.handle_heard(now + PROGRESS_TIMEOUT);
    session.handle_timeout(now + PROGRESS_TIMEOUT);
    assert_eq!(session.end(), None);
}

#[test]
fn whoever_leaves_acknowledges_what_is_in_hand_and_drops_the_rest() {
    let now = Instant::now();
    let mut session = session(Heartbeat::Answers, now);
    for (after, through) in [(0, 1), (1, 2)] {
        let (after, through) = (Seq::new(after, 0), Seq::new(through, 0));
        let push = Push { epoch: Epoch::FIRST, after, through, ..Push::default() };
        session.handle_frame(Frame::Push(push), now);
    }
    assert!(matches!(session.poll_work(), Some(Work::Append(_))));
    let goaway = Goaway { reason: Reason::Restart, message: "bye".to_owned(), wait_ms: 5 };
    session.handle_leave(goaway.clone());
    assert!(!session.has_frame(), "not before the batch in hand is done");
    let cursor = Seq::new(1, 0);
    session.handle_appended(&Appended::Done { cursor, accepted: 0, duplicates: 0, id: None });
    let ack = Ack { epoch: Epoch::FIRST, seq: cursor, refused: Vec::new() };
    assert_eq!(session.poll_frame(now), Some(Frame::Ack(ack)));
    assert_eq!(session.poll_frame(now), Some(Frame::Goaway(goaway.clone())));
    assert_eq!((session.poll_work(), session.end()), (None, Some(&End::Ours(goaway))));
}
