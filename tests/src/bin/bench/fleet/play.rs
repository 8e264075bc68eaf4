//! A process that simulates clients: `bench play`. For each line on standard input it prints the state
//! of its clients, and it ends when standard input is closed.

use std::{
    collections::BTreeMap,
    io::stdin,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use spoke_agent::{DeviceAccount, Dialer, ProxySetting, client_config};
use spoke_service::{Shutdown, config::ServiceUrl};
use spoke_store::{Hints, Redis, RedisUrl};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{
    client::{Client, KEYS, Shared},
    stand::{name, token},
};

/// The most first connections at a time: a real fleet does not connect all at once.
const CONNECTING_MAX: usize = 64;

/// Which clients are simulated, and where they connect.
#[derive(Debug, Clone, Args)]
pub(crate) struct Play {
    /// The hub
    #[arg(long)]
    pub(super) hub: ServiceUrl,
    /// The Redis of all devices
    #[arg(long)]
    pub(super) redis: RedisUrl,
    /// The certificate authority to trust; none without TLS
    #[arg(long)]
    pub(super) ca_file: Option<PathBuf>,
    /// The seed of the tokens
    #[arg(long)]
    pub(super) seed: u64,
    /// The first client's number
    #[arg(long)]
    pub(super) first: usize,
    /// The number of clients
    #[arg(long)]
    pub(super) count: usize,
}

/// The state of the clients.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct State {
    /// Clients with a session now.
    pub(super) connected: u64,
    /// Sessions that have begun.
    pub(super) begun: u64,
    /// Counts of the reasons why sessions, and tries to begin one, ended.
    pub(super) endings: BTreeMap<String, u64>,
}

/// Counters that the clients update.
#[derive(Default)]
pub(super) struct SessionCounters {
    begun: AtomicU64,
    ended: AtomicU64,
    endings: Mutex<BTreeMap<String, u64>>,
}

impl SessionCounters {
    /// Counts the begin of a session.
    pub(super) fn handle_begun(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of a session.
    pub(super) fn handle_ended(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts why a session, or a try to begin one, ended.
    pub(super) fn handle_ending(&self, word: String) {
        let mut endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner);
        *endings.entry(word).or_default() += 1;
    }

    fn state(&self) -> State {
        // In this order: a session that ends in between was counted as begun before.
        let ended = self.ended.load(Ordering::Acquire);
        let begun = self.begun.load(Ordering::Acquire);
        let endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        State { connected: begun - ended, begun, endings }
    }
}

impl State {
    /// The sum of both.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.connected += other.connected;
        self.begun += other.begun;
        for (word, count) in other.endings {
            *self.endings.entry(word).or_default() += count;
        }
        self
    }
}

/// Runs the clients until standard input ends.
///
/// # Panics
/// If the settings are invalid.
pub(crate) async fn play(part: Play) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let redis = Redis::open(&part.redis, "").expect("the Redis URL is valid");
    let (hints, shutdown) = (Hints::new(), Shutdown::new());
    let listening = hints.clone();
    let prefixes = vec![KEYS.to_owned()];
    shutdown.spawn("hints", listening.listen_forever(redis.clone(), prefixes, shutdown.token()));
    let (hub, auth) = (part.hub.clone(), part.hub.clone());
    let account = DeviceAccount { client: name(part.first), hub: hub.clone(), auth };
    let tls =
        client_config(&account, &part.ca_file.unwrap_or_default()).expect("the CA file is valid");
    let dialer = Dialer::new(&ProxySetting::None, tls).expect("a dialler without a proxy is valid");
    let shared =
        Arc::new(Shared { hub, dialer, redis, hints, counters: SessionCounters::default() });
    let connecting = Arc::new(Semaphore::new(CONNECTING_MAX));
    for n in part.first..part.first + part.count {
        let client = Client::new(shared.clone(), &name(n), token(part.seed, n));
        tokio::spawn(client.run(connecting.clone()));
    }
    let answering = spawn_blocking(move || {
        for _ in stdin().lines().map_while(Result::ok) {
            println!("{}", json!(shared.counters.state()));
        }
    });
    answering.await.expect("answering does not panic");
}
