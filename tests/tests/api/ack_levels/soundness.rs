//! What each service says at start of a Redis that could lose what Spoke keeps in it.

use spoke_tests::{
    binaries::path_of,
    cloud::{Cloud, admit},
    device::Device,
    process::{Start, run},
    redis::RedisServer,
    service::{Kind, Service},
    wait::eventually_true,
};

use crate::ack_levels::one;

const EVICTS: &str = "CONFIG SET maxmemory-policy noeviction";
const FORGETS: &str = "CONFIG SET appendonly yes";

fn warns(log: &str, mend: &str) -> bool {
    log.lines().any(|line| line.contains("WARN") && line.contains(mend))
}

#[tokio::test]
async fn all_three_services_warn_of_a_redis_that_may_lose_data_and_say_what_to_do() {
    let options =
        ["--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru", "--appendonly", "no"];
    let unsound = RedisServer::start_with(&options).await;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for kind in [Kind::Auth, Kind::Hub] {
        let service = Service::start(kind, &unsound.url(), &[], folder.path()).await;
        eventually_true("both warnings", async || {
            let log = service.log();
            warns(&log, EVICTS) && warns(&log, FORGETS)
        })
        .await;
    }

    let cloud = Cloud::start().await;
    let mut device = Device::without_agent(&cloud, "dev1", &[]).await;
    device.redis.command::<()>(&["CONFIG", "SET", "maxmemory", "100mb"]).await;
    device.redis.command::<()>(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    device.start_agent();
    eventually_true("the warning", async || warns(&device.log(), EVICTS)).await;
    assert!(!warns(&device.log(), FORGETS), "it keeps a file");
    device.acknowledged_both_ways(&cloud).await;
    for log in [cloud.hub.log(), cloud.auth.log()] {
        assert!(!warns(&log, "CONFIG SET"), "nothing is wrong with the cloud's: {log}");
    }
}

#[tokio::test]
async fn check_fails_if_redis_may_evict_keys_and_passes_if_it_cannot() {
    let redis = RedisServer::start().await;
    for (program, variable) in
        [("spoke-hub", "SPOKE_HUB_REDIS"), ("spoke-auth", "SPOKE_AUTH_REDIS")]
    {
        let start = Start::with(&["check"]).variable(variable, redis.url());
        let sound = run(&path_of(program), &start).await;
        let is_said = sound.stdout.contains("ok    redis: ");
        assert_eq!((sound.code, is_said), (Some(0), true), "{sound:?}");
        redis.command::<()>(&["CONFIG", "SET", "maxmemory", "100mb"]).await;
        redis.command::<()>(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
        let unsound = run(&path_of(program), &start).await;
        assert_eq!(unsound.code, Some(1), "{unsound:?}");
        let said = unsound.stdout.contains("fail  redis: ") && unsound.stdout.contains(EVICTS);
        assert!(said, "{unsound:?}");
        redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    }
}

#[tokio::test]
async fn a_hub_works_with_a_redis_that_allows_neither_info_nor_config() {
    let redis = RedisServer::start().await;
    let user = ["ACL", "SETUSER", "hub", "on", ">word", "~*", "&*", "+@all", "-config", "-info"];
    redis.command::<()>(&user).await;
    let url = format!("redis://hub:word@127.0.0.1:{}", redis.port());
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let hub = Service::start(Kind::Hub, &url, &[], folder.path()).await;
    let said = "redis INFO failed";
    eventually_true("it to be noted", async || hub.log().contains(said)).await;
    assert!(!hub.log().contains("WARN"), "that is no fault");
    let dev1 = hub.api().with_token(&admit(&redis, "dev1").await);
    dev1.post_json("/xadd", &one(1)).await.ok();
}
