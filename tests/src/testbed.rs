//! What Redis servers stand on in a chaos run: links between them that can be cut, and disks that can be filled.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    disk::SmallDisk,
    node_network::{Gate, NodeNetwork, source_of},
    redis::{RedisServer, ShippedConf},
};

/// Far more than a run of some minutes writes, since files are written anew below.
const DISK_KIB: usize = 48 * 1024;
/// So that a long run does not fill its disk by itself.
const REWRITE_FROM: &str = "8mb";
/// What a node of a cluster adds to its port for the others.
const BUS: u16 = 10_000;

/// The servers of a group, and what can be done to them from outside.
pub struct Testbed {
    network: NodeNetwork,
    members: Vec<Member>,
    folder: PathBuf,
    has_disks: bool,
}

/// To whom a server announces its gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnnouncedTo {
    /// To the nodes of its cluster and their clients.
    Cluster,
    /// To its replicas or its primary, and to Sentinels.
    Replication,
}

struct Member {
    /// The server's own port.
    port: u16,
    number: u8,
    client: Gate,
    _bus: Option<Gate>,
    /// Where its logs are, and its files if it has no disk.
    folder: PathBuf,
    disk: Option<SmallDisk>,
}

impl Testbed {
    /// An empty one, with the logs of all servers in this folder. Without root it has no disks to fill, which it prints.
    pub fn new(folder: &Path) -> Self {
        let has_disks = SmallDisk::mount(64).is_some();
        let (network, members) = (NodeNetwork::default(), Vec::new());
        Self { network, members, folder: folder.to_owned(), has_disks }
    }

    /// Starts a server on it.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_server(&mut self, to: AnnouncedTo, options: &[&str]) -> RedisServer {
        let number = u8::try_from(self.members.len() + 1).expect("a group is small");
        let folder = self.folder.join(format!("node-{number}"));
        fs::create_dir(&folder).expect("a folder can be made");
        let disk = self.has_disks.then(|| SmallDisk::mount(DISK_KIB)).flatten();
        let client = self.network.open(number).await;
        let bus = match to {
            AnnouncedTo::Cluster => Some(self.network.open(number).await),
            AnnouncedTo::Replication => None,
        };
        // A full disk stops neither its log nor what it knows of its cluster: without the latter it would end.
        let file = |name: &str| folder.join(name).display().to_string();
        let mut own: Vec<String> = ["--logfile", &file("redis.log")].map(str::to_owned).into();
        let mut add = |name: &str, value: &str| own.extend([name, value].map(str::to_owned));
        add("--bind-source-addr", &source_of(number));
        add("--auto-aof-rewrite-min-size", REWRITE_FROM);
        let announced = client.port().to_string();
        match &bus {
            Some(bus) => {
                add("--cluster-config-file", &file("nodes.conf"));
                add("--cluster-announce-ip", "127.0.0.1");
                add("--cluster-announce-port", &announced);
                add("--cluster-announce-bus-port", &bus.port().to_string());
            }
            None => {
                add("--replica-announce-ip", "127.0.0.1");
                add("--replica-announce-port", &announced);
            }
        }
        let all: Vec<&str> =
            options.iter().copied().chain(own.iter().map(String::as_str)).collect();
        let directory = disk.as_ref().map_or(&*folder, SmallDisk::path);
        let server = RedisServer::start_in_with(ShippedConf::Hub, directory, &all).await;
        let port = server.port();
        client.lead_to(port);
        if let Some(bus) = &bus {
            bus.lead_to(port + BUS);
        }
        self.members.push(Member { port, number, client, _bus: bus, folder, disk });
        server
    }

    /// The port that a server announces.
    ///
    /// # Panics
    /// If it was not started here.
    pub fn announced(&self, server: &RedisServer) -> u16 {
        self.member(server).client.port()
    }

    /// Cuts a server off from all others. Hub and apps reach it.
    pub fn isolate(&self, server: &RedisServer) {
        self.network.isolate(self.member(server).number);
    }

    /// Cuts the link between two servers.
    pub fn part(&self, one: &RedisServer, other: &RedisServer) {
        self.network.part(self.member(one).number, self.member(other).number);
    }

    /// Mends all links.
    pub fn heal(&self) {
        self.network.heal();
    }

    /// Whether the servers have disks to fill.
    pub fn has_disks(&self) -> bool {
        self.has_disks
    }

    /// Fills the disk of a server.
    ///
    /// # Panics
    /// If it has none.
    pub fn fill_disk(&self, server: &RedisServer) {
        self.disk(server).fill();
    }

    /// Frees it again.
    ///
    /// # Panics
    /// If it was not filled.
    pub fn free_disk(&self, server: &RedisServer) {
        self.disk(server).free();
    }

    /// The folder of a server in that of all.
    pub fn folder_of(&self, server: &RedisServer) -> &Path {
        &self.member(server).folder
    }

    fn disk(&self, server: &RedisServer) -> &SmallDisk {
        self.member(server).disk.as_ref().expect("there are disks")
    }

    fn member(&self, server: &RedisServer) -> &Member {
        let mut members = self.members.iter();
        members.find(|it| it.port == server.port()).expect("the server was started here")
    }
}
