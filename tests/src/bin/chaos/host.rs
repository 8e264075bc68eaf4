//! A Redis with what the apps know of it: which entries it took, and which it forgot.
//!
//! After each crash it comes up on a port that nobody knows first, so that what it kept is looked at
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
    redis::RedisServer,
    wait::eventually_true,
};
use tokio::sync::{RwLock, watch};

use crate::journal::Journal;

/// The ID that a Redis whose clock is behind by `ARGV[1]` ms gives to its next entry.
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

/// Trims, and gives the first entry that is left.
const TRIM: &str = "
    redis.call('XTRIM', KEYS[1], 'MAXLEN', ARGV[1])
    local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
    return first and first[1] or '0-0'";

const LOOPBACK: &str = "127.0.0.1";

/// How long apps have a Redis to themselves that came back with its clock behind.
const EARLY: Duration = Duration::from_millis(200);

/// What becomes of the append-only file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// It is kept.
    None,
    /// It loses so many bytes at its end.
    Truncated(u64),
    /// It is gone.
    Wiped,
}

/// An out stream.
pub(crate) struct Origin {
    /// Its key.
    pub(crate) stream: String,
    /// What was added.
    book: Mutex<Book>,
}

/// A Redis.
pub(crate) struct Host {
    name: String,
    folder: PathBuf,
    server: tokio::sync::Mutex<RedisServer>,
    /// The one whose place `server` took; it still answers whoever stayed.
    former: tokio::sync::Mutex<Option<RedisServer>>,
    /// A floating address, where it has one.
    proxy: Option<Proxy>,
    /// Without an answer there is no Redis any more.
    patient: Mutex<MultiplexedConnection>,
    /// Apps go through it with each XADD, until the book has it; who looks at what is there closes it.
    gate: RwLock<()>,
    is_up: watch::Sender<bool>,
    clock: Mutex<(u64, Instant)>,
    rewinds: AtomicU32,
    /// The out streams in it.
    pub(crate) origins: Vec<Origin>,
    journal: Arc<Journal>,
}

