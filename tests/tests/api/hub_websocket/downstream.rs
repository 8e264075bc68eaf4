//! PUSH from the hub and ACK from the device.

use std::time::Duration;

use spoke_protocol::{
    Epoch, Seq,
    limits::{WINDOW_BATCHES, WINDOW_BYTES_MAX},
    message::{Ack, Cursor, Frame, Hello, Push},
};
use spoke_tests::{
    entries::{awkward, fields, numbered},
    wait::eventually_is,
    websocket::{Socket, hello, session},
};

use crate::hub_websocket::{CLIENT, OUT, connect, hub, next_push, token};

fn ack(push: &Push) -> Frame {
    Frame::Ack(Ack { epoch: push.epoch, seq: push.through, refused: vec![] })
}

#[tokio::test]
async fn added_entries_are_pushed_in_order_and_their_acknowledgement_is_stored() {
    let stand = hub().await;
    let before: Vec<_> = (0..3).map(numbered).collect();
    stand.redis.add_all(OUT, &before).await;
    let (mut socket, _) = connect(&stand, "dev1").await;
    let during: Vec<_> = (3..6).map(numbered).collect();
    stand.redis.add_all(OUT, &during).await;
    let added: Vec<_> = stand.redis.entries(OUT).await.into_iter().map(|entry| entry.id).collect();

    let mut received = Vec::new();
    while received.len() < 6 {
        let push = next_push(&mut socket).await;
        assert_eq!(push.epoch, Epoch(1));
        received.extend(push.entries.iter().map(|entry| entry.seq.to_string()));
        socket.send_frame(&ack(&push)).await;
    }

    assert_eq!(received, added);
    let last = added.last().cloned();
    eventually_is("the acknowledgement to be stored", last, async || {
        stand.redis.hash(CLIENT).await.get("out_acked").cloned()
    })
    .await;
    assert_eq!(stand.redis.length(OUT).await, 6, "nothing is trimmed");
}

#[tokio::test]
async fn the_hub_resumes_after_the_cursor_that_the_device_reports() {
    let stand = hub().await;
    let all: Vec<_> = (0..5).map(numbered).collect();
    let added = stand.redis.add_all(OUT, &all).await;
    let token = token(&stand, "dev1").await;
    let (mut first, _) = session(stand.service.address(), &token, hello()).await;
    let push = next_push(&mut first).await;
    first.send_frame(&ack(&push)).await;
    stand.redis.add_all(OUT, &(5..8).map(numbered).collect::<Vec<_>>()).await;
    let cursor = Cursor {
        is_found: false,
        epoch: push.epoch,
        seq: push.through,
        digest: Some(push.entries[4].digest()),
        tally: push.account.tally,
        seal: push.seal,
    };

    let again = Hello { cursor, ..hello() };
    let (mut second, _) = session(stand.service.address(), &token, again).await;

    let push = next_push(&mut second).await;
    let seqs: Vec<_> = push.entries.iter().map(|entry| entry.seq.to_string()).collect();
    let all = stand.redis.entries(OUT).await;
    let rest: Vec<_> = all[5..].iter().map(|entry| entry.id.clone()).collect();
    assert_eq!((push.epoch, push.after, seqs), (Epoch(1), cursor.seq, rest));
    assert_eq!(added.len(), 5);

    // A cursor without the hub's seal is not trusted.
    let forged = Cursor { seal: None, seq: all[6].id.parse().unwrap(), ..cursor };
    let again = Hello { cursor: forged, ..hello() };
    let (mut third, _) = session(stand.service.address(), &token, again).await;
    let push = next_push(&mut third).await;
    assert_eq!((push.epoch, push.account.is_inherited), (Epoch(2), true));
    assert!(push.entries.iter().any(|entry| entry.seq.to_string() == all[5].id), "{push:?}");
}

#[tokio::test]
async fn every_awkward_entry_is_pushed_bit_for_bit() {
    let stand = hub().await;
    let (mut socket, _) = connect(&stand, "dev1").await;
    for (what, fields) in awkward() {
        stand.redis.add(OUT, &fields).await;
        let push = next_push(&mut socket).await;
        let received = push.entries[0].fields.iter();
        let received: Vec<_> = received.map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
        assert!(received == fields, "{what} was changed");
        socket.send_frame(&ack(&push)).await;
    }
}

