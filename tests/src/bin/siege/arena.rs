//! A hub with its Redis, two good clients, a health check and an attacker; and the measurements.
//!
//! The attacker has a thread of its own with a lower priority: in reality it runs on another machine, and
//! its own CPU time must not count as the effect of the attack.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use redis::Value;
use reqwest::Client;
use spoke_tests::{
    certificates::Certificates,
    cloud::admit,
    load_probe::resident_kib,
    process_usage::{cpu, resident_bytes_max},
    script_time,
    service::Kind,
    single_service::Stand,
    wait::PATIENCE,
};
use tempfile::TempDir;
use tokio::{runtime::Runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    attack::Attack,
    figure::{BUSY_PERCENT_MAX, Figure},
    victim::{self, LONGEST, Notes},
};

/// How long the good clients are measured before the attack.
const CALM: Duration = Duration::from_millis(800);
/// The time over which the hub's CPU use is averaged.
const LOOK: Duration = Duration::from_millis(800);
/// The longest time for the hub to release memory and to become idle.
const SETTLING: Duration = Duration::from_secs(6);
/// The number of clients whose tokens the attacker has.
const EVIL: usize = 16;
/// The nice value of the attacker's thread.
const NICE: i32 = 10;
/// Commands above this are recorded, in microseconds.
const SLOW_MICROS: &str = "1000";
/// The most commands that are recorded.
const SLOW_COMMANDS: &str = "1024";
/// The memory above the start at which a hub counts as settled.
const SETTLED_KIB: u64 = 48 * 1024;

/// What the attacker knows. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Target {
    /// The hub's public address.
    pub(crate) address: SocketAddr,
    /// The same as a URL.
    pub(crate) url: String,
    /// A token for each of the attacker's clients.
    pub(crate) tokens: Arc<Vec<String>>,
    /// An HTTP client that trusts the hub's certificate and keeps connections.
    pub(crate) client: Client,
    /// The certificates, for handshakes by hand.
    pub(crate) files: Arc<Certificates>,
    /// How often each answer came.
    answers: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Target {
    /// The token of the first client.
    pub(crate) fn token(&self) -> &str {
        &self.tokens[0]
    }

    /// Counts an answer.
    pub(crate) fn note(&self, answer: impl ToString) {
        self.note_many(answer, 1);
    }

    /// Counts an answer several times.
    pub(crate) fn note_many(&self, answer: impl ToString, times: u64) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers.entry(answer.to_string()).or_default() += times;
    }

    /// All answers so far.
    pub(crate) fn answers(&self) -> BTreeMap<String, u64> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All processes. They end when this is dropped.
pub(crate) struct Arena {
    /// The hub and its Redis.
    pub(crate) stand: Stand,
    /// What the attacker knows.
    pub(crate) target: Target,
    /// The measurements of the good client over HTTP.
    pub(crate) http: Notes,
    websocket: Notes,
    health: Notes,
    over: CancellationToken,
    good: Vec<JoinHandle<()>>,
    /// Holds the certificate, which the hub reads repeatedly.
    _folder: TempDir,
}

impl Arena {
    /// Runs one attack, and measures its effect.
    pub(crate) async fn measure(attack: Attack, span: Duration) -> Figure {
        let mut arena = Self::start(attack).await;
        let command_max = arena.command_max().await;
        attack.prepare(&arena).await;
        arena.stand.redis.command::<()>(&["SLOWLOG", "RESET"]).await;
        let pid = arena.stand.service.process().pid();
        let watched_since = Instant::now();
        tokio::time::sleep(CALM).await;
        let busy_before = busy_percent(pid).await;
        let (before_kib, lines) = (resident_kib(pid), arena.log_lines());
        let (begun, cpu_before) = (Instant::now(), cpu(pid));
        let mut faults = arena.strike(attack, span).await;
        let ended = Instant::now();
        let busy_during = percent(cpu(pid) - cpu_before, ended - begun);
        let after_kib = settled_kib(pid, before_kib).await;
        let busy_after = settled_percent(pid, busy_before).await;
        let log_lines = arena.log_lines() - lines;
        arena.end_good().await;
        let commands = arena.slow_commands().await;
        faults.extend(attack.check(&arena).await);
        let mib = |kib: u64| kib / 1024;
        Figure {
            attack,
            calm: arena.http.seen(watched_since, begun),
            http: arena.http.seen(begun, ended),
            websocket: arena.websocket.seen(begun, ended),
            health: arena.health.seen(begun, ended),
            memory_mib: (mib(before_kib), mib(resident_bytes_max(pid) / 1024), mib(after_kib)),
            busy_percent: (busy_before, busy_during, busy_after),
            command_max,
            commands,
            log_lines,
            answers: arena.target.answers(),
            faults,
        }
    }

