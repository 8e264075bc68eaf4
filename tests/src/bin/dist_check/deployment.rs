//! A device and a cloud with the programs of a release: two Redis servers, auth and the hub with TLS, an agent.

use std::path::{Path, PathBuf};

use spoke_tests::{
    binaries::path_of,
    certificates::Certificates,
    process::{Finished, Process, Start, run},
    redis::{RedisServer, free_port},
    service::{Kind, Service},
    wait::{PATIENCE, eventually},
};
use tempfile::TempDir;

/// The device's name.
pub(crate) const CLIENT: &str = "dev1";

/// All processes. They end when this is dropped, first the programs and then the Redis servers.
pub(crate) struct Deployment {
    agent: Option<Process>,
    hub: Service,
    auth: Service,
    /// The device's Redis.
    pub(crate) device: RedisServer,
    /// The cloud's Redis.
    pub(crate) cloud: RedisServer,
    ca_file: String,
    admin_listen: String,
    folder: TempDir,
}

impl Deployment {
    /// Starts everything except the agent.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("spoke-dist-check-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let certificates = Certificates::make(folder.path());
        let tls = certificates.settings();
        let tls = tls.each_ref().map(|(key, value)| (*key, value.as_str()));
        let cloud = RedisServer::start().await;
        let device = RedisServer::start_device().await;
        let auth = Service::start(Kind::Auth, &cloud.url(), &tls, folder.path()).await;
        let hub = Service::start(Kind::Hub, &cloud.url(), &tls, folder.path()).await;
        let (ca_file, admin_listen) = (certificates.ca(), format!("127.0.0.1:{}", free_port()));
        Self { agent: None, hub, auth, device, cloud, ca_file, admin_listen, folder }
    }

    /// Writes the agent's settings and registers it, with the commands that an operator uses.
    pub(crate) async fn enrol(&self) {
        let mut provision = Start::with(&["provision", CLIENT, "--json"]);
        provision.environment = self.auth.environment().to_vec();
        let made = succeed(&path_of("spoke-auth"), &provision).await.json();
        let secret = made["otpSecret"].as_str().expect("provision makes a secret");
        let url = |service: &Service| format!("https://{}", service.address());
        let options = [
            ("--client", CLIENT.to_owned()),
            ("--auth", url(&self.auth)),
            ("--hub", url(&self.hub)),
            ("--ca-file", self.ca_file.clone()),
            ("--otp-secret-file", "-".to_owned()),
            ("--redis", self.device.url()),
            ("--state-dir", self.path("state")),
            ("--config", self.path("agent.toml")),
        ];
        let mut enrol = Start::with(&["enrol"]).input(secret.as_bytes());
        for (name, value) in options {
            enrol.arguments.extend([name.to_owned(), value]);
        }
        succeed(&path_of("spoke-agent"), &enrol).await;
    }

    /// Runs `spoke-agent check`.
    ///
    /// # Panics
    /// If it finds an error.
    pub(crate) async fn check(&self) {
        succeed(&path_of("spoke-agent"), &self.command("check")).await;
    }

    /// Starts the agent and waits until it is connected.
    pub(crate) async fn start_agent(&mut self) {
        let log = PathBuf::from(self.path("agent.log"));
        let connections = |log: &str| log.matches("connected to hub").count();
        let before = connections(&std::fs::read_to_string(&log).unwrap_or_default());
        let mut agent = Process::start(&path_of("spoke-agent"), &self.command("run"), &log);
        eventually("the agent to connect", PATIENCE, async || {
            assert_eq!(agent.exit(), None, "the agent ended: {}", agent.tail());
            if connections(&agent.log()) > before { Ok(()) } else { Err("it has not yet") }
        })
        .await;
        self.agent = Some(agent);
    }

    /// Gives the agent away, to end it while this is in use.
    pub(crate) fn take_agent(&mut self) -> Process {
        self.agent.take().expect("the agent was started")
    }

    /// Sends SIGTERM to the agent.
    ///
    /// # Panics
    /// If it does not end with 0.
    pub(crate) async fn stop_agent(&mut self) {
        let status = self.take_agent().terminate().await;
        assert!(status.success(), "the agent ended with {status} after SIGTERM");
    }

    /// The process id of the agent.
    pub(crate) fn agent_pid(&self) -> u32 {
        self.agent.as_ref().expect("the agent was started").pid()
    }

    fn command(&self, name: &str) -> Start {
        let admin_listen = format!("admin_listen={}", self.admin_listen);
        Start::with(&[name, "--config", &self.path("agent.toml"), "--set", &admin_listen])
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

/// Runs a command until it ends.
///
/// # Panics
/// If its exit code is not 0.
pub(crate) async fn succeed(program: &Path, start: &Start) -> Finished {
    let finished = run(program, start).await;
    let name = program.file_name().unwrap_or_default().display();
    let command = start.arguments.first().map_or("", String::as_str);
    let Finished { code, stdout, stderr } = &finished;
    let code = code.map_or("a signal".to_owned(), |code| format!("exit code {code}"));
    assert!(finished.code == Some(0), "{name} {command} ended with {code}: {stdout}{stderr}");
    finished
}
