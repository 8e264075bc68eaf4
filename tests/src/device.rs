//! A device: a Redis of its own and an agent.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use redis::Value;
use tempfile::TempDir;

use crate::{
    api::Api,
    binaries,
    checker::{Carried, from_hub},
    cloud::{Cloud, OTP_SECRET, out, url},
    copy_state::cursor,
    entries::stored,
    process::{Finished, Process, Start, run, write_secret},
    redis::RedisServer,
    wait::{PATIENCE, eventually, eventually_true},
};

/// The stream where apps on a device publish.
pub const OUT: &str = "spoke-agent:out:x";
/// The stream where entries from the cloud arrive.
pub const IN: &str = "spoke-agent:in:x";
/// The agent's state hash.
pub const STATE: &str = "spoke-agent:state:h";
/// The agent's dead letters.
pub const DEAD: &str = "spoke-agent:dead:x";
/// The device's loss ledger.
pub const LOST: &str = "spoke-agent:lost:x";

/// A device. Its processes end when it is dropped.
pub struct Device {
    agent: Option<Process>,
    /// Its name.
    pub client: String,
    /// Its Redis.
    pub redis: RedisServer,
    start: Start,
    log: PathBuf,
    /// The length of the log when this agent started.
    log_before: usize,
    folder: TempDir,
}