impl Host {
    /// Starts one with its files in a folder of its name. `origins` are names and keys.
    pub(crate) async fn start(
        folder: &Path,
        name: &str,
        origins: &[(String, String)],
        journal: &Arc<Journal>,
    ) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir(&folder).expect("a folder can be made");
        let server = RedisServer::start_in(&folder, &[]).await;
        let patient = Mutex::new(server.patient_connection().await);
        let origin = |(name, stream): &(String, String)| Origin {
            stream: stream.clone(),
            book: Mutex::new(Book::new(name)),
        };
        Self {
            name: name.to_owned(),
            folder,
            server: tokio::sync::Mutex::new(server),
            former: tokio::sync::Mutex::new(None),
            proxy: None,
            patient,
            gate: RwLock::new(()),
            is_up: watch::Sender::new(true),
            clock: Mutex::new((0, Instant::now())),
            rewinds: AtomicU32::new(0),
            origins: origins.iter().map(origin).collect(),
            journal: journal.clone(),
        }
    }

    /// The same behind a floating address, so that another may take its place.
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

    /// Asks it, without patience for one that is down.
    pub(crate) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let mut connection = lock(&self.patient).clone();
        command.query_async(&mut connection).await
    }

    /// As an app adds entries: waits while Redis is gone, and gives back those that it refused. What
    /// has no answer is in the book as that, and not tried again.
    pub(crate) async fn add(&self, which: usize, offers: Vec<Offer>) -> Vec<Offer> {
        // The host outlives its apps.
        let _ = self.is_up.subscribe().wait_for(|is_up| *is_up).await;
        let _open = self.gate.read().await;
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

    /// As an app trims its out stream.
    pub(crate) async fn trim(&self, which: usize, keep: u64) {
        let Origin { stream, book } = &self.origins[which];
        // So that the book has every entry that is there.
        let _alone = self.gate.write().await;
        let mut trim = cmd("EVAL");
        trim.arg(TRIM).arg(1).arg(stream).arg(keep);
        let first = self.query::<String>(&trim).await;
        // Without an answer it may have been done.
        let first = first.map_or(Seq::MAX, |id| id.parse().expect("an ID is a seq"));
        lock(book).trim(first);
    }

    /// As an app deletes some of the newest entries.
    pub(crate) async fn delete(&self, which: usize, count: u64) -> RedisResult<()> {
        let Origin { stream, book } = &self.origins[which];
        let _alone = self.gate.write().await;
        let mut newest = cmd("XREVRANGE");
        newest.arg(stream).arg("+").arg("-").arg("COUNT").arg(10 * count);
        let entries = stored(self.query::<Value>(&newest).await?);
        for entry in entries.iter().step_by(10) {
            // Before it is done: the answer may be lost.
            lock(book).delete(entry.id.parse().expect("an ID is a seq"));
            self.query::<()>(cmd("XDEL").arg(stream).arg(&entry.id)).await?;
        }
        Ok(())
    }

    /// SIGKILL, and after `down` a new one on what is left of the file.
    pub(crate) async fn crash(
        &self,
        damage: Damage,
        clock_back_ms: u64,
        down: impl Future<Output = ()>,
    ) {
        self.kill9().await;
        // Apps that were under way have their answer, or know that none will come.
        let mut alone = self.gate.write().await;
        let mut server = self.server.lock().await;
        let cut = spoil(&server, damage);
        down.await;
        server.restart_unseen().await;
        self.take_stock(&server, damage).await;
        let name = &self.name;
        self.journal.note(&format!(
            "{name} is back, {damage:?}, {cut} bytes cut, {clock_back_ms} ms behind"
        ));
        // It finds the time again after as long as it was behind.
        *lock(&self.clock) = (clock_back_ms, Instant::now() + Duration::from_millis(clock_back_ms));
        if clock_back_ms > 0 {
            // Apps are there before the network.
            self.open(&server).await;
            drop((alone, server));
            tokio::time::sleep(EARLY).await;
            self.kill9().await;
            alone = self.gate.write().await;
            server = self.server.lock().await;
            server.restart_unseen().await;
            self.take_stock(&server, Damage::None).await;
        }
        server.restart().await;
        self.open(&server).await;
        drop(alone);
    }

    /// Another Redis takes its place, with all that was written, and the old one becomes its replica. New
    /// connections lead to the new one; those that are open stay with the old one.
    pub(crate) async fn fail_over(&self) {
        let proxy = self.proxy.as_ref().expect("it has a floating address");
        let mut former = self.former.lock().await;
        *former = None;
        let mut server = self.server.lock().await;
        let folder = self.folder.join(format!("after-{}", server.port()));
        std::fs::create_dir(&folder).expect("a folder can be made");
        let next = RedisServer::start_in(&folder, &[]).await;
        let (own, others) = (server.port().to_string(), next.port().to_string());
        next.command::<()>(&["REPLICAOF", LOOPBACK, &own]).await;
        eventually_true("the next redis to have all in its file", async || {
            let has_all = next.info("replication").await.contains("master_link_status:up");
            let persistence = next.info("persistence").await;
            let is_written = ["aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0"];
            has_all && is_written.iter().all(|line| persistence.contains(line))
        })
        .await;
        let _alone = self.gate.write().await;
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

    /// Lets apps in.
    async fn open(&self, server: &RedisServer) {
        let patient = server.patient_connection().await;
        *lock(&self.patient) = patient;
        self.is_up.send_replace(true);
    }

    /// Looks what it kept. A file that once lost its end may lose more at a later start: where the
    /// cut fell into a transaction, Redis 7.0 leaves its MULTI open, and what comes behind it goes
    /// with it.
    async fn take_stock(&self, server: &RedisServer, damage: Damage) {
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
            self.journal.note(&format!("{origin} ends at {last}, {gone} entries are forgotten"));
            forgotten += gone;
        }
        if damage != Damage::None || forgotten > 0 || self.rewinds() > 0 {
            self.rewinds.fetch_add(1, Ordering::Relaxed);
            self.origins.iter().for_each(|origin| lock(&origin.book).rewind());
        }
    }

    /// SIGSTOP.
    pub(crate) async fn pause(&self) {
        self.server.lock().await.pause();
    }

    /// SIGCONT.
    pub(crate) async fn resume(&self) {
        self.server.lock().await.resume();
    }
}

impl Origin {
    /// What was added.
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.book)
    }
}

/// Gives how many bytes are gone.
fn spoil(server: &RedisServer, damage: Damage) -> u64 {
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
