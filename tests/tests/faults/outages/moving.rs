//! A fleet that moves with `deploy/redis/move-fleet`, from one Redis to a cluster and back: nothing is lost, and nothing
//! arrives twice.

use std::{collections::BTreeMap, path::Path};

use redis::Value;
use spoke_tests::{
    binaries::path_of,
    checker::{Carried, assert_same, expected, from_device, from_hub},
    cloud::{Cloud, Settings, now_ms, provision},
    cluster::Cluster,
    copy_state::cursor,
    device::{Device, IN as DEVICE_IN, LOST as DEVICE_LOST, STATE},
    entries::{Stored, fields},
    process::{Finished, Start, run},
    redis::RedisServer,
    service::{Kind, Service},
    sources::root,
    wait::{PATIENCE, eventually},
};

use super::part;

const CLIENTS: [&str; 3] = ["dev1", "dev2", "dev3"];
/// The fields of an entry that can never be carried, which all have one name.
const POISON: [(&str, &str); 129] = [("same", "value"); 129];

/// Number and hash tags of the partitions.
const RECORD: &str = "spoke-hub:partitions";

enum Servers {
    One(Box<RedisServer>),
    Cluster(Cluster),
}

/// The Redis of a fleet, and the settings of its services there.
struct Place {
    servers: Servers,
    partitions: &'static str,
    auth_prefix: &'static str,
}

impl Place {
    async fn one(partitions: &'static str) -> Self {
        let servers = Servers::One(Box::new(RedisServer::start().await));
        Self { servers, partitions, auth_prefix: "spoke-auth" }
    }

    async fn cluster() -> Self {
        let servers = Servers::Cluster(Cluster::start().await);
        Self { servers, partitions: "8", auth_prefix: "{spoke-auth}" }
    }

    fn url(&self) -> String {
        match &self.servers {
            Servers::One(redis) => redis.url(),
            Servers::Cluster(cluster) => cluster.url(),
        }
    }

    /// The server that has this key.
    async fn server(&self, key: &str) -> &RedisServer {
        match &self.servers {
            Servers::One(redis) => redis,
            Servers::Cluster(cluster) => {
                let owner = cluster.owner(key, 0).await.expect("all slots have an owner");
                &cluster.nodes[owner]
            }
        }
    }

    /// What `spoke-hub key` prints.
    async fn printed_keys(&self, words: &[&str]) -> String {
        let start = Start::with(&[&["key"], words].concat())
            .variable("SPOKE_HUB_REDIS", self.url())
            .variable("SPOKE_HUB_PARTITIONS", self.partitions)
            .variable("SPOKE_HUB_AUTH_KEY_PREFIX", self.auth_prefix);
        run(&path_of("spoke-hub"), &start).await.done().stdout
    }

    async fn key_of(&self, client: &str, name: &str) -> String {
        let printed = self.printed_keys(&[client]).await;
        let mut lines = printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let line = lines.find(|line| line.first() == Some(&name));
        line.unwrap_or_else(|| panic!("no {name} in {printed}"))[1].to_owned()
    }

    async fn entries(&self, client: &str, name: &str) -> Vec<Stored> {
        let key = self.key_of(client, name).await;
        self.server(&key).await.entries(&key).await
    }

    /// Runs the script for the keys of this service.
    async fn copy_to(&self, target: &Self, of: Kind) -> Finished {
        let (from, to) = (self.url(), target.url());
        let mut arguments = vec!["--from", &from, "--to", &to];
        arguments.extend(match of {
            Kind::Hub => {
                vec!["--from-partitions", self.partitions, "--to-partitions", target.partitions]
            }
            Kind::Auth => {
                vec!["--auth", "--from-prefix", self.auth_prefix, "--to-prefix", target.auth_prefix]
            }
        });
        run(&root().join("deploy/redis/move-fleet"), &Start::with(&arguments)).await
    }