impl Device {
    /// A device that is provisioned in `cloud`, with a running agent.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(cloud: &Cloud, client: &str) -> Self {
        Self::start_with(cloud, client, &[]).await
    }

    /// The same with settings of the agent.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_with(cloud: &Cloud, client: &str, settings: &[(&str, &str)]) -> Self {
        let mut device = Self::without_agent(cloud, client, settings).await;
        device.start_agent();
        device
    }

    /// A device that is provisioned in `cloud`, whose agent is not started yet.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn without_agent(cloud: &Cloud, client: &str, settings: &[(&str, &str)]) -> Self {
        Self::without_agent_on(RedisServer::start_device().await, cloud, client, settings).await
    }

    /// The same on the caller's Redis.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn without_agent_on(
        redis: RedisServer,
        cloud: &Cloud,
        client: &str,
        settings: &[(&str, &str)],
    ) -> Self {
        cloud.provision(client).await;
        let folder = tempfile::Builder::new().prefix("spoke-device-").tempdir();
        let folder = folder.expect("a temporary folder can be made");
        let path = |name: &str| folder.path().join(name).display().to_string();
        write_secret(&folder.path().join("otp-secret"), OTP_SECRET);
        let defaults = [
            ("client", client.to_owned()),
            ("redis", redis.url()),
            ("auth", url(cloud.auth_proxy.address())),
            ("hub", url(cloud.hub_proxy.address())),
            ("otp_secret_file", path("otp-secret")),
            ("state_dir", path("state")),
            ("admin_listen", String::new()),
            // Tests cut many links and cannot wait as long as a device in production.
            ("retry_first_ms", "20".to_owned()),
            ("retry_longest_ms", "500".to_owned()),
            ("refused_retry_first_ms", "100".to_owned()),
            ("refused_retry_longest_ms", "1000".to_owned()),
            ("log.level", "debug".to_owned()),
            ("log.format", "json".to_owned()),
        ];
        let mut start = Start::with(&["run"]);
        for (key, value) in &defaults {
            start = start.variable(&variable(key), value);
        }
        for (key, value) in settings {
            start = start.variable(&variable(key), value);
        }
        let log = folder.path().join("agent.log");
        Self { agent: None, client: client.to_owned(), redis, start, log, log_before: 0, folder }
    }

    /// A second device with the state files of `original`, like a copied SD card, and an empty Redis of
    /// its own. Its agent is not started yet.
    ///
    /// # Panics
    /// If the files cannot be copied.
    pub async fn clone_of(cloud: &Cloud, original: &Self, settings: &[(&str, &str)]) -> Self {
        let clone = Self::without_agent(cloud, &original.client, settings).await;
        copy_private(&original.folder().join("state"), &clone.folder().join("state"));
        clone
    }

    /// The folder with its files: `state`, `otp-secret`, `agent.log`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts the agent; kills it first if it is running.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_agent(&mut self) {
        self.agent = None;
        self.log_before = self.log().len();
        let program = binaries::path_of("spoke-agent");
        self.agent = Some(Process::start(&program, &self.start, &self.log));
    }

    /// Changes a setting of agents started from now on.
    pub fn set(&mut self, key: &str, value: &str) {
        self.start = std::mem::take(&mut self.start).variable(&variable(key), value);
    }

    /// Changes a variable in the environment of agents started from now on.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.start = std::mem::take(&mut self.start).variable(name, value);
    }

    /// Starts agents by this command from now on.
    pub fn start_through(&mut self, words: &[&str]) {
        self.start.through = words.iter().map(ToString::to_string).collect();
    }

    /// The agent's process.
    ///
    /// # Panics
    /// If it was not started.
    pub fn agent(&mut self) -> &mut Process {
        self.agent.as_mut().expect("the agent was started")
    }

    /// Kills the agent with SIGKILL.
    pub fn kill_agent(&mut self) {
        self.agent().kill9();
    }

    /// Waits until the agent has started, sends SIGTERM, and waits for its exit.
    ///
    /// # Panics
    /// If it does not start or end in time.
    pub async fn stop_agent(&mut self) -> ExitStatus {
        eventually_true("the agent to have started", async || {
            let log = self.log();
            log.get(self.log_before..).is_some_and(|own| own.contains("\"started\""))
        })
        .await;
        self.agent().terminate().await
    }

    /// The logs of all its agents so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its agent's admin listener, which is off by default in tests.
    ///
    /// # Panics
    /// If the setting `admin_listen` is not an address.
    pub fn admin(&self) -> Api {
        let name = variable("admin_listen");
        let set = self.start.environment.iter().rfind(|(variable, _)| *variable == name);
        let address = set.and_then(|(_, address)| address.parse().ok());
        Api::new(address.expect("the test set admin_listen"))
    }

    /// Runs a command of `spoke-agent` with the settings of this device.
    ///
    /// # Panics
    /// If it does not end in time.
    pub async fn command(&self, arguments: &[&str]) -> Finished {
        let mut start = self.start.clone();
        start.arguments = arguments.iter().map(ToString::to_string).collect();
        run(&binaries::path_of("spoke-agent"), &start).await
    }

    /// Starts a command of `spoke-agent` with the settings of this device.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn begin(&self, arguments: &[&str]) -> Process {
        let mut start = self.start.clone();
        start.arguments = arguments.iter().map(ToString::to_string).collect();
        Process::start(
            &binaries::path_of("spoke-agent"),
            &start,
            &self.folder().join("command.log"),
        )
    }

    /// The entries of its in stream.
    ///
    /// # Panics
    /// If Redis refuses or an entry is malformed.
    pub async fn carried(&self) -> Vec<Carried> {
        from_hub(&self.redis.entries(IN).await)
    }

    /// Waits until both origins have stored the acknowledgement of their last entry.
    ///
    /// # Panics
    /// If that takes longer than `PATIENCE`.
    pub async fn acknowledged_both_ways(&self, cloud: &Cloud) {
        let up = last(&self.redis, OUT).await;
        let down = last(&cloud.redis, &out(&self.client)).await;
        let awaited = format!("{}'s acknowledgements, up {up}, down {down}", self.client);
        eventually(&awaited, PATIENCE, async || {
            let own: Option<String> = self.redis.command(&["HGET", STATE, "out_acked"]).await;
            let key = format!("spoke-hub:client:{}:h", self.client);
            let hub: Option<String> = cloud.redis.command(&["HGET", &key, "out_acked"]).await;
            let seen = (own.unwrap_or("0-0".to_owned()), hub.unwrap_or("0-0".to_owned()));
            if seen == (up.clone(), down.clone()) { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    /// Waits until the last entry of each out stream is in its copy.
    ///
    /// # Panics
    /// If that takes longer than `PATIENCE`.
    pub async fn carried_both_ways(&self, cloud: &Cloud) {
        let up = last(&self.redis, OUT).await;
        let down = last(&cloud.redis, &out(&self.client)).await;
        let awaited = format!("{}'s entries to be carried, up {up}, down {down}", self.client);
        eventually(&awaited, PATIENCE, async || {
            let key = format!("spoke-hub:client:{}:h", self.client);
            let hub = cursor(&cloud.redis, &key).await.map(|(_, seq)| seq);
            let own = cursor(&self.redis, STATE).await.map(|(_, seq)| seq);
            let seen = (hub.unwrap_or("0-0".to_owned()), own.unwrap_or("0-0".to_owned()));
            if seen == (up.clone(), down.clone()) { Ok(()) } else { Err(seen) }
        })
        .await;
    }
}

fn copy_private(from: &Path, to: &Path) {
    const CAN: &str = "a test can copy its own files";
    fs::create_dir_all(to).expect(CAN);
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).expect(CAN);
    for file in fs::read_dir(from).expect(CAN) {
        let file = file.expect(CAN);
        fs::copy(file.path(), to.join(file.file_name())).expect(CAN);
    }
}

/// The newest ID of a stream.
async fn last(redis: &RedisServer, stream: &str) -> String {
    let newest: Value = redis.command(&["XREVRANGE", stream, "+", "-", "COUNT", "1"]).await;
    stored(newest).pop().map_or("0-0".to_owned(), |entry| entry.id)
}

/// The environment variable of an agent's setting.
pub fn variable(key: &str) -> String {
    format!("SPOKE_AGENT_{}", key.replace('.', "__").to_uppercase())
}
