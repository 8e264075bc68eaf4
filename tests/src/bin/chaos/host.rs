//! A Redis with what the apps know about it: which entries it accepted, and which it forgot.
//!
//! After each crash it first starts on a port that no client knows, so that its contents are recorded
//! before anyone else writes.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use redis::{
    Cmd, FromRedisValue, Pipeline, RedisResult, Value, aio::MultiplexedConnection, cmd, pipe,
};
use spoke_protocol::Seq;
use spoke_tests::{
    chaos::{
        history::Book,
        load::{Offer, name_of},
    },
    entries::{Fields, stored},
    proxy::Proxy,
    redis::{RedisServer, ShippedConf},
    wait::eventually_true,
};
use tokio::sync::{RwLock, watch};

use crate::journal::Journal;

/// Adds an entry with the ID that a Redis whose clock is `ARGV[1]` ms behind would generate.
const ADD_BEHIND: &str = "
    local last = 0
    local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
    for at = 1, #info, 2 do
      if info[at] == 'last-generated-id' then last = tonumber(string.match(info[at + 1], '^%d+')) end
    end
    local time = redis.call('TIME')
    local now = math.floor(time[1] * 1000 + time[2] / 1000) - ARGV[1]
    local ms = string.format('%.0f', math.max(now, last))
    return redis.call('XADD', KEYS[1], ms .. '-*', unpack(ARGV, 2))";

const LAST_ID: &str = "
    local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
    for at = 1, #info, 2 do
      if info[at] == 'last-generated-id' then return info[at + 1] end
    end
    return '0-0'";

/// Trims, and returns the ID of the first entry that is left.
const TRIM: &str = "
    redis.call('XTRIM', KEYS[1], 'MAXLEN', ARGV[1])
    local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
    return first and first[1] or '0-0'";

const LOOPBACK: &str = "127.0.0.1";

/// How long only apps can reach a Redis that came back with its clock behind.
const EARLY: Duration = Duration::from_millis(200);

/// The damage to the append-only file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// None.
    None,
    /// It loses this many bytes at its end.
    Truncated(u64),
    /// It is deleted.
    Wiped,
}

/// An out stream.
pub(crate) struct Origin {
    /// Its key.
    pub(crate) stream: String,
    /// The entries that were added.
    book: Mutex<Book>,
}

/// A Redis.
pub(crate) struct Host {
    name: String,
    conf: ShippedConf,
    folder: PathBuf,
    server: tokio::sync::Mutex<RedisServer>,
    /// The primary before the failover; it still answers its open connections.
    former: tokio::sync::Mutex<Option<RedisServer>>,
    /// The floating address, if it has one.
    proxy: Option<Proxy>,
    /// A connection without a timeout: no answer means that the process has ended.
    patient: Mutex<MultiplexedConnection>,
    /// Held for reading by apps during each XADD until it is in the book, and for writing by whatever
    /// needs the book to be complete.
    adding: RwLock<()>,
    is_up: watch::Sender<bool>,
    clock: Mutex<(u64, Instant)>,
    rewinds: AtomicU32,
    /// The out streams in it.
    pub(crate) origins: Vec<Origin>,
    journal: Arc<Journal>,
}

