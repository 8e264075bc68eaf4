//! Auth's scripts, each with extreme arguments and on unexpected keys. Redis rolls nothing back, so a script
//! that fails must not have written anything.

use std::{collections::BTreeMap, fs, path::Path};

use redis::{RedisError, Value, cmd};
use spoke_store::session_tokens::CLIENT_LUA;
use spoke_tests::redis::RedisServer;

const CLIENT: &str = "spoke-auth:client:dev1:h";
const LIST: &str = "spoke-auth:client:dev1:sessions:z";
const LIVE: &str = "spoke-auth:session:live:h";
const NEW: &str = "spoke-auth:session:new:h";
const COUNT: &str = "spoke-auth:wrong-codes";

/// Each script with keys and arguments with which it succeeds.
const SCRIPTS: [(&str, &[&str], &[&str]); 11] = [
    ("attempt", &[CLIENT, COUNT], &["1000", "100", "1000", "1", "60000", "otpSecret", "secret"]),
    ("extend", &[CLIENT], &["2000000000000"]),
    ("forgive", &[CLIENT, COUNT], &["1900000000000"]),
    ("login", &[CLIENT, NEW, LIST, LIVE], &["hash", "dev1", "60000", "16", "abcd"]),
    ("logout", &[LIVE, LIST], &[]),
    (
        "provision",
        &[CLIENT, LIST, LIVE],
        &["GRZWE3CLNBBTK2LMIRFEM6CCI5WEQR3P", "2000000000000", "again"],
    ),
    ("refresh", &[CLIENT, NEW, LIST, LIVE], &["dev1", "60000", "16", "600000"]),
    ("register", &[CLIENT, LIST, LIVE], &["otp", "7", "1000", "hash", "abcd"]),
    ("revoke", &[CLIENT, LIST, LIVE], &[]),
    ("rotate", &[CLIENT], &["hash", "next", "abcd"]),
    ("set_rate", &[CLIENT], &["200/s 1MB/s"]),
];

/// Numbers at the limits, in unusual notations, and texts that are not numbers.
const EXTREME: [&str; 14] = [
    "",
    "-1",
    "0",
    "1",
    "1e300",
    "1.5",
    "0x10",
    "nan",
    "inf",
    " 7",
    "9007199254740991",
    "9007199254740993",
    "18446744073709551615",
    "no number",
];

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../auth/src/store"))
}

fn source(name: &str) -> String {
    let read = |name: &str| fs::read_to_string(folder().join(name)).expect("the script exists");
    [CLIENT_LUA, &read("sessions.lua"), &read(&format!("{name}.lua"))].concat()
}

/// Creates a client that is registered, or that has yet to register.
async fn prepare(redis: &RedisServer, is_registered: bool) {
    redis.command::<()>(&["FLUSHALL"]).await;
    redis.command::<()>(&["HSET", CLIENT, "otpSecret", "otp", "registeredAt", "5"]).await;
    if is_registered {
        redis.command::<()>(&["HSET", CLIENT, "secret", "hash", "secretTag", "ffff"]).await;
    } else {
        redis.command::<()>(&["HSET", CLIENT, "regDeadline", "1900000000000"]).await;
        let counted = ["HSET", CLIENT, "wrongCodes", "3", "wrongCodesUntil", "1900000000000"];
        redis.command::<()>(&counted).await;
        redis.command::<()>(&["SET", COUNT, "3", "PX", "60000000"]).await;
    }
    redis.command::<()>(&["HSET", LIVE, "client", "dev1", "registeredAt", "5"]).await;
    redis.command::<()>(&["ZADD", LIST, "9999999999999", LIVE]).await;
}

/// All keys with their content and whether they expire.
async fn snapshot(redis: &RedisServer) -> BTreeMap<String, (Vec<u8>, bool)> {
    let mut all = BTreeMap::new();
    for key in redis.command::<Vec<String>>(&["KEYS", "*"]).await {
        let dump = redis.command::<Vec<u8>>(&["DUMP", &key]).await;
        let expires = redis.command::<i64>(&["PTTL", &key]).await > 0;
        all.insert(key, (dump, expires));
    }
    all
}

async fn run(
    redis: &RedisServer,
    name: &str,
    keys: &[&str],
    arguments: &[&str],
) -> Result<Value, RedisError> {
    let mut eval = cmd("EVAL");
    eval.arg(source(name)).arg(keys.len()).arg(keys).arg(arguments);
    eval.query_async(&mut redis.another_connection().await).await
}

/// Runs a script and checks that it wrote nothing if it failed. Returns whether it succeeded.
async fn run_checked(redis: &RedisServer, name: &str, keys: &[&str], arguments: &[&str]) -> bool {
    let before = snapshot(redis).await;
    let result = run(redis, name, keys, arguments).await;
    if let Err(error) = &result {
        let after = snapshot(redis).await;
        assert!(before == after, "{name} {arguments:?} failed and wrote: {error}");
    }
    result.is_ok()
}

