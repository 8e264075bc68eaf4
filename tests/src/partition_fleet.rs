//! Hub and auth on a group of Redis servers, mostly a hub with partitions on a Redis Cluster, with some devices, whose entries
//! bear numbers.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    binaries::path_of,
    cloud::{Cloud, OTP_SECRET, Settings, now_ms},
    cluster::Cluster,
    device::{Device, OUT},
    entries::{Stored, fields},
    node_connection::asked,
    process::{Finished, Start, run},
    redis_group::RedisGroup,
    service::Kind,
    wait::{PATIENCE, eventually},
};

/// The devices.
pub const CLIENTS: [&str; 6] = ["dev1", "dev2", "dev3", "dev4", "dev5", "dev6"];
/// The default retries of a device.
const RETRIES: [(&str, &str); 2] = [("retry_first_ms", "500"), ("retry_longest_ms", "60000")];

/// The fleet. Each device has sent the entry with the number 0.
pub struct PartitionFleet<G = Cluster> {
    /// The servers.
    pub cluster: G,
    /// Hub and auth.
    pub cloud: Cloud,
    /// The devices by name.
    pub devices: BTreeMap<&'static str, Device>,
    /// The in stream of each client.
    pub inbound: BTreeMap<&'static str, String>,
}

impl<G: RedisGroup> PartitionFleet<G> {
    /// Starts hub, auth and the devices.
    ///
    /// # Panics
    /// If a part of it does not start.
    pub async fn start(cluster: G) -> Self {
        Self::start_at(cluster, "memory").await
    }

    /// The same with an acknowledgement level of the hub.
    ///
    /// # Panics
    /// If a part of it does not start.
    pub async fn start_at(cluster: G, ack: &str) -> Self {
        let url = cluster.hub_url();
        let mut hub = vec![("redis", url.as_str()), ("ack", ack)];
        hub.extend(G::HUB);
        let auth = [("redis", url.as_str()), ("key_prefix", G::AUTH_PREFIX)];
        let cloud = Cloud::start_with(Settings { hub: &hub, auth: &auth }).await;
        let (mut devices, mut inbound) = (BTreeMap::new(), BTreeMap::new());
        for client in CLIENTS {
            let mut device = Device::without_agent(&cloud, client, &RETRIES).await;
            provision(&cluster, client).await;
            device.start_agent();
            devices.insert(client, device);
            inbound.insert(client, key_of::<G>(&url, client, "in").await);
        }
        let fleet = Self { cluster, cloud, devices, inbound };
        for client in CLIENTS {
            fleet.devices[client].redis.add(OUT, &fields([("n", "0")])).await;
            fleet.wait_for(client, 0, PATIENCE, "the first entry").await;
        }
        fleet
    }

    /// Waits until the numbers of a client from 0 to `last` are in its partition, in order and each once. Returns how long
    /// each was on its way.
    ///
    /// # Panics
    /// If they are not within that time, or one is there twice or out of order.
    pub async fn wait_for(
        &self,
        client: &str,
        last: usize,
        within: Duration,
        what: &str,
    ) -> Vec<Duration> {
        eventually(&format!("{what}: {client}"), within, async || {
            let mut found = Vec::new();
            for entry in
                self.cluster.entries_of(&self.inbound[client]).await.ok_or("no owner answers")?
            {
                if entry.text("client").as_deref() == Some(client) {
                    let seq = entry.text("seq").expect("the hub adds it");
                    found.push((number(&entry), ms(&entry.id).saturating_sub(ms(&seq))));
                }
            }
            let numbers: Vec<_> = found.iter().map(|(n, _)| *n).collect();
            assert!(numbers.is_sorted_by(|a, b| a < b), "{what}: {client}: {numbers:?}");
            match numbers.len() == last + 1 {
                true => {
                    Ok(found.into_iter().map(|(_, took)| Duration::from_millis(took)).collect())
                }
                false => Err(format!("{} of {}", numbers.len(), last + 1)),
            }
        })
        .await
    }

    /// Runs a command of the hub with its settings.
    pub async fn hub_command(&self, words: &[&str]) -> Finished {
        hub_command::<G>(&self.cluster.hub_url(), words).await
    }

    /// A key of a client, as `spoke-hub key` prints it.
    pub async fn key_of(&self, client: &str, name: &str) -> String {
        key_of::<G>(&self.cluster.hub_url(), client, name).await
    }
}

impl PartitionFleet {
    /// The position of the primary of a client's keys, as the node at `asked` sees it.
    ///
    /// # Panics
    /// If it sees none.
    pub async fn owner(&self, client: &str, asked: usize) -> usize {
        self.cluster.owner(&self.inbound[client], asked).await.expect("the slot has an owner")
    }
}

impl Cluster {
    /// All entries of a stream, if the node that has it answers.
    pub async fn read(&self, stream: &str) -> Option<Vec<Stored>> {
        self.entries_of(stream).await
    }
}

/// The number of an entry.
///
/// # Panics
/// If it has none.
pub fn number(entry: &Stored) -> usize {
    entry.text("n").and_then(|n| n.parse().ok()).expect("each entry has a number")
}

/// The milliseconds of an ID.
fn ms(id: &str) -> u64 {
    id.split('-').next().and_then(|ms| ms.parse().ok()).expect("an ID")
}

/// Provisions a client for an hour.
async fn provision<G: RedisGroup>(group: &G, client: &str) {
    let key = format!("{}:client:{client}:h", G::AUTH_PREFIX);
    let deadline = (now_ms() + 3_600_000).to_string();
    let words = ["HSET", &key, "otpSecret", OTP_SECRET, "regDeadline", &deadline];
    eventually("a primary to take a client", PATIENCE, async || {
        let primary = group.primary_of(&key).await.ok_or("there is none")?;
        let provisioned: Option<usize> = asked(group.servers()[primary].port(), &words).await;
        provisioned.ok_or("it does not answer")
    })
    .await;
}

async fn hub_command<G: RedisGroup>(url: &str, words: &[&str]) -> Finished {
    let mut start = Start::with(words);
    for (key, value) in [("redis", url)].iter().chain(G::HUB) {
        start = start.variable(&Kind::Hub.variable(key), value);
    }
    run(&path_of("spoke-hub"), &start).await
}

async fn key_of<G: RedisGroup>(url: &str, client: &str, name: &str) -> String {
    let printed = hub_command::<G>(url, &["key", client]).await.done().stdout;
    let mut lines = printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|line| line.first() == Some(&name));
    line.unwrap_or_else(|| panic!("no {name} in {printed}"))[1].to_owned()
}
