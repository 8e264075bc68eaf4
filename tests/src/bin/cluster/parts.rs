//! The parts of the demo: a cluster, two of each service, and a device enrolled by the real commands.

use redis::{Value, cmd};
use spoke_tests::{
    balancer::Balancer,
    binaries::path_of,
    cluster::{Cluster, connect},
    entries::{Stored, stored},
    process::{Process, Start, run},
    redis::{RedisServer, ShippedConf, free_port},
    service::{Kind, Service},
};
use tempfile::TempDir;

/// The device's name.
pub(crate) const CLIENT: &str = "dev1";
const PARTITIONS: &str = "16";

/// All processes. They end when this is dropped, first the programs and then the Redis servers.
pub(crate) struct Fleet {
    _agent: Process,
    pub(crate) hubs: Vec<Service>,
    _auths: Vec<Service>,
    _balancers: [Balancer; 2],
    /// The device's Redis.
    pub(crate) device: RedisServer,
    pub(crate) cluster: Cluster,
    /// The in stream of the device's partition.
    pub(crate) inbound: String,
    _folder: TempDir,
}

/// An entry in the cluster.
pub(crate) struct Arrival {
    pub(crate) n: usize,
    /// How long it took there.
    pub(crate) took_ms: u64,
}

impl Fleet {
    /// Starts everything, and prints each step.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("spoke-cluster-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let cluster = Cluster::start_shipped().await;
        step("a Redis Cluster", "three primaries, each with a replica");
        let url = cluster.url();
        let (mut auths, mut hubs) = (Vec::new(), Vec::new());
        for name in ["one", "two"] {
            let own = folder.path().join(name);
            std::fs::create_dir(&own).expect("the folder can be written to");
            let auth = [("key_prefix", "{spoke-auth}")];
            auths.push(Service::start(Kind::Auth, &url, &auth, &own).await);
            let hub = [("partitions", PARTITIONS), ("auth_key_prefix", "{spoke-auth}")];
            hubs.push(Service::start(Kind::Hub, &url, &hub, &own).await);
        }
        step("two auths and two hubs", &format!("partitions = {PARTITIONS}"));
        let in_front = async |services: &[Service]| {
            let addresses: Vec<_> = services.iter().map(Service::address).collect();
            Balancer::start(&addresses).await
        };
        let balancers = [in_front(&auths).await, in_front(&hubs).await];
        let device = RedisServer::start_shipped(ShippedConf::Device).await;
        step("a Redis for the device", &format!("port {}", device.port()));

        let mut provision = Start::with(&["provision", CLIENT, "--json"]);
        provision.environment = auths[0].environment().to_vec();
        let made = run(&path_of("spoke-auth"), &provision).await.done().json();
        let secret = made["otpSecret"].as_str().expect("provision makes a secret").to_owned();
        let settings = folder.path().join("agent.toml").display().to_string();
        let state = folder.path().join("state").display().to_string();
        let [auth, hub] = [0, 1].map(|at| format!("http://{}", Balancer::address(&balancers[at])));
        let device_url = device.url();
        let words = [
            "enrol",
            "--client",
            CLIENT,
            "--auth",
            &auth,
            "--hub",
            &hub,
            "--otp-secret-file",
            "-",
            "--redis",
            &device_url,
            "--state-dir",
            &state,
            "--config",
            &settings,
        ];
        run(&path_of("spoke-agent"), &Start::with(&words).input(secret.as_bytes())).await.done();
        let admin = format!("admin_listen=127.0.0.1:{}", free_port());
        let start = Start::with(&["run", "--config", &settings, "--set", &admin]);
        let log = folder.path().join("agent.log");
        let agent = Process::start(&path_of("spoke-agent"), &start, &log);
        step(CLIENT, "carries entries from here on");

        let mut key = Start::with(&["key", CLIENT]);
        key.environment = hubs[0].environment().to_vec();
        let keys = run(&path_of("spoke-hub"), &key).await.done().stdout;
        let inbound = keys.lines().find_map(|line| line.strip_prefix("in "));
        let inbound = inbound.expect("spoke-hub key prints the in stream").trim().to_owned();
        step(&format!("spoke-hub key {CLIENT}"), &inbound);
        Self {
            _agent: agent,
            hubs,
            _auths: auths,
            _balancers: balancers,
            device,
            cluster,
            inbound,
            _folder: folder,
        }
    }

    /// The command line of the hub's commands.
    pub(crate) fn hub_command(&self) -> String {
        format!(
            "{} --set redis={} --set partitions={PARTITIONS} --set 'auth_key_prefix={{spoke-auth}}'",
            path_of("spoke-hub").display(),
            self.cluster.url()
        )
    }

    /// The address of a hub's status page.
    pub(crate) fn page(&self) -> String {
        format!("http://{}/", self.hubs[0].admin().address())
    }
}

/// Returns the device's entries in the cluster, if the node at this position answers.
pub(crate) async fn arrivals(
    cluster: &Cluster,
    inbound: &str,
    owner: usize,
) -> Option<Vec<Arrival>> {
    let mut connection = connect(cluster.nodes[owner].port()).await?;
    let range = cmd("XRANGE").arg(inbound).arg("-").arg("+").take();
    let entries: Value = range.query_async(&mut connection).await.ok()?;
    let ms = |id: &str| id.split('-').next().and_then(|ms| ms.parse::<u64>().ok());
    let arrival = |entry: Stored| {
        let (n, seq) = (entry.text("n")?.parse().ok()?, ms(&entry.text("seq")?)?);
        Some(Arrival { n, took_ms: ms(&entry.id)?.saturating_sub(seq) })
    };
    Some(stored(entries).into_iter().filter_map(arrival).collect())
}

/// Prints one step.
fn step(what: &str, detail: &str) {
    println!("  {what:32} {detail}");
}
