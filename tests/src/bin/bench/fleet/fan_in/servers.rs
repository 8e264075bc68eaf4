//! The servers that the loader publishes to, each with production settings, and what they have stored.

use std::path::{Path, PathBuf};

use redis::{Value, cmd};
use serde_json::{Value as Json, json};
use spoke_tests::{
    cluster::Cluster,
    entries::{Stored, stored},
    process::Process,
    redis::{RedisServer, free_port},
};
use tempfile::TempDir;
use tokio::task::block_in_place;

use super::{
    loader::{LoadResult, Protocol},
    publisher::{SUBJECTS, number_of},
};
use crate::{
    fleet::stand::{Security, Stand},
    load::{PAYLOAD, TOPIC},
    peers::{mosquitto, nats, nats::client::Client},
};

/// The stream of NATS.
const STREAM: &str = "BENCH";
/// The partitions of a cluster.
pub(super) const PARTITIONS: u16 = 16;
/// Entries of one read.
const READ: usize = 1000;

/// A system to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum System {
    Spoke,
    /// Spoke on this number of primaries of a cluster.
    Partitioned(usize),
    /// By its program.
    Nats(PathBuf),
    Mosquitto(PathBuf),
}

/// The running servers of a system. They end when it is dropped.
pub(super) enum Servers {
    Spoke(Box<Stand>),
    Peer { protocol: Protocol, process: Process, port: u16, _folder: TempDir },
}

impl System {
    /// Its name.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Spoke => "Spoke",
            Self::Partitioned(_) => "Spoke on a cluster",
            Self::Nats(_) => "NATS",
            Self::Mosquitto(_) => "Mosquitto",
        }
    }

    /// Starts its servers for this many clients.
    ///
    /// # Panics
    /// If one does not start.
    pub(super) async fn start(&self, clients: usize) -> Servers {
        let folder = tempfile::Builder::new().prefix("spoke-fan-in-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let port = free_port();
        match self {
            Self::Spoke => {
                let stand = Stand::start(Security::Plain).await;
                stand.admit(0..clients).await;
                Servers::Spoke(Box::new(stand))
            }
            Self::Partitioned(primaries) => {
                let cluster = Cluster::start_primaries(*primaries).await;
                let stand = Stand::start_on(Security::Plain, Some((cluster, PARTITIONS))).await;
                stand.admit(0..clients).await;
                Servers::Spoke(Box::new(stand))
            }
            Self::Nats(program) => {
                let process = start_nats(program, folder.path(), port).await;
                Servers::Peer { protocol: Protocol::Nats, process, port, _folder: folder }
            }
            Self::Mosquitto(program) => {
                let process = mosquitto::serve(program, folder.path(), "broker", port, "").await;
                Servers::Peer { protocol: Protocol::Mqtt, process, port, _folder: folder }
            }
        }
    }
}

/// One server with one file stream of all subjects.
async fn start_nats(program: &Path, folder: &Path, port: u16) -> Process {
    let process = nats::serve(program, folder, "hub", port, "").await;
    block_in_place(|| {
        let mut client = Client::connect(port).expect("nats-server answers");
        let subjects = format!("{SUBJECTS}>");
        let stream = json!({ "name": STREAM, "subjects": [subjects], "storage": "file" });
        let created = client.request(&format!("$JS.API.STREAM.CREATE.{STREAM}"), &stream);
        created.expect("NATS creates a stream");
    });
    process
}

impl Servers {
    /// The protocol and the port for the loader.
    pub(super) fn address(&self) -> (Protocol, u16) {
        match self {
            Self::Spoke(stand) => (Protocol::Spoke, stand.hub.address().port()),
            Self::Peer { protocol, port, .. } => (*protocol, *port),
        }
    }

    /// The seed of the clients' tokens.
    pub(super) fn seed(&self) -> u64 {
        match self {
            Self::Spoke(stand) => stand.seed,
            Self::Peer { .. } => 0,
        }
    }