    async fn start(attack: Attack) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let files = Certificates::make(folder.path());
        let tls = files.settings();
        let mut settings = vec![("log.level", "info")];
        settings.extend(attack.settings());
        if attack.is_tls() {
            settings.extend(tls.iter().map(|(key, value)| (*key, value.as_str())));
        }
        let stand = Stand::start(Kind::Hub, &settings).await;
        let set = ["CONFIG", "SET", "slowlog-log-slower-than", SLOW_MICROS];
        stand.redis.command::<()>(&[&set[..], &["slowlog-max-len", SLOW_COMMANDS]].concat()).await;
        let address = stand.service.address();
        let mut tokens = Vec::new();
        for n in 0..EVIL {
            tokens.push(admit(&stand.redis, &format!("evil{n}")).await);
        }
        let authority = std::fs::read(&files.ca_file).expect("the authority's file exists");
        let authority = reqwest::Certificate::from_pem(&authority).expect("it is a certificate");
        let good_client = http_client(&authority);
        let client = http_client(&authority);
        let scheme = if attack.is_tls() { "https" } else { "http" };
        let target = Target {
            address,
            url: format!("{scheme}://{address}"),
            tokens: Arc::new(tokens),
            client,
            files: Arc::new(files),
            answers: Arc::default(),
        };
        let mut arena = Self {
            stand,
            target,
            http: Notes::default(),
            websocket: Notes::default(),
            health: Notes::default(),
            over: CancellationToken::new(),
            good: Vec::new(),
            _folder: folder,
        };
        arena.begin_good(attack, good_client).await;
        arena
    }

    async fn begin_good(&mut self, attack: Attack, client: Client) {
        let redis = &self.stand.redis;
        let (poster, pusher) = (admit(redis, "good").await, admit(redis, "good-too").await);
        let over = || self.over.clone();
        let prober = Client::builder().no_proxy().timeout(LONGEST).pool_max_idle_per_host(0);
        let prober = prober.build().expect("a client can be made");
        let health = format!("http://{}/healthz", self.stand.service.admin().address());
        let posting =
            victim::post(client, (self.target.url.clone(), poster), self.http.clone(), over());
        self.good.push(tokio::spawn(posting));
        self.good.push(tokio::spawn(victim::probe(prober, health, self.health.clone(), over())));
        if !attack.is_tls() {
            let (address, notes) = (self.target.address, self.websocket.clone());
            self.good.push(tokio::spawn(victim::push(address, pusher, notes, over())));
        }
    }

    /// Attacks for this long; returns the faults that the attack itself found.
    async fn strike(&self, attack: Attack, span: Duration) -> Vec<String> {
        let runtime = attackers();
        let strike = runtime.spawn(attack.strike(self.target.clone(), span));
        let found = tokio::time::timeout(span + PATIENCE, strike).await;
        // Ends its connections, without waiting for a thread that may be busy.
        runtime.shutdown_background();
        match found {
            Ok(Ok(faults)) => faults,
            Ok(Err(error)) => vec![format!("the attack failed: {error}")],
            Err(_) => vec!["the attack did not end".to_owned()],
        }
    }

    async fn end_good(&mut self) {
        self.over.cancel();
        for good in self.good.drain(..) {
            good.await.expect("a good client does not fail");
        }
    }

    fn log_lines(&self) -> usize {
        self.stand.service.log().lines().count()
    }

    /// The limit for one command, measured by the largest batches on this machine before the attack.
    async fn command_max(&self) -> Duration {
        let redis = &self.stand.redis;
        let mut most = Duration::ZERO;
        for batch in script_time::FULL {
            most = most.max(script_time::limit(redis, batch).await);
        }
        redis.command::<()>(&["CONFIG", "SET", "slowlog-log-slower-than", SLOW_MICROS]).await;
        most
    }

    async fn slow_commands(&self) -> Vec<Duration> {
        let log: Vec<Vec<Value>> =
            self.stand.redis.command(&["SLOWLOG", "GET", SLOW_COMMANDS]).await;
        let took = |entry: &Vec<Value>| match entry.get(2) {
            Some(Value::Int(micros)) => Duration::from_micros(micros.unsigned_abs()),
            _ => Duration::ZERO,
        };
        log.iter().map(took).collect()
    }
}

/// An HTTP client that trusts the hub's certificate and keeps its connections.
fn http_client(authority: &reqwest::Certificate) -> Client {
    let client = Client::builder().no_proxy().timeout(LONGEST);
    client.tls_certs_only([authority.clone()]).build().expect("a client can be made")
}

fn attackers() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .on_thread_start(|| {
            // Linux applies it to this thread alone; if it fails, the figures are worse.
            let _ = rustix::process::setpriority_process(None, NICE);
        })
        .build()
        .expect("a runtime can be made")
}

async fn busy_percent(pid: u32) -> u64 {
    let before = cpu(pid);
    tokio::time::sleep(LOOK).await;
    percent(cpu(pid) - before, LOOK)
}

fn percent(used: Duration, of: Duration) -> u64 {
    (used.as_millis() * 100 / of.as_millis().max(1)) as u64
}

/// The CPU use, as soon as it is little more than before.
async fn settled_percent(pid: u32, before: u64) -> u64 {
    let deadline = Instant::now() + SETTLING;
    loop {
        let now = busy_percent(pid).await;
        if now <= before + BUSY_PERCENT_MAX || Instant::now() > deadline {
            return now;
        }
    }
}

/// The memory, as soon as it is little more than before.
async fn settled_kib(pid: u32, before: u64) -> u64 {
    let deadline = Instant::now() + SETTLING;
    loop {
        let now = resident_kib(pid);
        if now <= before + SETTLED_KIB || Instant::now() > deadline {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
