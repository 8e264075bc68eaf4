//! A primary, two replicas and three Sentinels.

mod group;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use redis::Value;
use tempfile::TempDir;

use crate::{
    node_connection::{MASTER, asked, named_by},
    node_network::source_of,
    process::{Process, Start},
    redis::{RedisServer, free_port},
    testbed::{AnnouncedTo, Testbed},
    wait::{PATIENCE, eventually},
};

/// How long the primary is silent until a Sentinel takes it for down, in ms. A Sentinel pings each second, and with a
/// shorter time some promote a second server right after the first.
const DOWN_AFTER_MS: u64 = 2000;
const SERVERS: usize = 3;
const SENTINELS: u8 = 3;
/// The options of a server.
const OPTIONS: [&str; 2] = ["--repl-diskless-sync-delay", "0"];
/// The number of the first Sentinel among the members of a testbed.
const FIRST_SENTINEL: u8 = 101;

/// The servers and their Sentinels. All end when it is dropped.
pub struct SentinelGroup {
    /// The first is the primary at the start.
    pub servers: Vec<RedisServer>,
    /// With their ports.
    sentinels: Vec<(Process, u16)>,
    testbed: Option<Testbed>,
    _folder: Option<TempDir>,
}

impl SentinelGroup {
    /// Starts all, and waits until each Sentinel knows the others and the replicas.
    ///
    /// # Panics
    /// If one does not start.
    pub async fn start() -> Self {
        let mut servers = Vec::new();
        for _ in 0..SERVERS {
            servers.push(RedisServer::start_with(&OPTIONS).await);
        }
        let folder = tempfile::Builder::new().prefix("spoke-sentinels-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let path = folder.path().to_owned();
        Self { servers, sentinels: Vec::new(), testbed: None, _folder: Some(folder) }
            .joined(&path)
            .await
    }

    /// Starts all on a testbed, where the servers' links can be cut and their disks filled. The files of the Sentinels are in
    /// this folder.
    ///
    /// # Panics
    /// If one does not start.
    pub async fn start_on(mut testbed: Testbed, folder: &Path) -> Self {
        let mut servers = Vec::new();
        for _ in 0..SERVERS {
            servers.push(testbed.start_server(AnnouncedTo::Replication, &OPTIONS).await);
        }
        Self { servers, sentinels: Vec::new(), testbed: Some(testbed), _folder: None }
            .joined(folder)
            .await
    }

    /// Makes a group of servers that know no other, and starts the Sentinels.
    async fn joined(mut self, folder: &Path) -> Self {
        let primary = self.known_port(&self.servers[0]);
        for replica in &self.servers[1..] {
            let port = primary.to_string();
            replica.command::<()>(&["REPLICAOF", "127.0.0.1", &port]).await;
        }
        let source = |n| self.testbed.as_ref().map(|_| source_of(FIRST_SENTINEL + n));
        let sentinels = (0..SENTINELS).map(|n| {
            start_sentinel(folder.join(format!("sentinel-{n}")), primary, source(n).as_deref())
        });
        self.sentinels = sentinels.collect();
        self.wait_until_whole(PATIENCE).await;
        self
    }

    /// The port by which the others and clients know a server.
    fn known_port(&self, server: &RedisServer) -> u16 {
        self.testbed.as_ref().map_or(server.port(), |testbed| testbed.announced(server))
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
        let old = self.known_port(&self.servers[0]);
        let promoted = eventually("the Sentinels to name another server", PATIENCE, async || {
            for (_, port) in &self.sentinels {
                match named_by(*port).await {
                    Some(named) if named != old => return Ok(named),
                    _ => {}
                }
            }
            Err("the old one")
        })
        .await;
        let at = self.servers.iter().position(|it| self.known_port(it) == promoted);
        let primary = &mut self.servers[at.expect("it is one of the servers")];
        // A Sentinel that promotes a server closes its connections.
        primary.reconnect().await;
        primary
    }

    /// Lets the Sentinels promote another server at once.
    ///
    /// # Panics
    /// If they refuse.
    pub async fn fail_over(&self) {
        self.begin_fail_over().await.expect("a replica can be promoted");
    }

    async fn begin_fail_over(&self) -> Option<()> {
        let begun = asked::<Value>(self.sentinels[0].1, &["SENTINEL", "FAILOVER", MASTER]).await;
        begun.map(drop)
    }
}

type Told = HashMap<String, String>;

fn start_sentinel(directory: PathBuf, primary: u16, source: Option<&str>) -> (Process, u16) {
    let port = free_port();
    fs::create_dir(&directory).expect("the folder is new");
    let conf = directory.join("sentinel.conf");
    let mut text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\n\
         sentinel monitor {MASTER} 127.0.0.1 {primary} 2\n\
         sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}\n\
         sentinel failover-timeout {MASTER} 3000\n",
        directory.display()
    );
    if let Some(source) = source {
        text += &format!("bind-source-addr {source}\nsentinel announce-ip 127.0.0.1\n");
    }
    fs::write(&conf, text).expect("the folder can be written to");
    let conf = conf.to_str().expect("a temporary folder's path is text");
    let start = Start::with(&[conf, "--sentinel"]);
    let log = directory.join("sentinel.log");
    (Process::start(Path::new("redis-server"), &start, &log), port)
}