#[tokio::test]
async fn the_unacknowledged_batches_in_flight_are_bounded() {
    let stand = hub().await;
    // Twice as much as a full window may hold.
    let blob = vec![b'x'; 512 * 1024];
    let all: Vec<_> = (0..32).map(|_| fields([("blob", &blob)])).collect();
    stand.redis.add_all(OUT, &all).await;
    let (mut socket, _) = connect(&stand, "dev1").await;

    let sent = socket.frames_until_quiet(Duration::from_millis(500)).await;

    let sent: Vec<_> = sent
        .iter()
        .map(|frame| match frame {
            Frame::Push(push) => push,
            other => panic!("expected a PUSH, got {other:?}"),
        })
        .collect();
    let bytes: usize = sent.iter().flat_map(|push| &push.entries).map(|entry| entry.bytes()).sum();
    assert!((1..=WINDOW_BATCHES).contains(&sent.len()), "{} batches", sent.len());
    assert!(bytes <= WINDOW_BYTES_MAX, "{bytes} bytes");
    let last = sent[sent.len() - 1];
    socket.send_frame(&ack(last)).await;
    let next = next_push(&mut socket).await;
    assert_eq!(next.after, last.through, "the acknowledgement opens the window");
}

#[tokio::test]
async fn a_batch_has_at_most_a_thousand_entries_and_a_mebibyte() {
    let stand = hub().await;
    let small: Vec<_> = (0..2500).map(numbered).collect();
    let blob = vec![b'x'; 300 * 1024];
    let large: Vec<_> = (0..10).map(|_| fields([("blob", &blob)])).collect();
    stand.redis.add_all(OUT, &small).await;
    stand.redis.add_all(OUT, &large).await;
    let (mut socket, _) = connect(&stand, "dev1").await;
    let (mut received, mut largest, mut after) = (0, 0, Seq::ZERO);
    while received < 2510 {
        let push = next_push(&mut socket).await;
        assert_eq!(push.after, after);
        after = push.through;
        received += push.entries.len();
        largest = largest.max(push.entries.len());
        let bytes: usize = push.entries.iter().map(|entry| entry.bytes()).sum();
        assert!(push.entries.len() <= 1000, "{} entries", push.entries.len());
        assert!(bytes <= 1024 * 1024, "{bytes} bytes");
        socket.send_frame(&ack(&push)).await;
    }
    assert!(largest >= 100, "entries are batched: {largest} at most");
}

#[tokio::test]
async fn an_entry_that_can_never_be_sent_becomes_a_dead_letter() {
    let stand = hub().await;
    stand.redis.add(OUT, &numbered(1)).await;
    let poison = stand.redis.add(OUT, &fields([("seq", "1-1"), ("a", "b")])).await;
    let last = stand.redis.add(OUT, &numbered(3)).await;
    let (mut socket, _) = connect(&stand, "dev1").await;

    let mut received = Vec::new();
    while received.len() < 2 {
        let push = next_push(&mut socket).await;
        received.extend(push.entries.iter().map(|entry| entry.seq.to_string()));
        socket.send_frame(&ack(&push)).await;
    }

    assert_eq!(received.last(), Some(&last));
    assert!(!received.contains(&poison));
    let dead = stand.redis.entries("spoke-hub:dead:x").await;
    let words: Vec<_> = ["client", "seq", "reason", "a"].map(|name| dead[0].text(name)).into();
    let expected = ["dev1", &poison, "reserved-field", "b"].map(|word| Some(word.to_owned()));
    assert_eq!((dead.len(), words), (1, expected.to_vec()));
}

#[tokio::test]
async fn a_client_that_reads_nothing_delays_no_other() {
    let stand = hub().await;
    let blob = vec![b'x'; 512 * 1024];
    let all: Vec<_> = (0..60).map(|_| fields([("blob", &blob)])).collect();
    stand.redis.add_all(OUT, &all).await;
    let (_stuck, _) = connect(&stand, "dev1").await;
    let (mut dev2, _) = connect(&stand, "dev2").await;
    let mut times = Vec::new();
    for n in 0..20 {
        let begun = std::time::Instant::now();
        stand.redis.add("spoke-hub:out:dev2:x", &numbered(n)).await;
        let push = next_push(&mut dev2).await;
        times.push(begun.elapsed());
        dev2.send_frame(&ack(&push)).await;
    }
    times.sort_unstable();
    // The median: a busy machine may delay any single entry.
    assert!(times[10] < Duration::from_millis(100), "{times:?}");
}

#[tokio::test]
async fn presence_shows_the_connected_session() {
    let stand = hub().await;
    let (socket, welcome) = connect(&stand, "dev1").await;
    let state = stand.redis.hash(CLIENT).await;
    assert_eq!(state["generation"], welcome.generation.to_string());
    assert_eq!(state["agent_version"], "0.1.0-test");
    let since: u64 = state["connected_since"].parse().unwrap();
    assert!(since.abs_diff(spoke_tests::cloud::now_ms()) < 60_000);
    drop::<Socket>(socket);
    eventually_is("the session's end to be recorded", false, async || {
        stand.redis.hash(CLIENT).await.contains_key("connected_since")
    })
    .await;
}