    /// Its processes by name.
    pub(super) fn processes(&mut self) -> Vec<(&'static str, u32)> {
        match self {
            Self::Spoke(stand) => {
                let nodes = stand.cluster.iter().flat_map(|cluster| &cluster.nodes);
                let nodes = nodes.map(|node| ("node", node.pid()));
                let own = [("hub", stand.hub.process().pid()), ("hub's Redis", stand.cloud.pid())];
                own.into_iter().chain(nodes).collect()
            }
            Self::Peer { process, .. } => vec![("server", process.pid())],
        }
    }

    /// The number of entries that were acknowledged and that the system has stored.
    ///
    /// # Panics
    /// If it lacks one that it acknowledged, or has another or one twice.
    pub(super) async fn carried(&self, clients: usize, found: &LoadResult) -> u64 {
        let counted = match self {
            Self::Spoke(stand) => {
                let redis = [&stand.cloud].into_iter();
                let nodes = stand.cluster.iter().flat_map(|cluster| &cluster.nodes);
                let (mut next, mut count) = (vec![0; clients], 0);
                for redis in redis.chain(nodes) {
                    let streams: Vec<String> = redis.command(&["KEYS", "spoke-hub:in:*"]).await;
                    for stream in streams {
                        count += stored_by_hub(redis, &stream, &mut next).await;
                    }
                }
                count
            }
            Self::Peer { protocol: Protocol::Mqtt, .. } => {
                // What has not arrived within the loader's patience is late, not lost.
                let (received, repeated) = found.subscribed.expect("MQTT has a subscriber");
                assert!(repeated == 0 && received <= found.due, "messages arrived twice");
                return received.min(found.acknowledged);
            }
            Self::Peer { port, .. } => block_in_place(|| stored_by_nats(*port)),
        };
        let (due, acknowledged) = (found.due, found.acknowledged);
        let is_right = (acknowledged..=due).contains(&counted);
        assert!(is_right, "{due} entries due, {acknowledged} acknowledged, {counted} stored");
        acknowledged
    }
}

fn stored_by_nats(port: u16) -> u64 {
    let mut client = Client::connect(port).expect("nats-server answers");
    let info = client.request(&format!("$JS.API.STREAM.INFO.{STREAM}"), &Json::Null);
    let info = info.expect("NATS describes its stream");
    info["state"]["messages"].as_u64().expect("a stream reports its number of messages")
}

/// The number of entries in one of the hub's streams.
///
/// # Panics
/// If one is missing before another of its client, is there twice, or is not what the client sent.
async fn stored_by_hub(redis: &RedisServer, stream: &str, next: &mut [u64]) -> u64 {
    let mut connection = redis.another_connection().await;
    let (mut after, mut count) = ("-".to_owned(), 0);
    loop {
        let mut read = cmd("XRANGE");
        read.arg(stream).arg(&after).arg("+").arg("COUNT").arg(READ);
        let page: Value = read.query_async(&mut connection).await.expect("redis answers");
        let page = stored(page);
        let Some(last) = page.last() else { break };
        after = format!("({}", last.id);
        count += page.len() as u64;
        for entry in &page {
            check(entry, next);
        }
    }
    count
}

/// Checks that an entry is the next one of its client. The number of the entry tells which one it is.
fn check(entry: &Stored, next: &mut [u64]) {
    let text = |name| entry.text(name).unwrap_or_else(|| panic!("{name} is missing: {entry:?}"));
    let client = text("client").strip_prefix("dev").and_then(|n| n.parse::<usize>().ok());
    let client = client.filter(|client| *client < next.len()).expect("a client of this run");
    let at = text("seq").split_once('-').and_then(|(_, n)| n.parse::<u64>().ok());
    let number = number_of(text(PAYLOAD).as_bytes());
    let expected = next[client];
    let sent = expected * next.len() as u64 + client as u64;
    assert_eq!((at, number), (Some(expected), Some(sent)), "the next entry of dev{client}");
    assert_eq!(text(TOPIC.0), TOPIC.1);
    next[client] += 1;
}
