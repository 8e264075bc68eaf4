//! A hub, its Redis, one Redis for all devices, and the clients: everything is real but the devices.

use std::{path::PathBuf, time::Duration};

use redis::pipe;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use secrecy::{ExposeSecret, SecretString};
use spoke_protocol::ClientId;
use spoke_store::session_tokens::{CLIENT_FIELD, client_key, digest, session_key};
use spoke_tests::{
    certificates::Certificates,
    cloud::now_ms,
    cluster::Cluster,
    redis::{RedisServer, free_port},
    service::{Kind, Service},
    wait::eventually,
};
use tempfile::TempDir;

use super::{
    play::{Play, State},
    player::Player,
};

/// Clients of one process: each is an open file.
const CLIENTS_PER_PLAYER: usize = 5000;
/// The longest time for the clients to connect.
const PATIENCE: Duration = Duration::from_secs(120);
/// The durability setting of production.
const REDIS: [&str; 2] = ["--appendfsync", "everysec"];
/// Sessions that are written in one round trip.
const PIPELINE: usize = 1000;

/// How the clients reach the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Security {
    Plain,
    Tls,
}

/// All processes. They end when it is dropped.
pub(super) struct Stand {
    /// Declared before what they connect to, so that they are dropped first.
    players: Vec<Player>,
    pub(super) hub: Service,
    /// The Redis of the streams, or only of auth's sessions if there is a cluster.
    pub(super) cloud: RedisServer,
    /// The nodes with the partitions, if it is not one Redis.
    pub(super) cluster: Option<Cluster>,
    pub(super) devices: RedisServer,
    /// The seed of the clients' tokens.
    pub(super) seed: u64,
    clients: usize,
    /// With TLS.
    ca_file: Option<PathBuf>,
    _folder: TempDir,
}

/// A client's name.
pub(super) fn name(n: usize) -> ClientId {
    format!("dev{n}").parse().expect("letters and digits make a client")
}

/// A client's token.
pub(super) fn token(seed: u64, n: usize) -> SecretString {
    digest(&format!("{seed} {n}")).into()
}

impl Stand {
    /// Starts a hub without clients.
    ///
    /// # Panics
    /// If a part of it does not start.
    pub(super) async fn start(security: Security) -> Self {
        Self::start_on(security, None).await
    }

    /// The same with the streams in the partitions of a cluster.
    ///
    /// # Panics
    /// If a part of it does not start.
    pub(super) async fn start_on(security: Security, cluster: Option<(Cluster, u16)>) -> Self {
        raise_file_limit();
        let folder = tempfile::Builder::new().prefix("spoke-fleet-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let listen = format!("127.0.0.1:{}", free_port());
        let certificates = Certificates::make(folder.path());
        let path = |file: &PathBuf| file.to_str().expect("the path is UTF-8").to_owned();
        let (cert, key) = (path(&certificates.cert_file), path(&certificates.key_file));
        let mut settings = vec![("log.level", "info"), ("listen", listen.as_str())];
        if security == Security::Tls {
            settings.extend([("tls.cert_file", cert.as_str()), ("tls.key_file", &key)]);
        }
        let cloud = RedisServer::start_with(&REDIS).await;
        let devices = RedisServer::start_with(&REDIS).await;
        let (auth_redis, partitions) =
            (cloud.url(), cluster.as_ref().map_or(1, |(_, count)| *count).to_string());
        let cluster = cluster.map(|(cluster, _)| cluster);
        let redis = cluster.as_ref().map_or_else(|| cloud.url(), Cluster::url);
        if cluster.is_some() {
            settings.extend([("auth_redis", auth_redis.as_str()), ("partitions", &partitions)]);
        }
        let hub = Service::start(Kind::Hub, &redis, &settings, folder.path()).await;
        hub.ready().await;
        let ca_file = match security {
            Security::Plain => None,
            Security::Tls => Some(certificates.ca_file),
        };
        let (players, seed) = (Vec::new(), rand::random());
        Self { players, hub, cloud, cluster, devices, seed, clients: 0, ca_file, _folder: folder }
    }

    /// Starts clients up to this number, and waits until all are connected.
    ///
    /// # Panics
    /// If they do not connect in time.
    pub(super) async fn grow(&mut self, clients: usize) {
        self.admit(self.clients..clients).await;
        let scheme = if self.ca_file.is_some() { "https" } else { "http" };
        let hub = format!("{scheme}://{}", self.hub.address());
        while self.clients < clients {
            let (first, count) = (self.clients, (clients - self.clients).min(CLIENTS_PER_PLAYER));
            self.players.push(Player::start(&Play {
                hub: hub.parse().expect("an address makes a URL"),
                redis: self.devices.url().parse().expect("a test's Redis has a valid URL"),
                ca_file: self.ca_file.clone(),
                seed: self.seed,
                first,
                count,
            }));
            self.clients += count;
        }
        let awaited = format!("{clients} clients to be connected");
        eventually(&awaited, PATIENCE, async || {
            let state = self.state().await;
            if state.connected == clients as u64 { Ok(()) } else { Err(state) }
        })
        .await;
    }

    /// The state of all clients.
    ///
    /// # Panics
    /// If a player does not answer.
    pub(super) async fn state(&mut self) -> State {
        let mut all = State::default();
        for player in &mut self.players {
            all = all.and(player.state().await);
        }
        all
    }

    /// The number of connections of the hub's Redis, including the benchmark's own.
    ///
    /// # Panics
    /// If Redis does not answer.
    pub(super) async fn redis_connections(&self) -> u64 {
        let info = self.cloud.info("clients").await;
        let count = info.lines().find_map(|line| line.strip_prefix("connected_clients:"));
        count.and_then(|count| count.parse().ok()).expect("Redis counts its clients")
    }

    /// Writes their sessions to Redis as auth does.
    ///
    /// # Panics
    /// If Redis refuses.
    pub(super) async fn admit(&self, clients: std::ops::Range<usize>) {
        let clients: Vec<_> = clients.collect();
        for part in clients.chunks(PIPELINE) {
            let mut pipe = pipe();
            for n in part {
                let digest = digest(token(self.seed, *n).expose_secret());
                let key = session_key("spoke-auth", &digest);
                pipe.cmd("HSET").arg(key).arg(CLIENT_FIELD).arg(name(*n).as_str());
                pipe.arg("issuedAt").arg(now_ms()).ignore();
                pipe.hset(client_key("spoke-auth", &name(*n)), "secret", "no hash").ignore();
            }
            let written = pipe.query_async::<()>(&mut self.cloud.connection()).await;
            written.expect("redis takes sessions");
        }
    }
}

/// Raises the limit to the maximum, for this process and those that it starts.
pub(super) fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    raised.expect("the limit may be raised to its maximum");
}
