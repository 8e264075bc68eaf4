//! Many sessions write through one Redis connection, and each gets its own answer.

use std::time::Duration;

use futures_util::future::join_all;
use spoke_protocol::{
    Entry, Epoch, Seq,
    message::Cursor,
    sync::{Append, AppendResult},
};
use spoke_store::{AckLevel, ClientQuota, CommitWriter, CopyStore, Redis, keys::HubKeys};
use spoke_tests::{
    cloud::{IN, admit, now_ms},
    proxy::Proxy,
    redis::RedisServer,
    service::{Kind, Service},
};

use crate::ack_levels::{address, entry_body, primary, redis_url, replica};

const CLIENTS: usize = 40;

async fn post_for_each_client(hub: &Service, redis: &RedisServer, ms: u64) -> Vec<u16> {
    let posts = (0..CLIENTS).map(async |n| {
        let token = admit(redis, &format!("dev{n}")).await;
        hub.api().with_token(&token).post_json("/xadd", &entry_body(ms)).await.status
    });
    join_all(posts).await
}

#[tokio::test]
async fn concurrent_requests_share_one_wait_command() {
    let primary = primary().await;
    let network = Proxy::start(address(&primary)).await;
    let _replica = replica(network.address()).await;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let level = [("ack", "replicas:1")];
    let hub = Service::start(Kind::Hub, &primary.url(), &level, folder.path()).await;
    network.delay(Duration::from_millis(100));

    assert_eq!(post_for_each_client(&hub, &primary, 1).await, [200; CLIENTS]);

    let stats: String = primary.command(&["INFO", "commandstats"]).await;
    let calls = stats.split("cmdstat_wait:calls=").nth(1).and_then(|rest| rest.split(',').next());
    let waits: usize = calls.expect("redis counted WAIT commands").parse().unwrap();
    assert!(waits <= CLIENTS / 2, "{waits} waits for {CLIENTS} entries");
}

#[tokio::test]
async fn a_script_that_fails_or_is_flushed_affects_no_other_client() {
    let redis = RedisServer::start_with(&["--appendfsync", "always"]).await;
    let network = Proxy::start(address(&redis)).await;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let url = redis_url(network.address());
    let hub = Service::start(Kind::Hub, &url, &[("ack", "fsync")], folder.path()).await;
    redis.command::<()>(&["SET", "spoke-hub:client:dev7:h", "of another program"]).await;
    network.delay(Duration::from_millis(10));
    let mut expected = [200; CLIENTS];
    expected[7] = 503;
    for ms in 1..=3 {
        redis.command::<()>(&["SCRIPT", "FLUSH"]).await;
        assert_eq!(post_for_each_client(&hub, &redis, ms).await, expected);
    }
}

#[tokio::test]
async fn a_read_whose_script_redis_lacks_does_not_repeat_the_batch_beside_it() {
    let server = RedisServer::start_with(&["--appendfsync", "always"]).await;
    let redis = Redis::open(&server.url().parse().unwrap(), "").unwrap();
    let keys = HubKeys::new("spoke-hub");
    let (writer, committer) = CommitWriter::new(redis, AckLevel::Fsync);
    tokio::spawn(committer.run());
    let copy = |client: &str| {
        let client = client.parse().unwrap();
        let quota = ClientQuota::unlimited();
        CopyStore::hub(writer.clone(), &keys, (&client, 0), Some(7), quota)
    };
    server.command::<()>(&["HSET", "spoke-hub:client:dev1:h", "generation", "7"]).await;
    let entry = Entry { seq: Seq::new(1, 0), fields: vec![("n".into(), "1".into())] };
    let batch = Append {
        epoch: Epoch(1),
        known: None,
        after: Some(Seq::ZERO),
        through: entry.seq,
        entries: vec![entry],
        refused: Vec::new(),
        digest: None,
        account: Default::default(),
        seal: None,
    };

    // Both wait for the connection, so they go together; the read is the first that this Redis sees.
    let (dev1, dev2) = (copy("dev1"), copy("dev2"));
    let (appended, read) = tokio::join!(dev1.append(&batch, now_ms()), dev2.cursor());

    let appended = appended.unwrap();
    assert!(matches!(appended, AppendResult::Done { accepted: 1, .. }), "{appended:?}");
    assert_eq!(read.unwrap(), Cursor::default());
    assert_eq!(server.length(IN).await, 1);
}
