//! Redis servers that Spoke meets in practice: an unsuitable one is refused with the reason and what to
//! do, and one that gives no hints is polled.

use std::time::{Duration, Instant};

use spoke_tests::{
    binaries::path_of,
    cloud::{Cloud, IN, OTP_SECRET, Settings, out},
    device::{Device, IN as DEVICE_IN, OUT},
    entries::numbered,
    old_redis::OldRedis,
    process::{Finished, Start, run, write_secret},
    redis::RedisServer,
    sentinels::SentinelGroup,
    service::{Kind, Service},
    wait::{eventually, eventually_true},
};

const RECOVERY: Duration = Duration::from_secs(5);

async fn ended(program: &str, url: &str) -> Finished {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let secret = folder.path().join("otp");
    write_secret(&secret, OTP_SECRET);
    let command = if program == "spoke-agent" { "run" } else { "serve" };
    let name = program.to_uppercase().replace('-', "_");
    let mut start = Start::with(&[command]);
    let state = folder.path().join("state");
    for (key, value) in [
        ("REDIS", url),
        ("LISTEN", "127.0.0.1:0"),
        ("ADMIN_LISTEN", ""),
        ("CLIENT", "dev1"),
        ("AUTH", "http://127.0.0.1:1"),
        ("HUB", "http://127.0.0.1:1"),
        ("STATE_DIR", state.to_str().expect("its path is UTF-8")),
        ("OTP_SECRET_FILE", secret.to_str().expect("its path is UTF-8")),
    ] {
        let is_setting = match key {
            "LISTEN" => program != "spoke-agent",
            "CLIENT" | "AUTH" | "HUB" | "STATE_DIR" | "OTP_SECRET_FILE" => program == "spoke-agent",
            _ => true,
        };
        if is_setting {
            start = start.variable(&format!("{name}_{key}"), value);
        }
    }
    run(&path_of(program), &start).await
}

#[tokio::test]
async fn a_redis_that_does_not_suit_is_refused_at_start_with_what_to_do() {
    let redis = RedisServer::start().await;
    let old = OldRedis::start(redis.port()).await;
    old.set_old(true);
    let cluster = RedisServer::start_with(&["--cluster-enabled", "yes"]).await;
    let group = SentinelGroup::start().await;
    let sentinel = format!("redis://127.0.0.1:{}", group.ports()[0]);
    let unknown = group.url().replace("mymaster", "other");
    let no_sentinel = redis.url().replace("redis:", "redis+sentinel:") + "/mymaster";
    for program in ["spoke-agent", "spoke-hub", "spoke-auth"] {
        for (url, words) in [
            (old.url(), ["the server is Redis 6.0.", "requires 7.0 or newer"]),
            (cluster.url(), ["cluster mode", "use redis+cluster://"]),
            (sentinel.clone(), ["the server is a Sentinel", "use redis+sentinel://"]),
            (unknown.clone(), ["know no master named other", "correct the name"]),
            (no_sentinel.clone(), ["is no Sentinel", "or use redis://"]),
        ] {
            let ended = ended(program, &url).await;
            assert_eq!(ended.code, Some(78), "{program}: {ended:?}");
            for word in ["redis: ", words[0], words[1]] {
                assert!(ended.stderr.contains(word), "{program}, {word}: {ended:?}");
            }
        }
    }
    for (url, word) in [(old.url(), "requires 7.0"), (cluster.url(), "cluster mode")] {
        for program in ["spoke-hub", "spoke-auth"] {
            let name = program.to_uppercase().replace('-', "_");
            let start = Start::with(&["check"]).variable(&format!("{name}_REDIS"), &url);
            let checked = run(&path_of(program), &start).await;
            assert!(checked.stdout.contains("fail  redis: "), "{checked:?}");
            assert!(checked.stdout.contains(word), "{checked:?}");
        }
    }
}

#[tokio::test]
async fn a_redis_downgraded_in_place_is_reported_with_both_versions_until_upgraded() {
    let redis = RedisServer::start().await;
    let old = OldRedis::start(redis.port()).await;
    let folder = tempfile::tempdir().unwrap();
    for kind in [Kind::Hub, Kind::Auth] {
        let service = Service::start(kind, &old.url(), &[], folder.path()).await;
        service.ready().await;
        old.set_old(true);
        eventually("the service to report it", RECOVERY, async || {
            let ready = service.admin().get("/readyz").await;
            let is_expected =
                ready.text.contains("Redis 6.0.") && ready.text.contains("requires 7.0");
            if is_expected && ready.status == 503 { Ok(()) } else { Err(ready) }
        })
        .await;
        old.set_old(false);
        eventually("the service to be ready", RECOVERY, async || {
            let ready = service.admin().get("/readyz").await;
            if ready.status == 200 { Ok(()) } else { Err(ready) }
        })
        .await;
    }
}

#[tokio::test]
async fn without_client_tracking_entries_arrive_within_a_second_and_check_warns() {
    let redis = RedisServer::start().await;
    deny_tracking(&redis).await;
    let hub_url = format!("redis://spoke:pw@127.0.0.1:{}", redis.port());
    let settings = Settings { hub: &[("redis", &hub_url)], auth: &[] };
    let cloud = Cloud::start_on(redis, settings).await;
    let mut device = Device::without_agent(&cloud, "dev1", &[]).await;
    deny_tracking(&device.redis).await;
    device.set("redis", &format!("redis://spoke:pw@127.0.0.1:{}", device.redis.port()));
    device.start_agent();
    device.redis.add(OUT, &numbered(0)).await;
    device.carried_both_ways(&cloud).await;

    for n in 1..=10 {
        for (from, stream, to, copy) in [
            (&device.redis, OUT.to_owned(), &cloud.redis, IN),
            (&cloud.redis, out("dev1"), &device.redis, DEVICE_IN),
        ] {
            let wanted = if copy == IN { n + 1 } else { n };
            from.add(&stream, &numbered(n)).await;
            let added = Instant::now();
            eventually_true("the entry to arrive", async || to.length(copy).await == wanted).await;
            assert!(added.elapsed() < Duration::from_secs(1), "{copy}: {:?}", added.elapsed());
        }
    }

    for log in [cloud.hub.log(), device.log()] {
        assert_eq!(log.matches("redis denied CLIENT TRACKING").count(), 1, "{log}");
    }
    let checked = device.command(&["check"]).await;
    assert!(checked.stdout.contains("warn  redis: "), "{checked:?}");
    assert!(checked.stdout.contains("+client|tracking"), "{checked:?}");

    // Once the command is allowed, hints work again automatically.
    cloud.redis.command::<()>(&["ACL", "SETUSER", "spoke", "+client|tracking"]).await;
    eventually_true("hints to be back", async || {
        cloud.hub.log().contains("redis allows CLIENT TRACKING again")
    })
    .await;
}

async fn deny_tracking(redis: &RedisServer) {
    let rights = ["+@all", "-@dangerous", "+info", "+config|get", "-client|tracking"];
    let user = ["ACL", "SETUSER", "spoke", "on", ">pw", "resetkeys", "~spoke-*"];
    redis.command::<()>(&[&user[..], &rights[..]].concat()).await;
}
