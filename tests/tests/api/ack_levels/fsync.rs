//! `ack = "fsync"`. Redis before 7.2 has no `WAITAOF` and needs `appendfsync always` instead.

use futures_util::future::join_all;
use spoke_tests::{
    cloud::admit,
    redis::RedisServer,
    service::{Kind, Service},
    wait::{PATIENCE, eventually},
};

use crate::ack_levels::{
    count_stored, entry_body, has_waitaof, post_until_refused, run_hub_until_exit,
};

const ACK: (&str, &str) = ("ack", "fsync");

async fn assert_refused(redis: &str, help: &str) {
    let ended = run_hub_until_exit(redis, "fsync").await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.stderr.contains("ack: \"fsync\" is not possible: redis"), "{}", ended.stderr);
    assert!(ended.stderr.contains(help), "{help} is not in {}", ended.stderr);
}

#[tokio::test]
async fn a_hub_whose_redis_does_not_fsync_exits_with_78_and_says_how_to_fix_it() {
    let redis = RedisServer::start().await;
    let set = async |key, value| redis.command::<()>(&["CONFIG", "SET", key, value]).await;
    let url = redis.url();
    assert_refused(&url, "CONFIG SET appendfsync").await;
    if !has_waitaof(&redis).await {
        set("appendfsync", "everysec").await;
        assert_refused(&url, "CONFIG SET appendfsync always").await;
        set("appendfsync", "always").await;
        set("no-appendfsync-on-rewrite", "yes").await;
        assert_refused(&url, "CONFIG SET no-appendfsync-on-rewrite no").await;
        set("no-appendfsync-on-rewrite", "no").await;
    }
    set("appendfsync", "always").await;
    set("appendonly", "no").await;
    assert_refused(&url, "CONFIG SET appendonly yes").await;
}

#[tokio::test]
async fn a_hub_that_may_not_read_the_fsync_settings_exits_with_78_and_says_what_to_do() {
    let redis = RedisServer::start_with(&["--appendfsync", "always"]).await;
    let user = ["ACL", "SETUSER", "hub", "on", ">word", "~*", "&*", "+@all", "-config"];
    redis.command::<()>(&user).await;
    let url = format!("redis://hub:word@127.0.0.1:{}", redis.port());
    assert_refused(&url, "+config|get").await;
}

#[tokio::test]
async fn every_acknowledged_entry_survives_a_redis_kill_under_load() {
    // From 7.2 on Redis need not fsync after each write: WAITAOF waits for the next fsync.
    let mut redis = RedisServer::start().await;
    let policy = if has_waitaof(&redis).await { "everysec" } else { "always" };
    redis = RedisServer::start_with(&["--appendfsync", policy]).await;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let hub = Service::start(Kind::Hub, &redis.url(), &[ACK], folder.path()).await;
    let names = ["dev1", "dev2", "dev3", "dev4"];
    let tokens = join_all(names.map(|name| admit(&redis, name))).await;
    let posting = tokens.iter().map(|token| hub.api().with_token(token));
    let posting: Vec<_> = posting.map(|api| tokio::spawn(post_until_refused(api))).collect();
    eventually("some entries of a client to be stored", PATIENCE, async || {
        let count = count_stored(&redis, "dev1").await;
        if count >= 5 { Ok(()) } else { Err(count) }
    })
    .await;

    redis.kill9();
    redis.restart().await;

    for (name, posting) in names.into_iter().zip(posting) {
        let acknowledged = posting.await.unwrap();
        let stored = count_stored(&redis, name).await;
        assert!(stored >= acknowledged, "{name}: {acknowledged} acknowledged, {stored} stored");
    }
}

#[tokio::test]
async fn the_hub_answers_503_while_redis_does_not_fsync_and_recovers_afterwards() {
    let redis = RedisServer::start_with(&["--appendfsync", "always"]).await;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut hub = Service::start(Kind::Hub, &redis.url(), &[ACK], folder.path()).await;
    let dev1 = hub.api().with_token(&admit(&redis, "dev1").await);
    dev1.post_json("/xadd", &entry_body(1)).await.ok();
    let mut settings = vec![("appendonly", "no", "yes")];
    if !has_waitaof(&redis).await {
        settings.push(("appendfsync", "everysec", "always"));
    }
    for (ms, (key, unsafe_value, safe_value)) in (2..).zip(settings) {
        redis.command::<()>(&["CONFIG", "SET", key, unsafe_value]).await;
        for answer in [dev1.post_json("/xadd", &entry_body(ms)).await, dev1.get("/seq").await] {
            assert_eq!(answer.refusal(), (503, "unavailable".to_owned()), "{key} {unsafe_value}");
        }
        assert!(hub.log().contains("NOFSYNC"), "{key} {unsafe_value}");
        redis.command::<()>(&["CONFIG", "SET", key, safe_value]).await;
        eventually("the entry to be acknowledged", PATIENCE, async || {
            let answer = dev1.get("/seq").await;
            let is_acknowledged = answer.status == 200 && answer.ok()["seq"] == format!("{ms}-0");
            if is_acknowledged { Ok(()) } else { Err(answer) }
        })
        .await;
    }
    let status = hub.terminate().await;
    assert_eq!(status.code(), Some(0), "{status}");
}
