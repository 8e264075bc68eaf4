//! Clients with a backlog do not delay the small batches of others.

use bytes::Bytes;
use spoke_protocol::{
    Entry, Epoch, Seq,
    sync::{Append, AppendResult},
};
use spoke_store::{AckLevel, ClientQuota, CommitWriter, CopyStore, Redis, keys::HubKeys};
use spoke_tests::{
    cloud::{IN, now_ms},
    redis::RedisServer,
};
use tokio::task::JoinSet;

/// Clients that send large batches without a pause.
const BACKLOGS: usize = 20;
/// Entries of a large batch.
const LARGE: usize = 1000;
/// Batches of one entry that another client sends meanwhile.
const SMALL: usize = 100;

fn copy(writer: &CommitWriter, client: &str) -> CopyStore {
    let client = client.parse().expect("the name is valid");
    let quota = ClientQuota::unlimited();
    CopyStore::hub(writer.clone(), &HubKeys::new("spoke-hub"), (&client, 0), None, quota)
}

/// Appends the next batch of this many entries.
async fn append(copy: &CopyStore, from: u64, count: usize) {
    let seq = |n: u64| Seq::new(from + n, 0);
    let field = (Bytes::from_static(b"payload"), Bytes::from(vec![b'x'; 100]));
    let entries: Vec<_> =
        (1..=count as u64).map(|n| Entry { seq: seq(n), fields: vec![field.clone()] }).collect();
    let batch = Append {
        epoch: Epoch(1),
        known: None,
        after: Some(seq(0)),
        through: seq(count as u64),
        entries,
        refused: Vec::new(),
        digest: None,
        account: Default::default(),
        seal: None,
    };
    let appended = copy.append(&batch, now_ms()).await.expect("redis takes the batch");
    assert!(
        matches!(appended, AppendResult::Done { accepted, .. } if accepted == count as u64),
        "{appended:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_batches_pass_the_backlogs_of_twenty_clients() {
    let server = RedisServer::start().await;
    let redis =
        Redis::open(&server.url().parse().expect("the URL is valid"), "").expect("it opens");
    let (writer, committer) = CommitWriter::new(redis, AckLevel::Memory);
    tokio::spawn(committer.run());
    let mut backlogs = JoinSet::new();
    for n in 0..BACKLOGS {
        let copy = copy(&writer, &format!("backlog{n}"));
        backlogs.spawn(async move {
            for batch in 0.. {
                append(&copy, batch * LARGE as u64, LARGE).await;
            }
        });
    }
    let overtaken = async |name: &str, count: usize, times: usize| {
        let copy = copy(&writer, name);
        let mut counts = Vec::new();
        for n in 0..times {
            let before = server.length(IN).await;
            append(&copy, (n * count) as u64, count).await;
            counts.push((server.length(IN).await - before - count) / LARGE);
        }
        counts.sort();
        counts[times / 2]
    };
    let (large, small) = (overtaken("large", LARGE, 5).await, overtaken("small", 1, SMALL).await);
    backlogs.abort_all();
    // A large batch waits for one of each other client, a small one for those that are on their way.
    assert!(large >= BACKLOGS / 2, "a large batch waited for {large} others");
    assert!(small <= 4, "a small batch waited for {small} large ones, a large one for {large}");
}
