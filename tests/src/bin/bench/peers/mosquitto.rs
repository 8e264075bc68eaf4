//! Mosquitto: a broker on the device and one in the cloud, with a bridge in between, QoS 1.

pub(crate) mod client;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use spoke_tests::{
    process::{Process, Start},
    redis::free_port,
};
use tempfile::TempDir;
use tokio::task::block_in_place;

use self::client::{Client, Quality, publish};
use super::{number, wait_for_port};
use crate::{
    load::{Kind, Payloads, TOPIC},
    sampler::{SampleEnd, sample},
};

/// The most unacknowledged messages while the queue is filled, and of the bridge.
const IN_FLIGHT: usize = 1000;
const CAN: &str = "mosquitto answers";

/// Both brokers. They end when this is dropped.
pub(crate) struct Mosquitto {
    publisher: Client,
    subscriber: Client,
    far: Process,
    _near: Process,
    _folder: TempDir,
}

impl Mosquitto {
    /// Starts both and waits until the bridge carries a message.
    pub(crate) async fn start(program: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("spoke-mosquitto-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let [near_port, far_port] = [free_port(), free_port()];
        let far = serve(program, folder.path(), "far", far_port, "").await;
        let mut subscriber = Client::connect(far_port, "subscriber").expect(CAN);
        subscriber.subscribe(TOPIC.1, Quality::AtMostOnce).expect(CAN);
        let bridge = format!(
            "connection bridge\naddress 127.0.0.1:{far_port}\ntopic # out 1\ncleansession false\n\
             bridge_protocol_version mqttv311\ntry_private false\nnotifications false\n"
        );
        let near = serve(program, folder.path(), "near", near_port, &bridge).await;
        let publisher = Client::connect(near_port, "publisher").expect(CAN);
        let mut mosquitto = Self { publisher, subscriber, far, _near: near, _folder: folder };
        // The message waits for the bridge.
        block_in_place(|| {
            mosquitto.fill(1);
            mosquitto.subscriber.message().expect(CAN);
        });
        mosquitto
    }

    /// Queues messages at the near broker while the far one is paused; returns the seconds from when it
    /// resumes until a subscriber there has all.
    pub(crate) fn drain(mut self, count: usize) -> f64 {
        block_in_place(|| {
            self.far.pause();
            self.fill(count);
            let begun = Instant::now();
            self.far.resume();
            for _ in 0..count {
                self.subscriber.message().expect(CAN);
            }
            begun.elapsed().as_secs_f64()
        })
    }

    /// The times of single messages from the near broker's client to one of the far broker.
    pub(crate) fn latency(self, count: usize) -> Vec<Duration> {
        let Self { mut publisher, mut subscriber, .. } = self;
        block_in_place(|| {
            let receive = move || vec![number(&subscriber.message().expect(CAN))];
            let mut payloads = Payloads::new(Kind::Noise);
            let publish = |number| {
                let text = format!("{number} {}", payloads.next());
                let mut message = Vec::new();
                publish(&mut message, TOPIC.1, 1, text.as_bytes());
                publisher.send(&message).expect(CAN);
                publisher.acknowledgement().expect(CAN);
            };
            sample(SampleEnd::Count(count), publish, receive)
        })
    }

    fn fill(&mut self, count: usize) {
        let mut payloads = Payloads::new(Kind::Noise);
        let mut left = count;
        while left > 0 {
            let part = left.min(IN_FLIGHT);
            let mut messages = Vec::new();
            for id in 1..=part as u16 {
                publish(&mut messages, TOPIC.1, id, payloads.next().as_bytes());
            }
            self.publisher.send(&messages).expect(CAN);
            for _ in 0..part {
                self.publisher.acknowledgement().expect(CAN);
            }
            left -= part;
        }
    }
}

/// Starts a broker with these settings in addition to the common ones.
pub(crate) async fn serve(
    program: &Path,
    folder: &Path,
    name: &str,
    port: u16,
    settings: &str,
) -> Process {
    let folder = folder.join(name);
    fs::create_dir_all(&folder).expect("a folder can be made");
    let place = folder.display();
    let settings = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\nset_tcp_nodelay true\n\
         persistence true\npersistence_location {place}/\n\
         max_queued_messages 0\nmax_inflight_messages {IN_FLIGHT}\n{settings}"
    );
    let file = folder.join("mosquitto.conf");
    fs::write(&file, settings).expect("a file can be written");
    let start = Start::with(&["-c", &file.display().to_string()]);
    let mut process = Process::start(program, &start, &folder.join("mosquitto.log"));
    wait_for_port(&mut process, port).await;
    process
}