    async fn start(&self, kind: Kind, cloud: &Cloud) -> Service {
        let settings: &[_] = match kind {
            Kind::Hub => &[("partitions", self.partitions), ("auth_key_prefix", self.auth_prefix)],
            Kind::Auth => &[("key_prefix", self.auth_prefix)],
        };
        let service = Service::start(kind, &self.url(), settings, cloud.folder()).await;
        service.ready().await;
        service
    }
}

/// A cloud with devices, and all entries that were added.
struct Fleet {
    cloud: Cloud,
    devices: BTreeMap<&'static str, Device>,
    up: BTreeMap<&'static str, Vec<Stored>>,
    down: BTreeMap<&'static str, Vec<Stored>>,
    /// Where it was so far; it is at the last of them.
    places: Vec<Place>,
}

impl Fleet {
    async fn start(place: Place) -> Self {
        let url = place.url();
        let hub = [("redis", url.as_str()), ("partitions", place.partitions)];
        let auth = [("redis", url.as_str())];
        let cloud = Cloud::start_with(Settings { hub: &hub, auth: &auth }).await;
        let mut devices = BTreeMap::new();
        for client in CLIENTS {
            let mut device = Device::without_agent(&cloud, client, &[]).await;
            let Servers::One(redis) = &place.servers else { unreachable!("it starts on one") };
            provision(redis, client, now_ms() + 3_600_000).await;
            device.start_agent();
            devices.insert(client, device);
        }
        let (up, down) = Default::default();
        Self { cloud, devices, up, down, places: vec![place] }
    }

    fn place(&self) -> &Place {
        self.places.last().expect("it is somewhere")
    }

    async fn add_up(&mut self, name: &str, count: usize) {
        for client in CLIENTS {
            let added = super::add_up(&self.devices[client], name, count).await;
            self.up.entry(client).or_default().extend(added);
        }
    }

    async fn add_down(&mut self, name: &str, count: usize) {
        for client in CLIENTS {
            let key = self.place().key_of(client, "out").await;
            let added = self.place().server(&key).await.add_all(&key, &part(name, count)).await;
            self.down.entry(client).or_default().extend(added);
        }
    }

    /// What came from a device, in all places in their order.
    async fn arrived(&self, client: &str) -> Vec<Carried> {
        let mut arrived = Vec::new();
        for place in &self.places {
            arrived.extend(from_device(&place.entries(client, "in").await, client));
        }
        arrived
    }

    /// Checks that each entry arrives once, in order and in the first epoch, and that no ledger has a line.
    async fn check(&self, what: &str) {
        for client in CLIENTS {
            let (up, down) = (expected(&self.up[client], Some(1)), &self.down[client]);
            let down = expected(down, None);
            let device = &self.devices[client];
            eventually(&format!("{what}: entries of {client}"), PATIENCE, async || {
                let arrived = self.arrived(client).await.len();
                let delivered = device.redis.length(DEVICE_IN).await;
                let is_all = arrived >= up.len() && delivered >= down.len();
                if is_all { Ok(()) } else { Err((arrived, delivered)) }
            })
            .await;
            assert_same(&format!("{what}: up from {client}"), &up, &self.arrived(client).await);
            let delivered = from_hub(&device.redis.entries(DEVICE_IN).await);
            assert_same(&format!("{what}: down to {client}"), &down, &delivered);

            assert_eq!(device.redis.length(DEVICE_LOST).await, 0, "{what}: {client}");
            assert_eq!(self.place().entries(client, "lost").await, [], "{what}: {client}");
            let hash = self.place().key_of(client, "client").await;
            let server = self.place().server(&hash).await;
            for (redis, hash) in [(server, hash.as_str()), (&device.redis, STATE)] {
                assert_eq!(cursor(redis, hash).await.map(|(epoch, _)| epoch), Some(1), "{hash}");
                let epoch: String = redis.command(&["HGET", hash, "out_epoch"]).await;
                assert_eq!(epoch, "1", "{what}: {client}: {hash}");
            }
        }
        let logs = self.devices.values().map(Device::log).chain([self.cloud.hub.log()]);
        for log in logs {
            assert!(!log.contains("rewound") && !log.contains("uncertain"), "{what}: {log}");
        }
    }