impl Host {
    /// Starts a Redis with its files in a folder of its name. `origins` are names and keys.
    pub(crate) async fn start(
        folder: &Path,
        (name, conf): (&str, ShippedConf),
        origins: &[(String, String)],
        journal: &Arc<Journal>,
    ) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir(&folder).expect("a folder can be made");
        let server = RedisServer::start_in(conf, &folder).await;
        let patient = Mutex::new(server.patient_connection().await);
        let origin = |(name, stream): &(String, String)| Origin {
            stream: stream.clone(),
            book: Mutex::new(Book::new(name)),
        };
        Self {
            name: name.to_owned(),
            conf,
            folder,
            server: tokio::sync::Mutex::new(server),
            former: tokio::sync::Mutex::new(None),
            proxy: None,
            patient,
            adding: RwLock::new(()),
            is_up: watch::Sender::new(true),
            clock: Mutex::new((0, Instant::now())),
            rewinds: AtomicU32::new(0),
            origins: origins.iter().map(origin).collect(),
            journal: journal.clone(),
        }
    }

    /// Puts it behind a floating address, so that another can take its place.
    pub(crate) async fn behind_proxy(mut self) -> Self {
        self.proxy = Some(Proxy::start(address(self.server.get_mut())).await);
        self
    }

    /// Its URL.
    pub(crate) async fn url(&self) -> String {
        match &self.proxy {
            Some(proxy) => format!("redis://{}", proxy.address()),
            None => self.server.lock().await.url(),
        }
    }

    /// How often it came back with an older state.
    pub(crate) fn rewinds(&self) -> u32 {
        self.rewinds.load(Ordering::Relaxed)
    }

    /// Runs a command, without waiting for a Redis that is down.
    pub(crate) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let mut connection = lock(&self.patient).clone();
        command.query_async(&mut connection).await
    }

    /// Adds entries as an app does: waits while Redis is down, and returns those that it refused. An
    /// unanswered entry is recorded as such and not retried.
    pub(crate) async fn add(&self, which: usize, offers: Vec<Offer>) -> Vec<Offer> {
        // The host outlives its apps.
        let _ = self.is_up.subscribe().wait_for(|is_up| *is_up).await;
        let _open = self.adding.read().await;
        let origin = &self.origins[which];
        let mut pipe = self.additions(&origin.stream, &offers);
        let mut connection = lock(&self.patient).clone();
        let answers: RedisResult<Vec<RedisResult<String>>> =
            pipe.ignore_errors().query_async(&mut connection).await;
        let mut book = lock(&origin.book);
        let Ok(answers) = answers else {
            offers.iter().for_each(|offer| book.record(offer, None));
            return Vec::new();
        };
        let mut refused = Vec::new();
        for (offer, answer) in offers.into_iter().zip(answers) {
            match answer {
                Ok(id) => book.record(&offer, Some(id.parse().expect("XADD answers with an ID"))),
                Err(_) => refused.push(offer),
            }
        }
        refused
    }

    fn additions(&self, stream: &str, offers: &[Offer]) -> Pipeline {
        let (behind_ms, until) = *lock(&self.clock);
        let is_behind = behind_ms > 0 && Instant::now() < until;
        let mut pipe = pipe();
        for Offer { fields, .. } in offers {
            let command = match is_behind {
                true => pipe.cmd("EVAL").arg(ADD_BEHIND).arg(1).arg(stream).arg(behind_ms),
                false => pipe.cmd("XADD").arg(stream).arg("*"),
            };
            for (name, value) in fields {
                command.arg(&name[..]).arg(&value[..]);
            }
        }
        pipe
    }

    /// Trims an out stream as an app does.
    pub(crate) async fn trim(&self, which: usize, keep: u64) {
        let Origin { stream, book } = &self.origins[which];
        // So that the book is complete.
        let _alone = self.adding.write().await;
        let mut trim = cmd("EVAL");
        trim.arg(TRIM).arg(1).arg(stream).arg(keep);
        let first = self.query::<String>(&trim).await;
        // Without an answer, everything may have been trimmed.
        let first = first.map_or(Seq::MAX, |id| id.parse().expect("an ID is a seq"));
        lock(book).trim(first);
    }

    /// Deletes some of the newest entries as an app does.
    pub(crate) async fn delete(&self, which: usize, count: u64) -> RedisResult<()> {
        let Origin { stream, book } = &self.origins[which];
        let _alone = self.adding.write().await;
        let mut newest = cmd("XREVRANGE");
        newest.arg(stream).arg("+").arg("-").arg("COUNT").arg(10 * count);
        let entries = stored(self.query::<Value>(&newest).await?);
        for entry in entries.iter().step_by(10) {
            // Recorded before it is done: the answer may be lost.
            lock(book).delete(entry.id.parse().expect("an ID is a seq"));
            self.query::<()>(cmd("XDEL").arg(stream).arg(&entry.id)).await?;
        }
        Ok(())
    }

    /// Sends SIGKILL, and after `down` starts a new process on what is left of the file.
    pub(crate) async fn crash(
        &self,
        damage: Damage,
        clock_back_ms: u64,
        down: impl Future<Output = ()>,
    ) {
        self.kill9().await;
        // Apps with commands in flight have their answers, or know that none will come.
        let mut alone = self.adding.write().await;
        let mut server = self.server.lock().await;
        let cut = damage_file(&server, damage);
        down.await;
        server.restart_unseen().await;
        self.record_contents(&server, damage).await;
        let name = &self.name;
        self.journal.note(&format!(
            "{name} is back, {damage:?}, {cut} bytes cut, {clock_back_ms} ms behind"
        ));
        // Its clock is correct again after as long as it was behind.
        *lock(&self.clock) = (clock_back_ms, Instant::now() + Duration::from_millis(clock_back_ms));
        if clock_back_ms > 0 {
            // Apps can reach it before the network can.
            self.open(&server).await;
            drop((alone, server));
            tokio::time::sleep(EARLY).await;
            self.kill9().await;
            alone = self.adding.write().await;
            server = self.server.lock().await;
            server.restart_unseen().await;
            self.record_contents(&server, Damage::None).await;
        }
        server.restart().await;
        self.open(&server).await;
        drop(alone);
    }

    /// Another Redis with the same data takes its place, and the old one becomes its replica. New
    /// connections lead to the new one; open connections stay with the old one.
    pub(crate) async fn fail_over(&self) {
        let proxy = self.proxy.as_ref().expect("it has a floating address");
        let mut former = self.former.lock().await;
        *former = None;
        let mut server = self.server.lock().await;
        let folder = self.folder.join(format!("after-{}", server.port()));
        std::fs::create_dir(&folder).expect("a folder can be made");
        let next = RedisServer::start_in(self.conf, &folder).await;
        let (own, others) = (server.port().to_string(), next.port().to_string());
        next.command::<()>(&["REPLICAOF", LOOPBACK, &own]).await;
        eventually_true("the next redis to be in sync and its file complete", async || {
            let has_all = next.info("replication").await.contains("master_link_status:up");
            let persistence = next.info("persistence").await;
            let is_written = ["aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0"];
            has_all && is_written.iter().all(|line| persistence.contains(line))
        })
        .await;
        let _alone = self.adding.write().await;
        server.command::<()>(&["FAILOVER", "TO", LOOPBACK, &others]).await;
        eventually_true("the next redis to be the primary", async || {
            next.info("replication").await.contains("role:master")
        })
        .await;
        proxy.retarget(address(&next));
        self.open(&next).await;
        self.journal.note(&format!("{} is on port {others} now, and was on {own}", self.name));
        *former = Some(std::mem::replace(&mut *server, next));
    }

    async fn kill9(&self) {
        self.is_up.send_replace(false);
        self.server.lock().await.kill9();
    }

    /// Lets apps connect.
    async fn open(&self, server: &RedisServer) {
        let patient = server.patient_connection().await;
        *lock(&self.patient) = patient;
        self.is_up.send_replace(true);
    }

    /// Records what Redis kept. A file that once lost its end may lose more at a later start: if the cut
    /// fell into a transaction, Redis 7.0 leaves its MULTI open, and what follows is lost with it.
    async fn record_contents(&self, server: &RedisServer, damage: Damage) {
        let mut forgotten = 0;
        for Origin { stream, book } in &self.origins {
            let last: String = server.command(&["EVAL", LAST_ID, "1", stream]).await;
            let last: Seq = last.parse().expect("an ID is a seq");
            let after = format!("({}", lock(book).last());
            let behind: Value = server.command(&["XRANGE", stream, &after, "+"]).await;
            let behind = stored(behind);
            let number = |fields: &Fields| name_of(fields).map(|(_, number)| number);
            let found = behind.iter().filter_map(|entry| {
                Some((number(&entry.fields)?, entry.id.parse().expect("an ID is a seq")))
            });
            let found: Vec<_> = found.collect();
            let gone = lock(book).reopen(last, &found);
            let origin = &lock(book).origin;
            self.journal.note(&format!("{origin} ends at {last}, {gone} entries forgotten"));
            forgotten += gone;
        }
        if damage != Damage::None || forgotten > 0 || self.rewinds() > 0 {
            self.rewinds.fetch_add(1, Ordering::Relaxed);
            self.origins.iter().for_each(|origin| lock(&origin.book).rewind());
        }
    }

    /// Sends SIGSTOP.
    pub(crate) async fn pause(&self) {
        self.server.lock().await.pause();
    }

    /// Sends SIGCONT.
    pub(crate) async fn resume(&self) {
        self.server.lock().await.resume();
    }
}

impl Origin {
    /// The entries that were added.
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }
}

/// Damages the append-only file; returns how many bytes were cut.
fn damage_file(server: &RedisServer, damage: Damage) -> u64 {
    match damage {
        Damage::None => 0,
        Damage::Truncated(bytes) => server.truncate(bytes),
        Damage::Wiped => {
            let files = server.directory().join("appendonlydir");
            std::fs::remove_dir_all(files).expect("the append-only file can be removed");
            0
        }
    }
}

fn address(server: &RedisServer) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], server.port()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
