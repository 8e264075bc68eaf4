//! The shipped settings of Redis, and what `check` says about a server that runs with others.

use spoke_tests::{
    binaries::path_of,
    process::{Finished, Start, run},
    redis::{RedisServer, ShippedConf},
};

/// The programs, the variable of their Redis, and the file that it is compared with.
const PROGRAMS: [(&str, &str, ShippedConf); 3] = [
    ("spoke-hub", "SPOKE_HUB_REDIS", ShippedConf::Hub),
    ("spoke-auth", "SPOKE_AUTH_REDIS", ShippedConf::Hub),
    ("spoke-agent", "SPOKE_AGENT_REDIS", ShippedConf::Device),
];
/// Settings of a Redis that was never adapted to Spoke, and what `check` says about each.
const UNADAPTED: [(&str, &str, &str); 8] = [
    ("maxmemory", "0", "the kernel kills redis"),
    ("appendfsync", "no", "the kernel decides when entries reach the disk"),
    ("no-appendfsync-on-rewrite", "yes", "nothing is synced during a rewrite"),
    ("auto-aof-rewrite-percentage", "0", "never rewritten"),
    ("auto-aof-rewrite-min-size", "1mb", "rewritten again and again"),
    ("aof-rewrite-incremental-fsync", "no", "synced at its end"),
    ("save", "3600 1", "snapshots"),
    ("client-output-buffer-limit", "normal 0 0 0", "a client that reads nothing"),
];

async fn check(program: &str, variable: &str, url: String) -> Finished {
    run(&path_of(program), &Start::with(&["check"]).variable(variable, url)).await
}

async fn value(redis: &RedisServer, name: &str) -> String {
    redis.command::<[String; 2]>(&["CONFIG", "GET", name]).await[1].clone()
}

#[tokio::test]
async fn a_real_redis_starts_with_each_shipped_file_and_applies_each_line() {
    for conf in [ShippedConf::Hub, ShippedConf::Device] {
        let redis = RedisServer::start_shipped(conf).await;
        // The harness binds to the loopback alone.
        for (name, shipped) in conf.settings().filter(|(name, _)| *name != "bind") {
            let running = value(&redis, name).await;
            redis.command::<()>(&["CONFIG", "SET", name, shipped.trim_matches('"')]).await;
            assert_eq!(value(&redis, name).await, running, "{} {name}", conf.path());
        }
    }
}

#[tokio::test]
async fn check_accepts_the_shipped_settings_and_warns_of_each_worse_one_with_its_reason() {
    for (program, variable, conf) in PROGRAMS {
        let redis = RedisServer::start_shipped(conf).await;
        let silent = check(program, variable, redis.url()).await;
        assert!(silent.stdout.contains("ok    redis: "), "{silent:?}");
        assert!(!silent.stdout.contains("warn  redis: "), "{silent:?}");

        for (name, value, _) in UNADAPTED {
            redis.command::<()>(&["CONFIG", "SET", name, value]).await;
        }
        let warned = check(program, variable, redis.url()).await;
        for (name, _, reason) in UNADAPTED {
            let has_line = warned.stdout.lines().any(|line| {
                line.starts_with(&format!("warn  redis: {name} is ")) && line.contains(reason)
            });
            let has_help = warned.stdout.contains(&format!("help: run CONFIG SET {name} "));
            assert!(has_line && has_help, "{name}: {}", warned.stdout);
        }
        assert!(warned.stdout.contains(conf.path()), "{}", warned.stdout);
    }
}

#[tokio::test]
async fn check_says_that_it_could_not_compare_settings_where_config_is_denied() {
    let redis = RedisServer::start().await;
    let user = ["ACL", "SETUSER", "hosted", "on", ">word", "~*", "&*", "+@all", "-config"];
    redis.command::<()>(&user).await;
    let url = format!("redis://hosted:word@127.0.0.1:{}", redis.port());
    let checked = check("spoke-hub", "SPOKE_HUB_REDIS", url).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    for words in ["ok    redis: ", "skip  redis: not checked: its settings"] {
        assert!(checked.stdout.contains(words), "{checked:?}");
    }
}
