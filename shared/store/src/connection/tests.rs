//! The connection against a real redis-server of each test, on a socket in a temporary folder.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::Script;
use tempfile::TempDir;

use super::*;

const SOON: Duration = Duration::from_secs(20);

struct Server {
    dir: TempDir,
    process: Option<Child>,
}

impl Server {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), process: None }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    fn url(&self, query: &str) -> RedisUrl {
        format!("unix://{}{query}", self.socket().display()).parse().unwrap()
    }

    fn start(&mut self, arguments: &[&str]) {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--unixsocket"]).arg(self.socket());
        command.args(arguments).current_dir(self.dir.path());
        let process = command.stdout(Stdio::null()).spawn().expect("redis-server is not installed");
        self.process = Some(process);
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Pings until the answer is the expected one.
async fn ping_until(
    redis: &Redis,
    what: &str,
    is_expected: impl Fn(&Result<(), StoreError>) -> bool,
) {
    let begun = Instant::now();
    loop {
        let answer = redis.ping().await;
        if is_expected(&answer) {
            return;
        }
        assert!(begun.elapsed() < SOON, "waited for {what}, got {answer:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn it_connects_once_redis_starts_and_reconnects_automatically() {
    let mut server = Server::new();
    let redis = Redis::open(&server.url(""), "").unwrap();
    let error = redis.ping().await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    for _ in 0..2 {
        server.start(&[]);
        ping_until(&redis, "an answer", Result::is_ok).await;
        server.kill();
        ping_until(&redis, "a fault", |answer| {
            answer.as_ref().is_err_and(StoreError::is_transient)
        })
        .await;
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_fails_no_command() {
    let mut server = Server::new();
    server.start(&[]);
    let idle = Redis::open(&server.url(""), "").unwrap();
    ping_until(&idle, "an answer", Result::is_ok).await;
    for _ in 0..3 {
        server.kill();
        server.start(&[]);
        let other = Redis::open(&server.url(""), "").unwrap();
        ping_until(&other, "an answer", Result::is_ok).await;
        idle.ping().await.unwrap();
    }
}

#[tokio::test]
async fn concurrent_commands_share_one_connection() {
    let mut server = Server::new();
    server.start(&[]);
    let redis = Redis::open(&server.url(""), "").unwrap();
    ping_until(&redis, "an answer", Result::is_ok).await;
    let mut kill = redis::cmd("CLIENT");
    kill.arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("no");
    kill.query_async::<()>(&mut redis.connection()).await.unwrap_or_default();
    let pings = futures_util::future::join_all((0..100).map(|_| redis.ping())).await;
    let served = pings.iter().filter(|answer| answer.is_ok()).count();
    let mut info = redis::cmd("INFO");
    let info: String = info.arg("stats").query_async(&mut redis.connection()).await.unwrap();
    let connections = info.lines().find(|line| line.starts_with("total_connections_received:"));
    let connections: usize =
        connections.unwrap().rsplit(':').next().unwrap().trim().parse().unwrap();
    assert!(
        connections <= 3,
        "{connections} connections were opened; {served} of 100 commands succeeded"
    );
}

#[tokio::test]
async fn a_refused_login_is_retried_and_succeeds_once_the_password_matches() {
    let mut server = Server::new();
    server.start(&["--requirepass", "right"]);
    let admin = Redis::open(&server.url("?pass=right"), "").unwrap();
    ping_until(&admin, "an answer", Result::is_ok).await;
    let redis = Redis::open(&server.url("?pass=new"), "").unwrap();
    let error = redis.ping().await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("requirepass").arg("new");
    set.query_async::<()>(&mut admin.connection()).await.unwrap();
    redis.ping().await.unwrap();
}

#[tokio::test]
async fn a_script_is_loaded_again_if_redis_has_forgotten_it() {
    let mut server = Server::new();
    server.start(&[]);
    let redis = Redis::open(&server.url(""), "").unwrap();
    ping_until(&redis, "an answer", Result::is_ok).await;
    let script = Script::new("return ARGV[1] + 1");
    for count in 0..2 {
        let answer: u64 = redis.invoke(script.prepare_invoke().arg(count)).await.unwrap();
        assert_eq!(answer, count + 1);
        let mut flush = redis::cmd("SCRIPT");
        flush.arg("FLUSH").query_async::<()>(&mut redis.connection()).await.unwrap();
    }
}

#[tokio::test]
async fn a_dedicated_connection_speaks_resp3_to_the_same_database() {
    let mut server = Server::new();
    server.start(&[]);
    let redis = Redis::open(&server.url("?db=3"), "").unwrap();
    ping_until(&redis, "an answer", Result::is_ok).await;
    redis::cmd("SET").arg("a").arg(1).query_async::<()>(&mut redis.connection()).await.unwrap();
    let mut dedicated = redis.dedicated_connection(|_| {}).await.unwrap();
    let count: u64 = redis::cmd("EXISTS").arg("a").query_async(&mut dedicated).await.unwrap();
    assert_eq!(count, 1);
    let hello: Value = redis::cmd("HELLO").query_async(&mut dedicated).await.unwrap();
    assert!(matches!(hello, Value::Map(_)), "{hello:?}");
}

#[tokio::test]
async fn nothing_printed_contains_the_password() {
    let url: RedisUrl = "redis://:hunter2@127.0.0.1:1".parse().unwrap();
    let redis = Redis::open(&url, "").unwrap();
    let printed = format!("{redis:?} {:?} {:?}", redis.connection(), redis.ping().await);
    assert!(!printed.contains("hunter2"), "{printed}");
}