#[test]
fn every_script_is_covered_here() {
    let mut scripts: Vec<_> = fs::read_dir(folder())
        .expect("the folder exists")
        .filter_map(|entry| {
            entry.ok()?.file_name().to_str()?.strip_suffix(".lua").map(str::to_owned)
        })
        .filter(|name| name != "sessions")
        .collect();
    scripts.sort_unstable();
    assert_eq!(scripts, SCRIPTS.map(|(name, ..)| name));
}

#[tokio::test]
async fn every_script_works_with_valid_arguments() {
    let redis = RedisServer::start().await;
    for (name, keys, arguments) in SCRIPTS {
        let is_registered = ["login", "refresh", "rotate", "logout", "revoke"].contains(&name);
        prepare(&redis, is_registered).await;
        let before = snapshot(&redis).await;
        run(&redis, name, keys, arguments).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_ne!(snapshot(&redis).await, before, "{name} did nothing");
    }
}

#[tokio::test]
async fn a_script_without_all_listed_sessions_among_its_keys_writes_nothing_and_returns_them() {
    let redis = RedisServer::start().await;
    const OTHER: &str = "spoke-auth:session:other:h";
    for (name, keys, arguments) in SCRIPTS.into_iter().filter(|(_, keys, _)| keys.contains(&LIST)) {
        prepare(&redis, ["login", "refresh", "logout", "revoke"].contains(&name)).await;
        redis.command::<()>(&["ZADD", LIST, "9999999999998", OTHER]).await;
        let before = snapshot(&redis).await;
        let listed = run(&redis, name, keys, arguments).await.unwrap();
        assert_eq!(snapshot(&redis).await, before, "{name}");
        let listed: Vec<String> = redis::from_redis_value(listed).unwrap();
        assert_eq!(listed, [OTHER, LIVE], "{name}");
        let keys: Vec<_> = keys.iter().copied().chain([OTHER]).collect();
        let answer = run(&redis, name, &keys, arguments).await.unwrap();
        assert!(!matches!(answer, Value::Array(_)), "{name}: {answer:?}");
        assert_ne!(snapshot(&redis).await, before, "{name} did nothing");
    }
}

#[tokio::test]
async fn a_script_that_fails_on_an_extreme_argument_writes_nothing() {
    let redis = RedisServer::start().await;
    let huge = "9".repeat(100_000);
    let mut failed = 0;
    for (name, keys, arguments) in SCRIPTS {
        for is_registered in [false, true] {
            for at in 0..arguments.len() {
                for extreme in EXTREME.into_iter().chain([huge.as_str()]) {
                    prepare(&redis, is_registered).await;
                    let mut arguments = arguments.to_vec();
                    arguments[at] = extreme;
                    failed += usize::from(!run_checked(&redis, name, keys, &arguments).await);
                }
            }
            for count in 0..arguments.len() {
                prepare(&redis, is_registered).await;
                run_checked(&redis, name, keys, &arguments[..count]).await;
            }
        }
    }
    assert!(failed > 100, "only {failed} failed: the arguments are less extreme than expected");
}

#[tokio::test]
async fn a_script_that_fails_on_a_key_of_another_type_writes_nothing() {
    let redis = RedisServer::start().await;
    for (name, keys, arguments) in SCRIPTS {
        for key in keys {
            for is_registered in [false, true] {
                for other in [&["SET", key, "x"][..], &["RPUSH", key, "x"], &["SADD", key, "x"]] {
                    prepare(&redis, is_registered).await;
                    redis.command::<()>(&["DEL", key]).await;
                    redis.command::<()>(other).await;
                    run_checked(&redis, name, keys, arguments).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_script_that_fails_on_a_field_edited_by_hand_writes_nothing() {
    let redis = RedisServer::start().await;
    let fields =
        ["regDeadline", "registeredAt", "otpStep", "wrongCodes", "wrongCodesUntil", "disabled"];
    for (name, keys, arguments) in SCRIPTS {
        for is_registered in [false, true] {
            for field in fields {
                for extreme in EXTREME {
                    prepare(&redis, is_registered).await;
                    redis.command::<()>(&["HSET", CLIENT, field, extreme]).await;
                    run_checked(&redis, name, keys, arguments).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_script_on_a_full_redis_writes_everything_or_nothing() {
    let redis = RedisServer::start().await;
    for (name, keys, arguments) in SCRIPTS {
        for is_registered in [false, true] {
            prepare(&redis, is_registered).await;
            let rotating = ["HSET", CLIENT, "nextSecret", "hash", "secret", "old"];
            if name == "login" && is_registered {
                redis.command::<()>(&rotating).await;
            }
            redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
            run_checked(&redis, name, keys, arguments).await;
            redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
        }
    }
}