    /// When each client was registered, and the number of its sessions.
    async fn of_auth(&self) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        for client in CLIENTS {
            let key = format!("{}:client:{client}", self.place().auth_prefix);
            let server = self.place().server(&key).await;
            let hash = server.hash(&format!("{key}:h")).await;
            let sessions = server.command(&["ZCARD", &format!("{key}:sessions:z")]).await;
            found.push((hash["registeredAt"].clone(), sessions));
        }
        found
    }

    fn device(&mut self, client: &str) -> &mut Device {
        self.devices.get_mut(client).expect("it is one of them")
    }

    async fn stop_services(&mut self) {
        assert!(self.cloud.hub.terminate().await.success());
        assert!(self.cloud.auth.terminate().await.success());
    }

    /// Copies the keys of both services, and again, which changes nothing.
    async fn copy_to(&self, target: &Place) {
        for of in [Kind::Hub, Kind::Auth] {
            println!("{}", self.place().copy_to(target, of).await.done().stdout);
            let again = self.place().copy_to(target, of).await.done();
            assert!(again.stdout.contains("wrote 0 keys"), "{again:?}");
        }
        let record = target.server(RECORD).await.hash(RECORD).await;
        assert_eq!(record.get("count").map_or("1", String::as_str), target.partitions);
        if let Some(tags) = record.get("tags") {
            let stream = |tag: &str| format!("spoke-hub:in:{{{tag}}}:x\n");
            let streams: String = tags.split(' ').map(stream).collect();
            assert_eq!(streams, target.printed_keys(&[]).await);
        }
    }

    async fn start_services_at(&mut self, target: &Place) {
        self.cloud.auth = target.start(Kind::Auth, &self.cloud).await;
        self.cloud.hub = target.start(Kind::Hub, &self.cloud).await;
        self.cloud.auth_proxy.retarget(self.cloud.auth.address());
        self.cloud.hub_proxy.retarget(self.cloud.hub.address());
    }

    /// Moves the fleet while entries are on their way in both directions, and dev1 is away.
    async fn move_to(&mut self, target: Place, what: &str) {
        let registered = self.of_auth().await;
        self.add_up(&format!("{what}, before"), 50).await;
        self.check(&format!("{what}, before")).await;
        let refused = self.place().copy_to(&target, Kind::Hub).await;
        assert!(refused.code == Some(1) && refused.stderr.contains("a hub runs"), "{refused:?}");

        self.device("dev1").stop_agent().await;
        self.add_down(&format!("{what}, waiting"), 300).await;
        self.add_up(&format!("{what}, on their way"), 300).await;
        self.stop_services().await;
        self.add_up(&format!("{what}, stopped"), 20).await;
        self.add_down(&format!("{what}, stopped"), 20).await;
        self.copy_to(&target).await;
        self.start_services_at(&target).await;
        let refused = self.place().copy_to(&target, Kind::Hub).await;
        assert!(refused.stderr.contains("a hub runs on the redis of --to"), "{refused:?}");
        self.places.push(target);
        self.device("dev1").start_agent();

        self.check(what).await;
        self.add_up(&format!("{what}, after"), 20).await;
        self.add_down(&format!("{what}, after"), 20).await;
        self.check(&format!("{what}, after")).await;
        for ((now, sessions), (before, _)) in self.of_auth().await.into_iter().zip(registered) {
            assert_eq!(now, before, "{what}: nothing is registered again");
            assert!(sessions > 0, "{what}: each has logged in");
        }
    }
}

