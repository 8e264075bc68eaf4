//! A process that plays clients: `bench play`. For each line that it reads it writes how they are,
//! and it ends when nobody can write to it any more.

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
    client::{Client, KEYS, Way},
    stand::{name, token},
};

/// First connections that are under way at a time: a fleet does not come up as one.
const CONNECTING_MAX: usize = 64;

/// Who is played, and where.
#[derive(Debug, Clone, Args)]
pub(crate) struct Play {
    /// The hub
    #[arg(long)]
    pub(super) hub: ServiceUrl,
    /// The Redis of all devices
    #[arg(long)]
    pub(super) redis: RedisUrl,
    /// Whom to trust; none without TLS
    #[arg(long)]
    pub(super) ca_file: Option<PathBuf>,
    /// What the tokens are made from
    #[arg(long)]
    pub(super) seed: u64,
    /// The first client's number
    #[arg(long)]
    pub(super) first: usize,
    /// How many
    #[arg(long)]
    pub(super) count: usize,
}

/// How the clients are.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct State {
    /// With a session now.
    pub(super) connected: u64,
    /// Sessions that were begun.
    pub(super) begun: u64,
    /// How sessions, and tries to begin one, came to their ends.
    pub(super) endings: BTreeMap<String, u64>,
}

/// Where the clients say how they are.
#[derive(Default)]
pub(super) struct Board {
    begun: AtomicU64,
    ended: AtomicU64,
    endings: Mutex<BTreeMap<String, u64>>,
}

impl Board {
    /// A session has begun.
    pub(super) fn handle_begun(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// A session has ended.
    pub(super) fn handle_ended(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Why there is no session.
    pub(super) fn handle_ending(&self, word: String) {
        let mut endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner);
        *endings.entry(word).or_default() += 1;
    }

    fn state(&self) -> State {
        // In this order: one that ends meanwhile has begun before.
        let ended = self.ended.load(Ordering::Acquire);
        let begun = self.begun.load(Ordering::Acquire);
        let endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        State { connected: begun - ended, begun, endings }
    }
}

impl State {
    /// All of both.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.connected += other.connected;
        self.begun += other.begun;
        for (word, count) in other.endings {
            *self.endings.entry(word).or_default() += count;
        }
        self
    }
}

/// Plays until standard input ends.
///
/// # Panics
/// When the settings cannot be used.
pub(crate) async fn play(part: Play) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let redis = Redis::open(&part.redis).expect("the URL of a Redis can be used");
    let (hints, shutdown) = (Hints::new(), Shutdown::new());
    let listening = hints.clone();
    let prefixes = vec![KEYS.to_owned()];
    shutdown.spawn("hints", listening.listen_forever(redis.clone(), prefixes, shutdown.token()));
    let (hub, auth) = (part.hub.clone(), part.hub.clone());
    let account = DeviceAccount { client: name(part.first), hub: hub.clone(), auth };
    let tls =
        client_config(&account, &part.ca_file.unwrap_or_default()).expect("the CA can be used");
    let dialer = Dialer::new(&ProxySetting::None, tls).expect("no proxy is a good one");
    let way = Arc::new(Way { hub, dialer, redis, hints, board: Board::default() });
    let connecting = Arc::new(Semaphore::new(CONNECTING_MAX));
    for n in part.first..part.first + part.count {
        let client = Client::new(way.clone(), &name(n), token(part.seed, n));
        tokio::spawn(client.live(connecting.clone()));
    }
    let answering = spawn_blocking(move || {
        for _ in stdin().lines().map_while(Result::ok) {
            println!("{}", json!(way.board.state()));
        }
    });
    answering.await.expect("to answer does not panic");
}
