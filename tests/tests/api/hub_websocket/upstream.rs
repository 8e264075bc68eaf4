//! PUSH from the device and ACK from the hub.

use spoke_protocol::{
    Epoch, RejectReason,
    limits::WINDOW_BATCHES,
    message::{Features, Frame, GoawayReason, Hello, Push},
};
use spoke_tests::{
    entries::{awkward, fields},
    websocket::{hello, session},
};
use tokio_tungstenite::tungstenite::Message;

use crate::hub_websocket::{IN, carried, connect, entry, hub, ms, numbers, push, token};

#[tokio::test]
async fn batches_are_pipelined_and_the_acknowledgement_is_cumulative() {
    let stand = hub().await;
    let (mut socket, _) = connect(&stand, "dev1").await;
    for batch in 0..8 {
        socket.send_frame(&Frame::Push(push(batch * 100, batch * 100 + 100))).await;
    }
    let mut acked = ms(0);
    while acked < ms(800) {
        let ack = socket.ack().await;
        assert!(ack.seq > acked, "acknowledgements only go forward: {ack:?} after {acked}");
        assert_eq!((ack.epoch, ack.refused), (Epoch(1), vec![]));
        acked = ack.seq;
        let held = stand.redis.length(IN).await as u64;
        assert!(held >= acked.ms, "acknowledged up to {acked}, but only {held} are stored");
    }
    assert_eq!(carried(&stand).await, numbers("dev1", 1..=800));
}

#[tokio::test]
async fn a_batch_that_does_not_start_at_the_cursor_ends_the_session_and_appends_nothing() {
    let stand = hub().await;
    for (after, through) in [(0, 5), (3, 8), (0, 8), (6, 9)] {
        let (mut socket, _) = connect(&stand, "dev1").await;
        if stand.redis.length(IN).await == 0 {
            socket.send_frame(&Frame::Push(push(0, 5))).await;
            assert_eq!(socket.ack().await.seq, ms(5));
        }
        socket.send_frame(&Frame::Push(push(after, through))).await;
        assert_eq!(socket.goaway().await.reason, GoawayReason::Gap, "{after} to {through}");
    }
    assert_eq!(carried(&stand).await, numbers("dev1", 1..=5));
}

#[tokio::test]
async fn the_next_session_resumes_at_the_cursor() {
    let stand = hub().await;
    let token = token(&stand, "dev1").await;
    let (mut socket, first) = session(stand.service.address(), &token, hello()).await;
    socket.send_frame(&Frame::Push(push(0, 5))).await;
    socket.ack().await;
    drop(socket);
    let (mut socket, welcome) = session(stand.service.address(), &token, hello()).await;
    assert!(welcome.generation > first.generation);
    assert_eq!(welcome.cursor.seq, ms(5));
    socket.send_frame(&Frame::Push(push(5, 6))).await;
    assert_eq!(socket.ack().await.seq, ms(6));
    assert_eq!(carried(&stand).await, numbers("dev1", 1..=6));
}

#[tokio::test]
async fn a_gap_ends_the_session_before_anything_is_written() {
    let stand = hub().await;
    let (mut socket, _) = connect(&stand, "dev1").await;
    socket.send_frame(&Frame::Push(push(0, 2))).await;
    socket.ack().await;
    socket.send_frame(&Frame::Push(push(3, 4))).await;
    assert_eq!(socket.goaway().await.reason, GoawayReason::Gap);
    assert_eq!(carried(&stand).await, numbers("dev1", 1..=2));
}

#[tokio::test]
async fn a_new_epoch_begins_at_the_start_and_the_old_one_is_stale() {
    let stand = hub().await;
    let (mut socket, _) = connect(&stand, "dev1").await;
    socket.send_frame(&Frame::Push(push(0, 5))).await;
    socket.ack().await;
    socket.send_frame(&Frame::Push(Push { epoch: Epoch(2), ..push(0, 3) })).await;
    let ack = socket.ack().await;
    assert_eq!((ack.epoch, ack.seq), (Epoch(2), ms(3)));
    socket.send_frame(&Frame::Push(push(5, 6))).await;
    assert_eq!(socket.goaway().await.reason, GoawayReason::StaleEpoch);
    let mut expected = numbers("dev1", 1..=5);
    expected.extend(numbers("dev1", 1..=3));
    assert_eq!(carried(&stand).await, expected);
}

#[tokio::test]
async fn every_awkward_entry_arrives_bit_for_bit_compressed_or_not() {
    for features in [Features::default(), Features::COMPRESSION] {
        let stand = hub().await;
        let token = token(&stand, "dev1").await;
        let hello = Hello { features, ..hello() };
        let (mut socket, _) = session(stand.service.address(), &token, hello).await;
        for (n, (what, fields)) in (1..).zip(awkward()) {
            let batch = Push {
                epoch: Epoch(1),
                after: ms(n - 1),
                through: ms(n),
                entries: vec![entry(ms(n), &fields)],
                ..Push::default()
            };
            socket.send(Message::Binary(Frame::Push(batch).encode(features))).await;
            let ack = socket.ack().await;
            assert_eq!((ack.seq, ack.refused), (ms(n), vec![]), "{what}");
            let stored = stand.redis.entries(IN).await.pop().unwrap();
            assert!(stored.fields[3..] == fields, "{what} did not arrive as it was sent");
        }
    }
}

