//! A cloud and a device with production settings, to be measured.

use std::time::{Duration, Instant};

use redis::{Client, Connection, ConnectionInfo, IntoConnectionInfo, io::tcp::TcpSettings};
use spoke_protocol::Direction;
use spoke_tests::{
    cloud::{Cloud, IN, Settings, out, url},
    device::{self, Device},
    process_usage,
    redis::RedisServer,
    wait::PATIENCE,
};
use tokio::task::block_in_place;

use crate::load::{Kind, entries, feed, packs};

/// The device's name.
pub(crate) const CLIENT: &str = "dev1";
/// The pipeline size where it does not matter.
const PIPELINE: usize = 1000;
/// The interval at which arrivals are polled.
const LOOK: Duration = Duration::from_millis(2);
/// Longer than any measurement takes.
const LIMIT: Duration = Duration::from_secs(180);

/// Both ends. All processes end when it is dropped.
pub(crate) struct Link {
    pub(crate) cloud: Cloud,
    pub(crate) device: Device,
}

/// How the device reaches the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// Directly, by the hub's own address.
    Direct,
    /// Through the cloud's proxy, which counts bytes.
    Counted,
}

/// The measurements of a carried backlog.
pub(crate) struct Drained {
    /// The time from the start of the agent's process until the last entry is in the copy.
    pub(crate) took: Duration,
    /// The CPU time of each process during it.
    pub(crate) cpu: [(&'static str, Duration); 4],
}

impl Link {
    /// Starts a cloud and an enrolled device whose agent is stopped.
    pub(crate) async fn start(road: Route, agent: &[(&str, &str)]) -> Self {
        Self::start_on((start_redis().await, start_redis().await), road, agent).await
    }

    /// The same on these Redis of cloud and device.
    pub(crate) async fn start_on(
        (cloud, device): (RedisServer, RedisServer),
        road: Route,
        agent: &[(&str, &str)],
    ) -> Self {
        let quiet = [("log.level", "info")];
        let settings = Settings { hub: &quiet, auth: &quiet };
        let cloud = Cloud::start_on(cloud, settings).await;
        let hub = match road {
            Route::Direct => url(cloud.hub.address()),
            Route::Counted => url(cloud.hub_proxy.address()),
        };
        let auth = url(cloud.auth.address());
        let mut all = vec![("auth", &auth[..]), ("hub", &hub), ("log.level", "info")];
        all.extend(agent);
        let device = Device::without_agent_on(device, &cloud, CLIENT, &all).await;
        let mut link = Self { cloud, device };
        link.connect().await;
        link.disconnect().await;
        link
    }

    /// Starts the agent, waits until it logs that it is connected, and returns how long that took.
    pub(crate) async fn connect(&mut self) -> Duration {
        let logged = |device: &Device| device.log().matches("\"connected to hub\"").count();
        let before = logged(&self.device);
        let begun = Instant::now();
        self.device.start_agent();
        until("the agent to connect", async || logged(&self.device) > before).await;
        begun.elapsed()
    }

    /// Stops the agent.
    pub(crate) async fn disconnect(&mut self) {
        let status = self.device.stop_agent().await;
        assert!(status.success(), "the agent ended with {status}");
    }

    /// The Redis where entries of this direction are added, and their stream.
    pub(crate) fn origin(&self, way: Direction) -> (&RedisServer, String) {
        match way {
            Direction::Up => (&self.device.redis, device::OUT.to_owned()),
            Direction::Down => (&self.cloud.redis, out(CLIENT)),
        }
    }

    /// The Redis where they arrive, and the stream there.
    pub(crate) fn copy(&self, way: Direction) -> (&RedisServer, &'static str) {
        match way {
            Direction::Up => (&self.cloud.redis, IN),
            Direction::Down => (&self.device.redis, device::IN),
        }
    }

    /// Adds entries at the origin, and waits until its Redis is idle again.
    pub(crate) async fn fill(&self, way: Direction, kind: Kind, count: usize) {
        let (origin, stream) = self.origin(way);
        let mut connection = connection(origin);
        block_in_place(|| feed(&mut connection, packs(entries(&stream, kind, count), PIPELINE)));
        wait_until_idle(origin).await;
    }

    /// Starts the agent and waits until it has carried `count` entries that wait at the origin.
    pub(crate) async fn drain(&mut self, way: Direction, count: usize) -> Drained {
        let (copy, stream) = self.copy(way);
        let length = copy.length(stream).await + count;
        let servers = [
            ("hub", self.cloud.hub.process().pid()),
            ("hub's Redis", self.cloud.redis.pid()),
            ("device's Redis", self.device.redis.pid()),
        ];
        let before = servers.map(|(_, pid)| process_usage::cpu(pid));
        let begun = Instant::now();
        self.device.start_agent();
        self.arrived(way, length).await;
        let took = begun.elapsed();
        let [hub, up, down] = std::array::from_fn(|i| {
            let (name, pid) = servers[i];
            (name, process_usage::cpu(pid) - before[i])
        });
        let agent = ("agent", process_usage::cpu(self.device.agent().pid()));
        Drained { took, cpu: [hub, agent, up, down] }
    }

    /// Waits until the copy holds this many entries.
    pub(crate) async fn arrived(&self, way: Direction, length: usize) {
        let (copy, stream) = self.copy(way);
        let awaited = format!("{length} entries in {stream}");
        until(&awaited, async || {
            let found = copy.length(stream).await;
            assert!(found <= length, "there are {found} entries in {stream} instead of {length}");
            found == length
        })
        .await;
    }
}

/// A Redis with the durability settings that its documentation recommends.
pub(crate) async fn start_redis() -> RedisServer {
    RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "everysec"]).await
}

/// Waits until a Redis does no background work.
async fn wait_until_idle(redis: &RedisServer) {
    until("redis to have rewritten its file", async || {
        let info = redis.info("persistence").await;
        info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0")
    })
    .await;
}

/// A blocking connection without Nagle's algorithm.
pub(crate) fn connection(redis: &RedisServer) -> Connection {
    let at_once = TcpSettings::default().set_nodelay(true);
    let info = redis
        .url()
        .into_connection_info()
        .map(|info: ConnectionInfo| info.set_tcp_settings(at_once));
    let connection = info.and_then(Client::open).and_then(|client| client.get_connection());
    let connection = connection.expect("redis takes a connection");
    connection.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    connection
}

/// Polls every few milliseconds until the condition is true.
///
/// # Panics
/// If it is not true in time.
pub(crate) async fn until(awaited: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} in vain for {awaited}");
        tokio::time::sleep(LOOK).await;
    }
}
