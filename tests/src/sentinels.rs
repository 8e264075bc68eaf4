//! A primary, two replicas and three Sentinels.

use std::{fs, path::Path};

use redis::{Client, Value, cmd};
use tempfile::TempDir;

use crate::{
    process::{Process, Start},
    redis::{RedisServer, free_port},
    redis_pair::follow,
    wait::{PATIENCE, eventually},
};

/// The name by which the Sentinels know the primary.
const MASTER: &str = "mymaster";
/// How long the primary is silent until a Sentinel takes it for down, in ms. A Sentinel pings each second, and with a
/// shorter time some promote a second server right after the first.
const DOWN_AFTER_MS: u64 = 2000;

/// The servers and their Sentinels. All end when it is dropped.
pub struct SentinelGroup {
    /// The first is the primary at the start.
    pub servers: Vec<RedisServer>,
    /// With their ports.
    sentinels: Vec<(Process, u16)>,
    _folder: TempDir,
}

impl SentinelGroup {
    /// Starts all, and waits until each Sentinel knows the others and the replicas.
    ///
    /// # Panics
    /// If one does not start.
    pub async fn start() -> Self {
        let mut servers = Vec::new();
        for _ in 0..3 {
            servers.push(RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]).await);
        }
        let primary = servers[0].port();
        for replica in &servers[1..] {
            follow(replica, &servers[0]).await;
        }
        let folder = tempfile::Builder::new().prefix("spoke-sentinels-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let sentinels = (0..3).map(|n| start_sentinel(folder.path(), n, primary)).collect();
        let group = Self { servers, sentinels, _folder: folder };
        for (_, port) in &group.sentinels {
            eventually("each Sentinel to know the others and the replicas", PATIENCE, async || {
                let told = ask(*port, "MASTER").await.unwrap_or_default();
                match (told.get("num-slaves"), told.get("num-other-sentinels")) {
                    (Some(replicas), Some(others)) if replicas == "2" && others == "2" => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        }
        group
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        let hosts: Vec<_> =
            self.sentinels.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
        format!("redis+sentinel://{}/{MASTER}/0", hosts.join(","))
    }

    /// The ports of the Sentinels.
    pub fn ports(&self) -> Vec<u16> {
        self.sentinels.iter().map(|(_, port)| *port).collect()
    }

    /// Pauses a Sentinel: its connections stay open and nothing is answered.
    pub fn pause_sentinel(&self, at: usize) {
        self.sentinels[at].0.pause();
    }

    /// Kills a Sentinel.
    pub fn kill_sentinel(&mut self, at: usize) {
        self.sentinels[at].0.kill9();
    }

    /// Waits until a Sentinel names another server than the first, and returns it.
    ///
    /// # Panics
    /// If none does.
    pub async fn promoted(&mut self) -> &RedisServer {
        let old = self.servers[0].port().to_string();
        let promoted = eventually("the Sentinels to name another server", PATIENCE, async || {
            for (_, port) in &self.sentinels {
                match address(*port).await {
                    Some((_, named)) if named != old => return Ok(named),
                    _ => {}
                }
            }
            Err("the old one")
        })
        .await;
        let mut servers = self.servers.iter_mut();
        let primary = servers.find(|it| it.port().to_string() == promoted);
        let primary = primary.expect("it is one of the servers");
        // A Sentinel that promotes a server closes its connections.
        primary.reconnect().await;
        primary
    }

    /// Lets the Sentinels promote another server at once.
    ///
    /// # Panics
    /// If they refuse.
    pub async fn fail_over(&self) {
        let client = client(self.sentinels[0].1);
        let mut connection = client.get_multiplexed_async_connection().await.expect("it listens");
        let mut fail_over = cmd("SENTINEL");
        fail_over.arg("FAILOVER").arg(MASTER);
        fail_over.query_async::<Value>(&mut connection).await.expect("a replica can be promoted");
    }
}

type Told = std::collections::HashMap<String, String>;

async fn ask(port: u16, what: &str) -> Option<Told> {
    let mut connection = client(port).get_multiplexed_async_connection().await.ok()?;
    cmd("SENTINEL").arg(what).arg(MASTER).query_async(&mut connection).await.ok()
}

async fn address(port: u16) -> Option<(String, String)> {
    let mut connection = client(port).get_multiplexed_async_connection().await.ok()?;
    let mut question = cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(MASTER).query_async(&mut connection).await.ok()
}

fn client(port: u16) -> Client {
    Client::open(format!("redis://127.0.0.1:{port}")).expect("the URL is well formed")
}

fn start_sentinel(folder: &Path, n: usize, primary: u16) -> (Process, u16) {
    let (directory, port) = (folder.join(n.to_string()), free_port());
    fs::create_dir(&directory).expect("the folder is new");
    let conf = directory.join("sentinel.conf");
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\n\
         sentinel monitor {MASTER} 127.0.0.1 {primary} 2\n\
         sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}\n\
         sentinel failover-timeout {MASTER} 3000\n",
        directory.display()
    );
    fs::write(&conf, text).expect("the folder can be written to");
    let conf = conf.to_str().expect("a temporary folder's path is text");
    let start = Start::with(&[conf, "--sentinel"]);
    let log = directory.join("sentinel.log");
    (Process::start(Path::new("redis-server"), &start, &log), port)
}
