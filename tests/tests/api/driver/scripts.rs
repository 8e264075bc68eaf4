//! The scripts alone, called as the driver calls them.

use super::*;

#[tokio::test]
async fn the_script_distinguishes_gap_stale_epoch_and_duplicate_and_changes_nothing() {
    let ends = Ends::start().await;
    let hub = ends.hub().await;
    let append = |epoch, after: Option<u64>, through| Append {
        epoch: Epoch(epoch),
        known: None,
        after: after.map(|ms| Seq::new(ms, 0)),
        through: Seq::new(through, 0),
        entries: vec![Entry { seq: Seq::new(through, 0), fields: vec![("a".into(), "b".into())] }],
        refused: vec![],
        digest: None,
        account: BatchAccount::default(),
        seal: None,
    };
    let run = async |append: Append| hub.copy.append(&append, 0).await.unwrap();
    assert!(matches!(run(append(1, None, 5)).await, AppendResult::Done { accepted: 1, .. }));
    assert!(matches!(run(append(2, None, 10)).await, AppendResult::Done { accepted: 1, .. }));
    let before = ends.cloud.entries("spoke-hub:in:x").await;
    assert_eq!(run(append(2, Some(11), 12)).await, AppendResult::Gap(Seq::new(10, 0)));
    assert_eq!(run(append(1, None, 12)).await, AppendResult::StaleEpoch(Epoch(2)));
    // If the session did not move the cursor itself, another one did.
    assert_eq!(run(append(2, Some(9), 10)).await, AppendResult::Gap(Seq::new(10, 0)));
    let again = run(append(2, None, 10)).await;
    assert!(matches!(again, AppendResult::Done { accepted: 0, duplicates: 1, .. }));
    assert_eq!(run(append(4, None, 12)).await, AppendResult::EpochAhead(Epoch(2)));
    let day_after_tomorrow = 2 * 24 * 60 * 60 * 1000;
    assert_eq!(run(append(2, None, day_after_tomorrow)).await, AppendResult::SeqAhead);
    // A new epoch that does not begin at its start is a gap too: its first batch was lost.
    assert_eq!(run(append(3, Some(5), 12)).await, AppendResult::Gap(Seq::ZERO));
    assert_eq!(ends.cloud.entries("spoke-hub:in:x").await, before);
    assert!(matches!(run(append(3, Some(0), 4)).await, AppendResult::Done { accepted: 1, .. }));
}

#[tokio::test]
async fn seqs_beyond_53_bits_are_compared_exactly() {
    let ends = Ends::start().await;
    let hub = ends.hub().await;
    let (ms, n) = (1_700_000_000_000, 1_700_000_000_000_000_000);
    let seqs = [Seq::new(ms, n), Seq::new(ms, n + 1), Seq::new(ms, u64::MAX), Seq::new(ms + 1, 0)];
    for seq in seqs {
        let entry = Entry { seq, fields: vec![("a".into(), "b".into())] };
        let append = Append {
            epoch: Epoch::FIRST,
            known: None,
            after: None,
            through: seq,
            entries: vec![entry],
            refused: vec![],
            digest: None,
            account: BatchAccount::default(),
            seal: None,
        };
        for accepted in [1, 0] {
            let done = hub.copy.append(&append, unix_ms()).await.unwrap();
            let AppendResult::Done { cursor, accepted: found, .. } = done else {
                panic!("{done:?}")
            };
            assert_eq!((cursor, found), (seq, accepted));
        }
    }
}

#[tokio::test]
async fn a_wiped_origin_gets_a_new_epoch_and_assigns_only_ids_after_the_cursor() {
    let ends = Ends::start().await;
    let (device, hub) = (ends.device(), ends.hub().await);
    let ahead = unix_ms() + 60_000;
    ends.device.add_as("spoke-agent:out:x", &format!("{ahead}-0"), &numbered(1)).await;
    let arrived = async {
        eventually_is("the entry to be at the hub", 1, async || {
            ends.cloud.length("spoke-hub:in:x").await
        })
        .await;
    };
    run_until(&device, &hub, arrived).await;
    ends.device.flushall().await;

    let cursor = hub.copy.cursor().await.unwrap();
    let started = device.origin.start_sender(&cursor, &StartWith::SAME, unix_ms()).await.unwrap();

    assert_eq!(started.position.finding, ResumeFinding::OriginReplaced);
    assert_eq!((started.position.epoch, started.position.joins_after), (Epoch(2), Seq::ZERO));
    let next: Seq = ends.device.add("spoke-agent:out:x", &numbered(2)).await.parse().unwrap();
    assert!(next > cursor.seq);
    // A second start finds the stored epoch.
    let again = device.origin.start_sender(&cursor, &StartWith::SAME, unix_ms()).await.unwrap();
    assert_eq!((again.position.epoch, again.position.finding), (Epoch(2), ResumeFinding::Agree));
}

#[tokio::test]
async fn a_cursor_at_the_largest_seq_does_not_block_the_origin() {
    let ends = Ends::start().await;
    let device = ends.device();
    let cursor = spoke_protocol::message::Cursor {
        epoch: Epoch::FIRST,
        seq: Seq::MAX,
        ..Default::default()
    };
    let started = device.origin.start_sender(&cursor, &StartWith::SAME, unix_ms()).await.unwrap();
    assert_eq!(started.position.epoch, Epoch(2));
    ends.device.add("spoke-agent:out:x", &numbered(1)).await;
}
