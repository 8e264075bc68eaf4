//! What each service says at start about a Redis that could lose Spoke's data.

use spoke_tests::{
    binaries::path_of,
    cloud::{Cloud, admit},
    device::Device,
    process::{Start, run},
    redis::RedisServer,
    service::{Kind, Service},
    wait::eventually_true,
};

use crate::ack_levels::entry_body;

const STOP_EVICTION: &str = "CONFIG SET maxmemory-policy noeviction";
const ENABLE_PERSISTENCE: &str = "CONFIG SET appendonly yes";

/// Whether the log has a warning with this advice.
fn warns(log: &str, help: &str) -> bool {
    log.lines().any(|line| line.contains("WARN") && line.contains(help))
}

#[tokio::test]
async fn all_three_services_warn_of_a_redis_that_may_lose_data_and_say_what_to_do() {
    let options =
        ["--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru", "--appendonly", "no"];
    let unsafe_redis = RedisServer::start_with(&options).await;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for kind in [Kind::Auth, Kind::Hub] {
        let service = Service::start(kind, &unsafe_redis.url(), &[], folder.path()).await;
        eventually_true("both warnings", async || {
            let log = service.log();
            warns(&log, STOP_EVICTION) && warns(&log, ENABLE_PERSISTENCE)
        })
        .await;
    }

    let cloud = Cloud::start().await;
    let mut device = Device::without_agent(&cloud, "dev1", &[]).await;
    device.redis.command::<()>(&["CONFIG", "SET", "maxmemory", "100mb"]).await;
    device.redis.command::<()>(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    device.start_agent();
    eventually_true("the warning", async || warns(&device.log(), STOP_EVICTION)).await;
    assert!(!warns(&device.log(), ENABLE_PERSISTENCE), "this redis writes a file");
    device.acknowledged_both_ways(&cloud).await;
    for log in [cloud.hub.log(), cloud.auth.log()] {
        assert!(!warns(&log, "CONFIG SET"), "the cloud's redis is fine: {log}");
    }
}

#[tokio::test]
async fn check_fails_if_redis_may_evict_keys_and_passes_if_it_cannot() {
    let redis = RedisServer::start().await;
    for (program, variable) in
        [("spoke-hub", "SPOKE_HUB_REDIS"), ("spoke-auth", "SPOKE_AUTH_REDIS")]
    {
        let start = Start::with(&["check"]).variable(variable, redis.url());
        let passed = run(&path_of(program), &start).await;
        let is_reported = passed.stdout.contains("ok    redis: ");
        assert_eq!((passed.code, is_reported), (Some(0), true), "{passed:?}");
        redis.command::<()>(&["CONFIG", "SET", "maxmemory", "100mb"]).await;
        redis.command::<()>(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
        let failed = run(&path_of(program), &start).await;
        assert_eq!(failed.code, Some(1), "{failed:?}");
        let is_reported =
            failed.stdout.contains("fail  redis: ") && failed.stdout.contains(STOP_EVICTION);
        assert!(is_reported, "{failed:?}");
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
    let message = "redis INFO failed";
    eventually_true("the failure to be logged", async || hub.log().contains(message)).await;
    assert!(!hub.log().contains("WARN"), "a refused INFO is not a warning");
    let dev1 = hub.api().with_token(&admit(&redis, "dev1").await);
    dev1.post_json("/xadd", &entry_body(1)).await.ok();
}