#[tokio::test]
async fn a_fleet_moves_into_a_cluster_and_back_and_each_entry_arrives_once() {
    let mut fleet = Fleet::start(Place::one("1").await).await;
    fleet.add_up("first", 50).await;
    fleet.add_down("first", 50).await;
    let key = fleet.place().key_of("dev2", "out").await;
    fleet.place().server(&key).await.add(&key, &fields(POISON)).await;
    fleet.check("at first").await;
    for (target, what) in
        [(Place::cluster().await, "into a cluster"), (Place::one("1").await, "back")]
    {
        let dead = fleet.place().entries("dev2", "dead").await;
        assert_eq!(dead.iter().map(|it| it.fields.len()).collect::<Vec<_>>(), [POISON.len() + 3]);
        fleet.move_to(target, what).await;
        let moved = fleet.place().entries("dev2", "dead").await;
        assert_eq!(moved.len(), 1, "{what}");
        assert_eq!(moved[0].fields, dead[0].fields, "{what}");
    }
    assert!(fleet.devices.values().all(|it| it.log().matches("\"registered\"").count() == 1));
}

#[tokio::test]
async fn with_as_many_partitions_the_in_streams_move_with_their_groups() {
    let mut fleet = Fleet::start(Place::one("4").await).await;
    fleet.add_up("read", 20).await;
    fleet.add_down("first", 1).await;
    fleet.check("at first").await;
    let key = fleet.place().key_of("dev1", "in").await;
    let group = async |place: &Place| -> Value {
        place.server(&key).await.command(&["XINFO", "GROUPS", &key]).await
    };
    let source = fleet.place().server(&key).await;
    source.command::<()>(&["XGROUP", "CREATE", &key, "workers", "0"]).await;
    let read = ["XREADGROUP", "GROUP", "workers", "a", "COUNT", "7", "STREAMS", &key, ">"];
    source.command::<Value>(&read).await;
    let before = group(fleet.place()).await;

    let target = Place::one("4").await;
    fleet.stop_services().await;
    fleet.copy_to(&target).await;
    assert_eq!(group(&target).await, before);
    fleet.start_services_at(&target).await;
    // All are in the streams of the new place.
    fleet.places = vec![target];
    fleet.add_up("moved", 20).await;
    fleet.add_down("moved", 1).await;
    fleet.check("moved").await;
}

/// The old in stream is not searched after a move, so the new one must not look as if nothing had come before.
#[tokio::test]
async fn a_device_that_goes_back_after_a_move_reports_what_may_have_come_before_it() {
    let copy = async |from: &Path, to: &Path| {
        let words = ["-a", from.to_str().unwrap(), to.to_str().unwrap()];
        run(Path::new("cp"), &Start::with(&words)).await.done();
    };
    let mut fleet = Fleet::start(Place::one("1").await).await;
    fleet.add_up("first", 10).await;
    fleet.add_down("first", 1).await;
    fleet.check("at first").await;
    fleet.device("dev2").stop_agent().await;
    fleet.add_up("waiting", 10).await;
    let files = fleet.devices["dev2"].redis.directory().join("appendonlydir");
    let backup = fleet.cloud.folder().join("backup");
    copy(&files, &backup).await;
    fleet.device("dev2").start_agent();
    fleet.check("carried").await;

    let target = Place::cluster().await;
    fleet.stop_services().await;
    fleet.copy_to(&target).await;
    fleet.start_services_at(&target).await;
    fleet.places.push(target);
    fleet.add_up("moved", 10).await;
    fleet.check("moved").await;
    let device = fleet.device("dev2");
    device.stop_agent().await;
    device.redis.kill9();
    std::fs::remove_dir_all(&files).unwrap();
    copy(&backup, &files).await;
    device.redis.restart().await;
    device.start_agent();
    eventually("the entries that came twice to be in the ledger", PATIENCE, async || {
        let lines = fleet.place().entries("dev2", "lost").await;
        let is_uncertain = |it: &&Stored| it.text("cause").as_deref() == Some("uncertain");
        let counts: Vec<_> = lines.iter().filter(is_uncertain).map(|it| it.text("count")).collect();
        if counts == [Some("10".to_owned())] { Ok(()) } else { Err(lines) }
    })
    .await;
}
