//! A real `redis-server` for a test.

mod damage;
mod start;

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
};

use redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, Value, aio::MultiplexedConnection, cmd, pipe,
};
pub use spoke_store::redis_settings::ShippedConf;
use tempfile::TempDir;

use crate::{
    entries::{Fields, Stored, stored},
    process::{Finished, Process, Start, run},
    wait::{PATIENCE, eventually},
};

/// Ports to try: below those that the kernel uses for outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Commands per round trip when many entries are added.
const PIPELINE: usize = 500;

/// A Redis with the shipped settings in a temporary folder. It is killed when dropped.
pub struct RedisServer {
    directory: PathBuf,
    /// Removed with the server, if the folder is the server's own.
    _folder: Option<TempDir>,
    /// The settings file, and the options that override it.
    options: Vec<String>,
    environment: Vec<(String, String)>,
    port: u16,
    /// The current port: its own, or one that no client knows.
    listening: u16,
    process: Process,
    connection: MultiplexedConnection,
}

/// When a start is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// When it has loaded its file.
    Serves,
    /// When it answers, even if it is still loading its file.
    Answers,
}

impl RedisServer {
    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The id of its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The folder with its files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A handle of the one connection that all callers share until a restart.
    pub fn connection(&self) -> MultiplexedConnection {
        self.connection.clone()
    }

    /// A separate connection, for commands that block all later ones.
    ///
    /// # Panics
    /// If Redis refuses it.
    pub async fn another_connection(&self) -> MultiplexedConnection {
        let connected = connect(self.port, self.process.pid(), Until::Answers).await;
        connected.unwrap_or_else(|error| panic!("no further connection to redis: {error}"))
    }

    /// Replaces the connection that all callers share, which Redis may have closed.
    ///
    /// # Panics
    /// If Redis refuses it.
    pub async fn reconnect(&mut self) {
        self.connection = self.another_connection().await;
    }

    /// Kills it with SIGKILL. The contents of its append-only file are there after `restart`.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Sends SIGKILL, without a wait.
    pub fn send_kill9(&self) {
        self.process.send_kill9();
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.process.exit().is_some()
    }

    /// Restarts it on the same port and files; kills it first if it is running.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn restart(&mut self) {
        self.restart_with(&[], Until::Serves).await;
    }

    /// The same with options until the next restart.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn restart_with(&mut self, options: &[&str], until: Until) {
        self.process.kill9();
        let (directory, port, environment) = (&self.directory, self.port, &self.environment);
        let mut all = self.options.clone();
        all.extend(options.iter().map(ToString::to_string));
        let awaited = format!("redis-server on its old port {port}");
        (self.process, self.connection) = eventually(&awaited, PATIENCE, async || {
            launch(directory, port, &all, environment, until).await.ok_or("it ended")
        })
        .await;
        self.listening = port;
    }

    /// Pauses it: connections stay open and nothing is answered.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Resumes it.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Runs a command.
    ///
    /// # Panics
    /// If Redis answers with an error or not at all.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> T {
        let answer = command.query_async(&mut self.connection()).await;
        answer.unwrap_or_else(|error| panic!("redis refused {command:?}: {error}"))
    }

    /// Runs a command given as words.
    ///
    /// # Panics
    /// If Redis answers with an error or not at all.
    pub async fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.query(cmd(words[0]).arg(&words[1..])).await
    }

    /// A section of INFO.
    ///
    /// # Panics
    /// If Redis does not answer.
    pub async fn info(&self, section: &str) -> String {
        self.command(&["INFO", section]).await
    }

    /// Deletes all keys.
    ///
    /// # Panics
    /// If Redis refuses.
    pub async fn flushall(&self) {
        self.command::<()>(&["FLUSHALL"]).await;
    }

    /// Runs the real `redis-cli` against this server.
    ///
    /// # Panics
    /// If it cannot be run.
    pub async fn cli(&self, arguments: &[&str]) -> Finished {
        let mut start = Start::with(&["-p", &self.port.to_string()]);
        start.arguments.extend(arguments.iter().map(ToString::to_string));
        run(Path::new("redis-cli"), &start).await
    }

    /// Adds an entry and returns its ID.
    ///
    /// # Panics
    /// If Redis refuses.
    pub async fn add(&self, stream: &str, fields: &Fields) -> String {
        self.add_as(stream, "*", fields).await
    }

    /// Adds an entry with this ID and returns the ID.
    ///
    /// # Panics
    /// If Redis refuses.
    pub async fn add_as(&self, stream: &str, id: &str, fields: &Fields) -> String {
        self.query(&xadd(stream, id, fields)).await
    }

    /// Adds entries in order and returns them with their IDs.
    ///
    /// # Panics
    /// If Redis refuses.
    pub async fn add_all(&self, stream: &str, entries: &[Fields]) -> Vec<Stored> {
        add_all(self.connection(), stream, entries).await
    }

    /// Deletes every key with this prefix.
    ///
    /// # Panics
    /// If Redis refuses.
    pub async fn forget(&self, prefix: &str) {
        let keys: Vec<String> = self.command(&["KEYS", &format!("{prefix}*")]).await;
        assert!(!keys.is_empty(), "there is nothing to forget under {prefix}");
        self.query::<()>(cmd("DEL").arg(keys)).await;
    }

    /// All entries of a stream, oldest first.
    ///
    /// # Panics
    /// If Redis refuses.
    pub async fn entries(&self, stream: &str) -> Vec<Stored> {
        let (mut entries, mut from) = (Vec::new(), "-".to_owned());
        loop {
            let page: Value =
                self.command(&["XRANGE", stream, &from, "+", "COUNT", ENTRIES_PAGE]).await;
            let page = stored(page);
            let Some(last) = page.last() else { return entries };
            from = format!("({}", last.id);
            entries.extend(page);
        }
    }

    /// The number of entries of a stream.
    ///
    /// # Panics
    /// If Redis refuses.
    pub async fn length(&self, stream: &str) -> usize {
        self.command(&["XLEN", stream]).await
    }

    /// A hash's fields by name, as text.
    ///
    /// # Panics
    /// If Redis refuses.
    pub async fn hash(&self, key: &str) -> std::collections::BTreeMap<String, String> {
        self.command(&["HGETALL", key]).await
    }
}

