//! A device: a Redis, a link to the hubs, and a process with one agent or many.

use std::{
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
};

use spoke_store::keys::DeviceKeys;
use spoke_tests::{
    binaries,
    chaos::fault::Fleet,
    cloud::{OTP_SECRET, url},
    device::variable,
    process::{Process, Start, write_secret},
    proxy::Proxy,
    redis::ShippedConf,
};
use tokio::sync::Mutex;

use crate::{
    agents::{self, key_prefix, secret_file},
    host::Host,
    journal::Journal,
};

/// Every other device trims carried entries except for this many.
const SLACK_ENTRIES: &str = "300";

/// A client, and where it is.
pub(crate) struct DeviceClient {
    /// Its name.
    pub(crate) name: String,
    /// The index of its device.
    pub(crate) device: usize,
    /// The index of its out stream in the device's Redis.
    pub(crate) index: usize,
    /// Its keys there.
    pub(crate) keys: DeviceKeys,
}

/// A device.
pub(crate) struct Device {
    /// Its name: that of its client, if it has one.
    pub(crate) name: String,
    /// Its Redis.
    pub(crate) redis: Host,
    /// The link between it and the hubs.
    pub(crate) link: Proxy,
    /// The process with its agents.
    pub(crate) agent: Mutex<Agent>,
}

/// An agent, or a process with many, which runs unless a fault killed it.
pub(crate) struct Agent {
    process: Option<Process>,
    program: PathBuf,
    start: Start,
    log: PathBuf,
    state: PathBuf,
}

impl DeviceClient {
    /// The client of this number.
    pub(crate) fn new(n: usize, fleet: Fleet) -> Self {
        let name = format!("dev{}", n + 1);
        let prefix = match fleet.clients > fleet.devices {
            true => key_prefix(&name),
            false => "spoke-agent".to_owned(),
        };
        let (device, index) = (n % fleet.devices, n / fleet.devices);
        Self { name, device, index, keys: DeviceKeys::new(&prefix) }
    }
}

impl Device {
    /// Starts its processes in a folder of its name. With `has_short_retries`, agents retry much sooner than in
    /// production.
    pub(crate) async fn start(
        folder: &Path,
        clients: &[&DeviceClient],
        (link, auth): (Proxy, &Proxy),
        has_short_retries: bool,
        journal: &Arc<Journal>,
    ) -> Self {
        let [first, others @ ..] = clients else { panic!("a device has a client") };
        let name = match others {
            [] => first.name.clone(),
            _ => format!("device{}", first.device + 1),
        };
        let origins: Vec<_> = clients
            .iter()
            .map(|client| (format!("{}.up", client.name), client.keys.out()))
            .collect();
        let redis = (&*format!("{name}-redis"), ShippedConf::Device);
        let redis = Host::start(folder, redis, &origins, journal).await;
        let folder = folder.join(&name);
        std::fs::create_dir(&folder).expect("a folder can be made");
        for client in clients {
            write_secret(&secret_file(&folder, &client.name), OTP_SECRET);
        }
        let path = |file: &str| folder.join(file).display().to_string();
        let of_one = [
            ("client", name.clone()),
            ("otp_secret_file", secret_file(&folder, &name).display().to_string()),
            ("state_dir", path("state")),
        ];
        let is_acked = !first.device.is_multiple_of(2);
        let settings = [
            ("redis", redis.url().await),
            ("auth", url(auth.address())),
            ("hub", url(link.address())),
            ("admin_listen", String::new()),
            ("trim", if is_acked { "acked" } else { "keep" }.to_owned()),
            ("trim_slack_entries", SLACK_ENTRIES.to_owned()),
            ("log.level", "debug".to_owned()),
            ("log.format", "json".to_owned()),
        ];
        let of_one = of_one.into_iter().filter(|_| others.is_empty());
        let settings = settings.into_iter().chain(of_one);
        let short_retries = [
            ("retry_first_ms", "20".to_owned()),
            ("retry_longest_ms", "500".to_owned()),
            ("refused_retry_first_ms", "100".to_owned()),
            ("refused_retry_longest_ms", "1000".to_owned()),
        ];
        let settings = settings.chain(short_retries.into_iter().filter(|_| has_short_retries));
        let mut start = settings.fold(Start::with(&["run"]), |start, (key, value)| {
            start.variable(&variable(key), value)
        });
        let mut program = binaries::path_of("spoke-agent");
        if !others.is_empty() {
            let names: Vec<_> = clients.iter().map(|client| client.name.clone()).collect();
            start.arguments = agents::arguments(&folder, &names);
            program = std::env::current_exe().expect("a process knows its program");
        }
        let mut agent = Agent {
            process: None,
            program,
            start,
            log: folder.join("agent.log"),
            state: folder.join("state"),
        };
        agent.start();
        Self { name, redis, link, agent: Mutex::new(agent) }
    }
}

impl Agent {
    /// Starts it, killing it first if it runs.
    pub(crate) fn start(&mut self) {
        self.process = None;
        self.process = Some(Process::start(&self.program, &self.start, &self.log));
    }

    /// Its exit status, if it ended on its own.
    pub(crate) fn exit(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::exit)
    }

    /// Sends SIGKILL.
    pub(crate) fn kill9(&mut self) {
        self.process = None;
    }

    /// Moves its state directory away, as if it were not mounted. An agent that has not enrolled yet would
    /// do so twice, so its directory stays.
    pub(crate) fn unmount(&self) {
        if self.state.join("session").exists() {
            rename(&self.state, &self.state.with_file_name("mounted-later"));
        }
    }

    /// Moves it back, in place of the directory that was created instead.
    pub(crate) fn mount(&self) {
        let kept = self.state.with_file_name("mounted-later");
        if !kept.exists() {
            return;
        }
        let hidden = self.state.with_file_name("created-instead");
        // Left from an earlier time.
        let _ = std::fs::remove_dir_all(&hidden);
        if self.state.exists() {
            rename(&self.state, &hidden);
        }
        rename(&kept, &self.state);
    }

    /// Its process, if it was not killed.
    pub(crate) fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }
}

fn rename(from: &Path, to: &Path) {
    std::fs::rename(from, to).expect("a folder can be renamed");
}
