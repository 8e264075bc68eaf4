//! NATS: a leaf node and a hub, both with file-based JetStream and otherwise default settings. The hub's
//! stream has the leaf's as its source.

pub(crate) mod client;

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use spoke_tests::{
    process::{Process, Start},
    redis::free_port,
    wait::eventually_true,
};
use tempfile::TempDir;
use tokio::task::block_in_place;

use self::client::{Client, publication};
use super::{LIMIT, LOOK, number, wait_for_port};
use crate::{
    load::{Kind, Payloads, TOPIC},
    sampler::{SampleEnd, sample},
};

/// The most unacknowledged messages while the leaf's stream is filled.
const IN_FLIGHT: usize = 1000;
const CAN: &str = "nats-server answers";

/// Both servers. They end when this is dropped.
pub(crate) struct Nats {
    leaf: Client,
    hub: Client,
    hub_port: u16,
    _servers: [Process; 2],
    _folder: TempDir,
}

impl Nats {
    /// Starts both and links them. Only the leaf has a stream yet.
    pub(crate) async fn start(program: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("spoke-nats-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let [leaf_port, hub_port, link_port] = [free_port(), free_port(), free_port()];
        let listening = format!("leafnodes: {{ listen: \"127.0.0.1:{link_port}\" }}");
        let hub = serve(program, folder.path(), "hub", hub_port, &listening).await;
        let remote = format!("{{ url: \"nats-leaf://127.0.0.1:{link_port}\" }}");
        let dialling = format!("leafnodes: {{ remotes: [{remote}] }}");
        let leaf = serve(program, folder.path(), "leaf", leaf_port, &dialling).await;
        eventually_true("the leaf to join the hub", async || {
            hub.log().contains("Leafnode connection created")
        })
        .await;
        let mut leaf_client = Client::connect(leaf_port).expect(CAN);
        let origin = json!({ "name": "ORIGIN", "subjects": [TOPIC.1], "storage": "file" });
        leaf_client.request("$JS.API.STREAM.CREATE.ORIGIN", &origin).expect(CAN);
        Self {
            leaf: leaf_client,
            hub: Client::connect(hub_port).expect(CAN),
            hub_port,
            _servers: [hub, leaf],
            _folder: folder,
        }
    }

    /// Queues messages at the leaf; returns the seconds from the creation of the hub's stream until it
    /// holds all.
    pub(crate) fn drain(mut self, count: usize) -> f64 {
        block_in_place(|| {
            self.fill(count);
            let begun = Instant::now();
            self.create_copy(count);
            begun.elapsed().as_secs_f64()
        })
    }

    /// The times of single messages from the leaf's client to a consumer of the hub's stream.
    pub(crate) fn latency(&mut self, count: usize) -> Vec<Duration> {
        block_in_place(|| {
            // One message beforehand shows that the link is up.
            self.fill(1);
            self.create_copy(1);
            let mut consumer = Client::connect(self.hub_port).expect(CAN);
            consumer.subscribe("bench.news").expect(CAN);
            let news = json!({ "stream_name": "COPY", "config": {
                "deliver_subject": "bench.news", "deliver_policy": "new", "ack_policy": "none",
            } });
            consumer.request("$JS.API.CONSUMER.CREATE.COPY", &news).expect(CAN);
            let receive = move || vec![number(&consumer.message().expect(CAN))];
            let mut payloads = Payloads::new(Kind::Noise);
            let publish = |number| {
                let text = format!("{number} {}", payloads.next());
                self.leaf.send(&publication(TOPIC.1, &text)).expect(CAN);
            };
            sample(SampleEnd::Count(count), publish, receive)
        })
    }

    fn fill(&mut self, count: usize) {
        let mut payloads = Payloads::new(Kind::Noise);
        let mut left = count;
        while left > 0 {
            let part = left.min(IN_FLIGHT);
            let messages =
                (0..part).flat_map(|_| self.leaf.acknowledged(TOPIC.1, &payloads.next()));
            let messages: Vec<_> = messages.collect();
            self.leaf.send(&messages).expect(CAN);
            for _ in 0..part {
                self.leaf.answer().expect(CAN);
            }
            left -= part;
        }
    }

    /// Creates the hub's stream and waits until it holds this many messages.
    fn create_copy(&mut self, count: usize) {
        let source =
            json!({ "name": "ORIGIN", "external": { "api": "$JS.leaf.API", "deliver": "" } });
        let copy = json!({ "name": "COPY", "storage": "file", "sources": [source] });
        self.hub.request("$JS.API.STREAM.CREATE.COPY", &copy).expect(CAN);
        let begun = Instant::now();
        while self.copied() < count as u64 {
            assert!(
                begun.elapsed() < LIMIT,
                "waited {LIMIT:?} in vain for {count} messages from NATS"
            );
            thread::sleep(LOOK);
        }
    }

    fn copied(&mut self) -> u64 {
        let info = self.hub.request("$JS.API.STREAM.INFO.COPY", &Value::Null).expect(CAN);
        info["state"]["messages"].as_u64().expect("a stream reports its number of messages")
    }
}

/// Starts a server with these settings in addition to the common ones.
pub(crate) async fn serve(
    program: &Path,
    folder: &Path,
    name: &str,
    port: u16,
    settings: &str,
) -> Process {
    let folder = folder.join(name);
    fs::create_dir_all(&folder).expect("a folder can be made");
    let settings = format!(
        "server_name: {name}\nlisten: \"127.0.0.1:{port}\"\n\
         jetstream: {{ store_dir: {folder:?}, domain: {name} }}\n{settings}\n"
    );
    let file = folder.join("nats.conf");
    fs::write(&file, settings).expect("a file can be written");
    let start = Start::with(&["-c", &file.display().to_string()]);
    let mut process = Process::start(program, &start, &folder.join("nats.log"));
    wait_for_port(&mut process, port).await;
    process
}