/// Adds entries in order over this connection, for use in a separate task.
///
/// # Panics
/// If Redis refuses.
pub async fn add_all(
    mut connection: MultiplexedConnection,
    stream: &str,
    entries: &[Fields],
) -> Vec<Stored> {
    let mut added = Vec::with_capacity(entries.len());
    for part in entries.chunks(PIPELINE) {
        let mut pipe = pipe();
        for fields in part {
            pipe.add_command(xadd(stream, "*", fields));
        }
        let ids: Vec<String> =
            pipe.query_async(&mut connection).await.expect("redis takes entries");
        let part = ids.into_iter().zip(part);
        added.extend(part.map(|(id, fields)| Stored { id, fields: fields.clone() }));
    }
    added
}

fn xadd(stream: &str, id: &str, fields: &Fields) -> Cmd {
    let mut xadd = cmd("XADD");
    xadd.arg(stream).arg(id);
    for (name, value) in fields {
        xadd.arg(&name[..]).arg(&value[..]);
    }
    xadd
}

/// A loopback port that nothing listens on now.
pub fn free_port() -> u16 {
    loop {
        let port = rand::random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Entries of one reply: Redis closes a connection whose replies exceed its limit.
const ENTRIES_PAGE: &str = "200";

/// Starts a process; `None` if it ended, as it does if its port is in use.
async fn launch(
    directory: &Path,
    port: u16,
    options: &[String],
    environment: &[(String, String)],
    until: Until,
) -> Option<(Process, MultiplexedConnection)> {
    let text = directory.to_str().expect("a temporary folder's path is text");
    let port_text = port.to_string();
    let mut start = Start::with(&[]);
    start.arguments = options.to_vec();
    let own = ["--port", &port_text, "--bind", "127.0.0.1", "--dir", text];
    start.arguments.extend(own.map(ToOwned::to_owned));
    start.environment.extend(environment.iter().cloned());
    let mut process =
        Process::start(Path::new("redis-server"), &start, &directory.join("redis.log"));
    let awaited = format!("redis-server on port {port}");
    let connection = eventually(&awaited, PATIENCE, async || {
        if process.exit().is_some() {
            return Ok(None);
        }
        connect(port, process.pid(), until).await.map(Some)
    })
    .await?;
    Some((process, connection))
}

/// Connects, and checks which process answers: the port may be another test's.
async fn connect(port: u16, pid: u32, until: Until) -> Result<MultiplexedConnection, String> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}"));
    let client = client.expect("the URL is well formed");
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    let connected = client.get_multiplexed_async_connection_with_config(&config).await;
    let mut connection = connected.map_err(|error| error.to_string())?;
    let info: redis::RedisResult<String> = cmd("INFO").query_async(&mut connection).await;
    let info = info.map_err(|error| error.to_string())?;
    if !info.contains(&format!("process_id:{pid}\r\n")) {
        return Err("another server answered".to_owned());
    }
    match until == Until::Answers || info.contains("\r\nloading:0\r\n") {
        true => Ok(connection),
        false => Err("it is loading its file".to_owned()),
    }
}
