use bytes::Bytes;

use super::*;
use crate::{
    entry::{Direction, Entry, EntryLimits},
    limits::{HEARTBEAT, IDLE_TIMEOUT, PROGRESS_TIMEOUT, RECORD_INTERVAL},
    loss::{Loss, LossCause},
    message::{Cursor, ReceiveLimits},
    partner::PartnerMatch,
    seq::{Epoch, Seq},
    sync::{
        loss_accounting::Extent,
        resume::{OriginStanding, SenderStart, find_position},
        sender::TrimMode,
    },
};

fn session(heartbeat: Heartbeat, now: Instant) -> Session {
    let standing = OriginStanding::default();
    let position = find_position(&standing, &Cursor::default(), None, PartnerMatch::Same);
    let begun = SenderStart { position, standing };
    let sender = Sender::new(Direction::Up, ReceiveLimits::default(), TrimMode::Keep, &begun);
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

/// Reads one entry and sends its batch.
fn send(session: &mut Session, entry: Entry, now: Instant) {
    assert!(matches!(session.poll_work(now), Some(SessionWork::Origin(OriginTask::Read { .. }))));
    let extent =
        Extent { first: entry.seq, last: entry.seq, length: 1, added: 1, ..Extent::default() };
    session.handle_read(OriginRead { entries: vec![entry], extent, is_end: true }, now);
    assert!(matches!(session.poll_frame(now), Some(Frame::Push(_))));
}

#[test]
fn a_silent_link_is_pinged_and_then_times_out() {
    let now = Instant::now();
    let mut session = session(Heartbeat::Pings(HEARTBEAT), now);
    assert_eq!(session.poll_timeout(), now + HEARTBEAT);
    session.handle_timeout(now + HEARTBEAT);
    assert_eq!(session.poll_frame(now), Some(Frame::Ping));
    assert!(!session.has_frame());
    assert_eq!(session.round_trip(), None);
    session.handle_timeout(now + IDLE_TIMEOUT - Duration::from_millis(1));
    assert_eq!(session.end(), None);
    session.handle_timeout(now + IDLE_TIMEOUT);
    assert_eq!(session.end(), Some(&SessionEnd::IdleTimeout(IDLE_TIMEOUT)));
}

#[test]
fn the_backlog_is_counted_until_acknowledged_and_the_round_trip_is_measured() {
    let now = Instant::now();
    let mut session = session(Heartbeat::Pings(HEARTBEAT), now);
    assert_eq!(session.sender().backlog(), (0, None));
    let entry = entry(10);
    send(&mut session, entry.clone(), now);
    assert_eq!(session.sender().backlog(), (1, Some(entry.seq)));
    assert_eq!(session.sender().sent(), (1, entry.bytes() as u64));
    let second = Duration::from_secs(1);
    let ack = Ack { epoch: Epoch(1), seq: entry.seq, refused: Vec::new() };
    session.handle_frame(Frame::Ack(ack), now + second);
    assert_eq!(session.sender().backlog(), (0, None));
    let batch = session.sender().last_acked_batch().unwrap();
    assert_eq!((batch.first, batch.round_trip), (entry.seq, second));
}

#[test]
fn the_answer_to_a_ping_gives_the_round_trip_time() {
    let now = Instant::now();
    let mut session = session(Heartbeat::Pings(HEARTBEAT), now);
    session.handle_timeout(now + HEARTBEAT);
    let answered = now + HEARTBEAT + Duration::from_millis(70);
    session.handle_frame(Frame::Pong(Ack::default()), answered);
    assert_eq!(session.round_trip(), Some(Duration::from_millis(70)));
}

#[test]
fn a_byte_in_the_middle_of_a_frame_resets_the_idle_timeout() {
    let now = Instant::now();
    let mut session = session(Heartbeat::Answers, now);
    session.handle_received(now + IDLE_TIMEOUT / 2);
    session.handle_timeout(now + IDLE_TIMEOUT);
    assert_eq!(session.end(), None);
    assert_eq!(session.poll_timeout(), now + IDLE_TIMEOUT / 2 + IDLE_TIMEOUT);
}

#[test]
fn a_link_that_answers_pings_but_acknowledges_nothing_times_out() {
    let now = Instant::now();
    let mut session = session(Heartbeat::Pings(HEARTBEAT), now);
    send(&mut session, entry(10), now);
    let late = now + PROGRESS_TIMEOUT;
    session.handle_frame(Frame::Pong(Ack::default()), late);
    session.handle_timeout(late);
    assert_eq!(session.end(), Some(&SessionEnd::AckTimeout));
}

#[test]
fn a_slow_link_gets_more_time_for_an_entry_larger_than_its_window() {
    let now = Instant::now();
    let mut session = session(Heartbeat::Pings(HEARTBEAT), now);
    send(&mut session, entry(1024 * 1024), now);
    session.handle_received(now + PROGRESS_TIMEOUT);
    session.handle_timeout(now + PROGRESS_TIMEOUT);
    assert_eq!(session.end(), None);
}

#[test]
fn closing_acknowledges_the_batch_in_progress_and_drops_the_rest() {
    let now = Instant::now();
    let mut session = session(Heartbeat::Answers, now);
    for (after, through) in [(0, 1), (1, 2)] {
        let (after, through) = (Seq::new(after, 0), Seq::new(through, 0));
        let push = Push { epoch: Epoch::FIRST, after, through, ..Push::default() };
        session.handle_frame(Frame::Push(push), now);
    }
    assert!(matches!(session.poll_work(now), Some(SessionWork::Append(_))));
    let goaway = Goaway { reason: GoawayReason::Restart, message: "bye".to_owned(), wait_ms: 5 };
    session.handle_close(goaway.clone());
    assert!(!session.has_frame(), "not before the batch in progress is done");
    let cursor = Seq::new(1, 0);
    session.handle_appended(&AppendResult::Done { cursor, accepted: 0, duplicates: 0, id: None });
    let ack = Ack { epoch: Epoch::FIRST, seq: cursor, refused: Vec::new() };
    assert_eq!(session.poll_frame(now), Some(Frame::Ack(ack)));
    assert_eq!(session.poll_frame(now), Some(Frame::Goaway(goaway.clone())));
    assert_eq!((session.poll_work(now), session.end()), (None, Some(&SessionEnd::Closed(goaway))));
}

fn push(after: u64, through: u64) -> Push {
    let (after, through) = (Seq::new(after, 0), Seq::new(through, 0));
    Push { epoch: Epoch::FIRST, after, through, ..Push::default() }
}

fn appended(cursor: u64) -> AppendResult {
    let cursor = Seq::new(cursor, 0);
    AppendResult::Done { cursor, accepted: 0, duplicates: 0, id: None }
}

/// Returns the last IDs of the batches that are appended now.
fn appends(session: &mut Session, now: Instant) -> Vec<u64> {
    let work = std::iter::from_fn(|| session.poll_work(now));
    let ends = work.filter_map(|work| match work {
        SessionWork::Append(append) => Some(append.through.ms),
        SessionWork::Origin(_) | SessionWork::Probe => None,
    });
    ends.collect()
}

#[test]
fn the_first_batch_is_appended_alone_and_then_two_are_in_progress_at_a_time() {
    let now = Instant::now();
    let mut session = session(Heartbeat::Answers, now);
    (0..4).for_each(|n| session.handle_frame(Frame::Push(push(n, n + 1)), now));
    assert_eq!(appends(&mut session, now), [1]);
    session.handle_appended(&appended(1));
    assert_eq!(appends(&mut session, now), [2, 3]);
    session.handle_appended(&appended(2));
    assert_eq!(appends(&mut session, now), [4]);
    let ack = Ack { epoch: Epoch::FIRST, seq: Seq::new(2, 0), refused: Vec::new() };
    assert_eq!(session.poll_frame(now), Some(Frame::Ack(ack)));
}

#[test]
fn no_batch_overtakes_one_that_waits_for_more_than_the_script() {
    let now = Instant::now();
    let needs_search = |push: &mut Push| push.account.is_inherited = true;
    let with_losses = |push: &mut Push| {
        let (from, to) = (push.after.after(), push.after.after());
        let (epoch, count, cause) = (Epoch::FIRST, Some(1), LossCause::Trimmed);
        push.account.losses.push(Loss { epoch, from, to, count, cause });
    };
    let with_rejected_entry = |push: &mut Push| {
        push.entries = vec![Entry { seq: push.through, fields: Vec::new() }];
    };
    for change in [&needs_search as &dyn Fn(&mut Push), &with_losses, &with_rejected_entry] {
        let mut session = session(Heartbeat::Answers, now);
        for n in 0..5 {
            let mut push = push(n, n + 1);
            if n == 2 {
                change(&mut push);
            }
            session.handle_frame(Frame::Push(push), now);
        }
        for (ends, done) in [(vec![1], 1), (vec![2], 2), (vec![3], 3), (vec![4, 5], 4)] {
            assert_eq!(appends(&mut session, now), ends);
            session.handle_appended(&appended(done));
        }
        assert_eq!(session.receiver().ack().seq, Seq::new(4, 0));
    }
}

#[test]
fn an_unwritable_copy_is_reported_and_probed_and_ends_the_session_once_writable() {
    let now = Instant::now();
    let mut session = session(Heartbeat::Answers, now);
    (0..4).for_each(|n| session.handle_frame(Frame::Push(push(n, n + 1)), now));
    assert_eq!(appends(&mut session, now), [1]);
    let later = now + Duration::from_secs(1);
    session.handle_copy_unwritable(later);
    assert!(matches!(session.poll_frame(now), Some(Frame::Hold(_))));
    assert_eq!((appends(&mut session, now), session.poll_timeout()), (vec![], later));
    // The other direction continues.
    let (first, last) = (Seq::new(1, 0), Seq::new(1, 0));
    let extent = Extent { first, last, length: 1, added: 1, ..Extent::default() };
    session.handle_read(OriginRead { entries: vec![entry(10)], extent, is_end: true }, now);
    assert!(matches!(session.poll_frame(now), Some(Frame::Push(_))));
    assert_eq!(session.poll_work(later), Some(SessionWork::Probe));
    session.handle_copy_probed(Err(later + Duration::from_secs(1)));
    assert!(!session.has_frame(), "the peer has the HOLD already");
    assert_eq!(session.poll_work(later), None);
    session.handle_copy_probed(Ok(()));
    let Some(Frame::Goaway(goaway)) = session.poll_frame(later) else { panic!("no GOAWAY") };
    assert_eq!(goaway.reason, GoawayReason::Restart);
}

#[test]
fn a_peer_that_keeps_sending_to_an_unwritable_copy_is_disconnected() {
    let now = Instant::now();
    let mut session = session(Heartbeat::Answers, now);
    session.handle_frame(Frame::Push(push(0, 1)), now);
    assert_eq!(appends(&mut session, now), [1]);
    session.handle_copy_unwritable(now + Duration::from_secs(1));
    assert!(matches!(session.poll_frame(now), Some(Frame::Hold(_))));
    for n in 1..=WINDOW_BATCHES as u64 {
        session.handle_frame(Frame::Push(push(n, n + 1)), now);
        assert!(!session.has_frame(), "these may have been sent before the HOLD");
    }
    session.handle_frame(Frame::Push(push(90, 91)), now);
    let Some(Frame::Goaway(goaway)) = session.poll_frame(now) else { panic!("no GOAWAY") };
    assert_eq!(goaway.reason, GoawayReason::Protocol);
}

#[test]
fn nothing_is_sent_to_an_unwritable_copy_and_the_link_does_not_time_out() {
    let now = Instant::now();
    let mut session = session(Heartbeat::Answers, now);
    send(&mut session, entry(10), now);
    session.handle_frame(Frame::Hold("full".to_owned()), now);
    session.handle_news();
    assert_eq!((session.poll_work(now), session.has_frame()), (None, false));
    assert_eq!(session.poll_timeout(), now + IDLE_TIMEOUT);
    assert_eq!(session.hold_reason(), Some("full"));
}

#[test]
fn a_peer_that_exceeds_the_window_without_an_acknowledgement_is_disconnected() {
    let now = Instant::now();
    let with_full_window = |answered: u64| {
        let mut session = session(Heartbeat::Answers, now);
        let window = WINDOW_BATCHES as u64;
        (0..window).for_each(|n| session.handle_frame(Frame::Push(push(n, n + 1)), now));
        for n in 1..=answered {
            assert!(!appends(&mut session, now).is_empty());
            session.handle_appended(&appended(n));
        }
        (session, window)
    };
    // A batch counts until its acknowledgement is sent, also when it was appended before.
    for answered in [0, 1, 3] {
        let (mut session, window) = with_full_window(answered);
        assert_eq!(session.end(), None);
        session.handle_frame(Frame::Push(push(window, window + 1)), now);
        let goaway = loop {
            match session.poll_frame(now) {
                Some(Frame::Goaway(goaway)) => break goaway,
                Some(_) => {}
                None => session.handle_appended(&appended(answered + 1)),
            }
        };
        assert_eq!(goaway.reason, GoawayReason::Protocol);
        assert!(goaway.message.contains("window"), "{}", goaway.message);
    }
    let (mut session, window) = with_full_window(2);
    assert!(matches!(session.poll_frame(now), Some(Frame::Ack(_))));
    (window..window + 2).for_each(|n| session.handle_frame(Frame::Push(push(n, n + 1)), now));
    assert!(!session.has_frame(), "an acknowledgement frees the places of its batches");
}

#[test]
fn nothing_is_answered_for_a_batch_behind_one_that_failed() {
    let now = Instant::now();
    let mut session = session(Heartbeat::Answers, now);
    (0..3).for_each(|n| session.handle_frame(Frame::Push(push(n, n + 1)), now));
    assert_eq!(appends(&mut session, now), [1]);
    session.handle_appended(&appended(1));
    assert_eq!(appends(&mut session, now), [2, 3]);
    session.handle_appended(&AppendResult::StaleEpoch(Epoch(7)));
    session.handle_appended(&AppendResult::Gap(Seq::new(1, 0)));
    let frames: Vec<_> = std::iter::from_fn(|| session.poll_frame(now)).collect();
    let [Frame::Ack(ack), Frame::Goaway(goaway)] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!((ack.seq, goaway.reason), (Seq::new(1, 0), GoawayReason::StaleEpoch));
}

#[test]
fn acknowledgements_are_recorded_once_per_interval_including_the_last() {
    let now = Instant::now();
    let mut session = session(Heartbeat::Answers, now);
    let recorded = |session: &mut Session, at| {
        let mut work = std::iter::from_fn(|| session.poll_work(at));
        work.find_map(|work| match work {
            SessionWork::Origin(OriginTask::RecordAck { acked, .. }) => Some(acked.seq.ms),
            _ => None,
        })
    };
    let send_and_ack = |session: &mut Session, ms: u64| {
        session.handle_news();
        assert!(matches!(
            session.poll_work(now),
            Some(SessionWork::Origin(OriginTask::Read { .. }))
        ));
        let entry = Entry { seq: Seq::new(ms, 0), ..entry(1) };
        let (first, last) = (Seq::new(1, 0), entry.seq);
        let extent = Extent { first, last, length: ms, added: ms, ..Extent::default() };
        session.handle_read(OriginRead { entries: vec![entry], extent, is_end: true }, now);
        assert!(matches!(session.poll_frame(now), Some(Frame::Push(_))));
        let ack = Ack { epoch: Epoch::FIRST, seq: last, refused: Vec::new() };
        session.handle_frame(Frame::Ack(ack), now);
    };
    send_and_ack(&mut session, 1);
    assert_eq!(recorded(&mut session, now), Some(1), "the first is recorded at once");
    session.handle_ack_recorded();
    send_and_ack(&mut session, 2);
    send_and_ack(&mut session, 3);
    assert_eq!(recorded(&mut session, now), None);
    let due = session.poll_timeout();
    assert_eq!(due, now + RECORD_INTERVAL);
    session.handle_timeout(due);
    assert_eq!(recorded(&mut session, due), Some(3));
    session.handle_ack_recorded();
    assert_eq!(session.poll_timeout(), now + IDLE_TIMEOUT, "nothing is due when all is recorded");
    // A session that closes records nothing more, and has no timer for it.
    send_and_ack(&mut session, 4);
    session.handle_close(Goaway {
        reason: GoawayReason::Restart,
        message: String::new(),
        wait_ms: 0,
    });
    assert_eq!((recorded(&mut session, due), session.poll_timeout()), (None, now + IDLE_TIMEOUT));
}

#[test]
fn no_batch_that_begins_after_the_last_entry_to_send_is_sent() {
    let now = Instant::now();
    let standing = OriginStanding::default();
    let position = find_position(&standing, &Cursor::default(), None, PartnerMatch::Same);
    let begun = SenderStart { position, standing };
    let granted = ReceiveLimits { batch_entries: 2, ..ReceiveLimits::default() };
    let mut sender = Sender::new(Direction::Up, granted, TrimMode::Keep, &begun)
        .with_stop_after(Some(Seq::new(3, 0)));
    sender.handle_news();
    assert!(sender.poll_task(now).is_some());
    let entries = (1..=6).map(|ms| Entry { seq: Seq::new(ms, 0), ..entry(10) }).collect();
    let (first, last) = (Seq::new(1, 0), Seq::new(6, 0));
    let extent = Extent { first, last, length: 6, added: 6, ..Extent::default() };
    sender.handle_read(OriginRead { entries, extent, is_end: true }, now);
    let sent: Vec<_> =
        std::iter::from_fn(|| sender.poll_push(now)).map(|push| push.through).collect();
    assert_eq!(sent, [Seq::new(2, 0), Seq::new(4, 0)]);
}
