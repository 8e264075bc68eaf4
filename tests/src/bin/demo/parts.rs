//! The parts of the demo: two Redis servers, auth, hub, and an agent enrolled by the real commands.

use std::path::Path;

use spoke_tests::{
    binaries::path_of,
    cloud::url,
    process::{Process, Start, run},
    redis::{RedisServer, ShippedConf, free_port},
    service::{Kind, Service},
};
use tempfile::TempDir;

use crate::show;

/// The device's name.
pub(crate) const CLIENT: &str = "dev1";

/// All processes. They end when this is dropped, first the programs and then the Redis servers.
pub(crate) struct Demo {
    _agent: Process,
    _hub: Service,
    _auth: Service,
    /// The device's Redis.
    pub(crate) device: RedisServer,
    /// The cloud's Redis.
    pub(crate) cloud: RedisServer,
    /// The agent's settings file, for its commands.
    pub(crate) settings: String,
    /// The hub's status page.
    pub(crate) page: String,
    _folder: TempDir,
}

impl Demo {
    /// Starts everything, and prints each step.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("spoke-demo-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let cloud = RedisServer::start_shipped(ShippedConf::Hub).await;
        show::step("a Redis for the cloud", &format!("port {}", cloud.port()));
        let auth = Service::start(Kind::Auth, &cloud.url(), &[], folder.path()).await;
        show::step("auth, which registers devices", &url(auth.address()));
        let hub = Service::start(Kind::Hub, &cloud.url(), &[], folder.path()).await;
        show::step("the hub", &url(hub.address()));
        let device = RedisServer::start_shipped(ShippedConf::Device).await;
        show::step("a Redis for the device", &format!("port {}", device.port()));

        let secret = provision(&auth).await;
        show::step(&format!("spoke-auth provision {CLIENT}"), "creates a one-time secret");
        let settings = folder.path().join("agent.toml").display().to_string();
        enrol(folder.path(), &settings, &secret, [&auth, &hub], &device).await;
        show::step(&format!("spoke-agent enrol --client {CLIENT} …"), "registers the device");
        // `spoke-agent status` asks this address.
        let admin = format!("admin_listen=127.0.0.1:{}", free_port());
        let start = Start::with(&["run", "--config", &settings, "--set", &admin]);
        let log = folder.path().join("agent.log");
        let agent = Process::start(&path_of("spoke-agent"), &start, &log);
        show::step("spoke-agent run", "carries entries from here on");
        let page = format!("{}/", url(hub.admin().address()));
        Self {
            _agent: agent,
            _hub: hub,
            _auth: auth,
            device,
            cloud,
            settings,
            page,
            _folder: folder,
        }
    }
}

async fn provision(auth: &Service) -> String {
    let mut start = Start::with(&["provision", CLIENT, "--json"]);
    start.environment = auth.environment().to_vec();
    let made = run(&path_of("spoke-auth"), &start).await.done().json();
    made["otpSecret"].as_str().expect("provision makes a secret").to_owned()
}

async fn enrol(
    folder: &Path,
    settings: &str,
    secret: &str,
    [auth, hub]: [&Service; 2],
    device: &RedisServer,
) {
    let state = folder.join("state").display().to_string();
    let start = Start::with(&[
        "enrol",
        "--client",
        CLIENT,
        "--auth",
        &url(auth.address()),
        "--hub",
        &url(hub.address()),
        "--otp-secret-file",
        "-",
        "--redis",
        &device.url(),
        "--state-dir",
        &state,
        "--config",
        settings,
    ]);
    run(&path_of("spoke-agent"), &start.input(secret.as_bytes())).await.done();
}