#[tokio::test]
async fn a_refused_entry_is_reported_with_its_reason_and_the_others_are_accepted() {
    let stand = hub().await;
    let (mut socket, _) = connect(&stand, "dev1").await;
    let mut batch = push(0, 6);
    batch.entries[1] = entry(ms(2), &fields([("a", "1"), ("epoch", "7")]));
    batch.entries[2] = entry(ms(3), &fields((0..129).map(|i| (format!("f{i}"), "v"))));
    batch.entries[3] = entry(ms(4), &fields([("blob", vec![0; 1024 * 1024 + 1])]));
    batch.entries[4] = entry(ms(5), &vec![]);
    socket.send_frame(&Frame::Push(batch)).await;

    let ack = socket.ack().await;

    assert_eq!(ack.seq, ms(6));
    let expected = [
        (ms(2), RejectReason::ReservedField),
        (ms(3), RejectReason::TooManyFields),
        (ms(4), RejectReason::TooLarge),
        (ms(5), RejectReason::Empty),
    ];
    assert_eq!(ack.refused, expected);
    let held: Vec<_> = carried(&stand).await.into_iter().map(|(_, seq, _)| seq).collect();
    assert_eq!(held, ["1-0", "6-0"]);
    assert_eq!(stand.redis.length("spoke-hub:lost:x").await, 4, "each loss is recorded");
}

#[tokio::test]
async fn a_pong_has_the_cursor_so_that_a_lost_acknowledgement_is_recovered() {
    let stand = hub().await;
    let (mut socket, _) = connect(&stand, "dev1").await;
    socket.send_frame(&Frame::Push(push(0, 3))).await;
    socket.ack().await;
    for _ in 0..3 {
        socket.send_frame(&Frame::Ping).await;
        match socket.frame().await {
            Frame::Pong(pong) => assert_eq!((pong.epoch, pong.seq), (Epoch(1), ms(3))),
            other => panic!("expected a PONG, got {other:?}"),
        }
    }
}

#[tokio::test]
async fn entries_that_the_device_skips_between_batches_are_not_a_gap() {
    let stand = hub().await;
    let (mut socket, _) = connect(&stand, "dev1").await;
    // The device made 3 and 4 dead letters: the batch says that it covers them.
    let covering = Push { through: ms(4), ..push(0, 2) };
    socket.send_frame(&Frame::Push(covering)).await;
    assert_eq!(socket.ack().await.seq, ms(4));
    socket.send_frame(&Frame::Push(push(4, 5))).await;
    assert_eq!(socket.ack().await.seq, ms(5));
    let only = Push { epoch: Epoch(1), after: ms(5), through: ms(7), ..Push::default() };
    socket.send_frame(&Frame::Push(only)).await;
    assert_eq!(socket.ack().await.seq, ms(7));
    assert_eq!(stand.redis.length(IN).await, 3);
}

#[tokio::test]
async fn while_redis_is_down_the_session_ends_as_unavailable_without_acknowledgement() {
    let mut stand = hub().await;
    let (mut socket, _) = connect(&stand, "dev1").await;
    socket.send_frame(&Frame::Push(push(0, 1))).await;
    socket.ack().await;
    stand.redis.kill9();
    socket.send_frame(&Frame::Push(push(1, 2))).await;
    let goaway = socket.goaway().await;
    assert_eq!(goaway.reason, GoawayReason::Unavailable);
    assert!(goaway.wait_ms > 0, "the hub says when to reconnect");
    stand.redis.restart().await;
    stand.service.ready().await;
    let held = carried(&stand).await;
    assert_eq!(held, numbers("dev1", 1..=1));
}

#[tokio::test]
async fn a_hub_that_shuts_down_finishes_pending_batches_and_says_when_to_reconnect() {
    let mut stand = hub().await;
    let (mut socket, _) = connect(&stand, "dev1").await;
    let (mut idle, _) = connect(&stand, "dev2").await;
    for n in 0..WINDOW_BATCHES as u64 {
        socket.send_frame(&Frame::Push(push(n * 50, n * 50 + 50))).await;
    }
    stand.service.process().ask_to_end();
    let mut acked = ms(0);
    let goaway = loop {
        match socket.frame().await {
            Frame::Ack(ack) => acked = ack.seq,
            Frame::Goaway(goaway) => break goaway,
            _ => {}
        }
    };
    assert_eq!(goaway.reason, GoawayReason::Restart);
    assert!(goaway.wait_ms <= 10_000, "{goaway:?}");
    assert_eq!(idle.goaway().await.reason, GoawayReason::Restart);
    assert_eq!(stand.service.process().exited().await.code(), Some(0));
    assert_eq!(
        stand.redis.length(IN).await as u64,
        acked.ms,
        "every stored entry was acknowledged"
    );
    assert_eq!(carried(&stand).await, numbers("dev1", 1..=acked.ms));
}
