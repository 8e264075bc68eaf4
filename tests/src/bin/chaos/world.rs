//! All processes: devices, two hubs behind one address, auth, and a Redis for each place.
//!
//! Auth has a Redis of its own, whose file is always kept: a device registers once, and a cloud that
//! forgot its devices cannot recover automatically.

use std::{
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};

use redis::cmd;
use spoke_tests::{
    balancer::Balancer,
    binaries,
    chaos::fault::Fleet,
    cloud::{OTP_SECRET, now_ms, out, url},
    device::{OUT, variable},
    process::{Process, Start, write_secret},
    proxy::Proxy,
    redis::ShippedConf,
    service::{Kind, Service},
};
use tokio::sync::Mutex;

use crate::{host::Host, journal::Journal};

/// Short, so that sessions expire and are refreshed within a run.
const SESSION_SECONDS: &str = "60";
/// Every other device trims carried entries except for this many.
const SLACK_ENTRIES: &str = "300";

/// The interval at which the processes are checked.
const LOOK: Duration = Duration::from_millis(250);

/// A device.
pub(crate) struct Device {
    /// Its name.
    pub(crate) name: String,
    /// Its Redis.
    pub(crate) redis: Host,
    /// The link between it and the hubs.
    pub(crate) link: Proxy,
    /// Its agent.
    pub(crate) agent: Mutex<Agent>,
}

/// An agent, which runs unless a fault killed it.
pub(crate) struct Agent {
    process: Option<Process>,
    start: Start,
    log: PathBuf,
    state: PathBuf,
}

/// A service, which is restarted unless a fault stopped it.
pub(crate) struct Supervised {
    /// The service.
    pub(crate) service: Service,
    /// Whether it should run.
    pub(crate) is_up: bool,
}

/// All processes. They end when this is dropped.
pub(crate) struct World {
    /// The timeline of the run.
    pub(crate) journal: Arc<Journal>,
    /// The devices.
    pub(crate) devices: Vec<Device>,
    /// The hubs.
    pub(crate) hubs: Vec<Mutex<Supervised>>,
    /// The balancer in front of the hubs.
    pub(crate) balancer: Balancer,
    /// Auth.
    pub(crate) auth: Mutex<Supervised>,
    /// The proxy in front of auth.
    pub(crate) auth_link: Proxy,
    /// The Redis of the hubs.
    pub(crate) cloud: Host,
    /// The Redis of auth.
    pub(crate) auth_redis: Host,
    /// Processes that ended unexpectedly, with their exit statuses.
    pub(crate) unexpected_exits: Mutex<Vec<String>>,
}

impl World {
    /// Starts all processes in this folder. With `has_short_retries`, agents retry much sooner than in
    /// production.
    pub(crate) async fn start(folder: &Path, fleet: Fleet, has_short_retries: bool) -> Self {
        let journal = Arc::new(Journal::begin(folder));
        let names: Vec<_> = (1..=fleet.devices).map(|n| format!("dev{n}")).collect();
        let down = names.iter().map(|name| (format!("{name}.down"), out(name)));
        let cloud = Host::start(
            folder,
            ("cloud-redis", ShippedConf::Hub),
            &down.collect::<Vec<_>>(),
            &journal,
        )
        .await;
        let cloud = cloud.behind_proxy().await;
        let auth_redis = Host::start(folder, ("auth-redis", ShippedConf::Hub), &[], &journal).await;
        let auth = start_auth(folder, &auth_redis.url().await).await;
        let mut hubs = Vec::new();
        for n in 0..fleet.hubs {
            let (cloud, auth_redis) = (cloud.url().await, auth_redis.url().await);
            hubs.push(start_hub(&folder.join(format!("hub{}", n + 1)), &cloud, &auth_redis).await);
        }
        let addresses: Vec<_> = hubs.iter().map(Service::address).collect();
        let balancer = Balancer::start(&addresses).await;
        let auth_link = Proxy::start(auth.address()).await;
        let mut devices = Vec::new();
        for (n, name) in names.iter().enumerate() {
            provision(&auth_redis, name).await;
            let link = Proxy::start(balancer.address()).await;
            devices.push(
                Device::start(folder, name, (link, &auth_link), (n, has_short_retries), &journal)
                    .await,
            );
        }
        let supervised = |service| Mutex::new(Supervised { service, is_up: true });
        Self {
            journal,
            devices,
            hubs: hubs.into_iter().map(supervised).collect(),
            balancer,
            auth: supervised(auth),
            auth_link,
            cloud,
            auth_redis,
            unexpected_exits: Mutex::default(),
        }
    }

    /// Restarts processes that have ended unexpectedly, as systemd would.
    pub(crate) async fn supervise_forever(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.supervise().await;
        }
    }

    async fn supervise(&self) {
        for Device { name, agent, .. } in &self.devices {
            let mut agent = agent.lock().await;
            if let Some(status) = agent.process.as_mut().and_then(Process::exit) {
                self.note_exit(&format!("{name}'s agent"), status).await;
                agent.start();
            }
        }
        for (n, hub) in self.hubs.iter().enumerate() {
            if let Some(service) = self.restart_if_ended("a hub", &mut *hub.lock().await).await {
                self.balancer.retarget(n, Some(service.address()));
            }
        }
        if let Some(service) = self.restart_if_ended("auth", &mut *self.auth.lock().await).await {
            self.auth_link.retarget(service.address());
        }
    }

    async fn restart_if_ended<'a>(
        &self,
        name: &str,
        supervised: &'a mut Supervised,
    ) -> Option<&'a Service> {
        let status = supervised.service.process().exit().filter(|_| supervised.is_up)?;
        self.note_exit(name, status).await;
        supervised.service.restart().await;
        Some(&supervised.service)
    }

    async fn note_exit(&self, name: &str, status: ExitStatus) {
        let exit = format!("{name} ended unexpectedly with {status}");
        self.journal.note(&exit);
        self.unexpected_exits.lock().await.push(exit);
    }
}

impl Device {
    async fn start(
        folder: &Path,
        name: &str,
        (link, auth): (Proxy, &Proxy),
        (n, has_short_retries): (usize, bool),
        journal: &Arc<Journal>,
    ) -> Self {
        let origin = (format!("{name}.up"), OUT.to_owned());
        let redis = Host::start(
            folder,
            (&format!("{name}-redis"), ShippedConf::Device),
            &[origin],
            journal,
        )
        .await;
        let folder = folder.join(name);
        std::fs::create_dir(&folder).expect("a folder can be made");
        write_secret(&folder.join("otp-secret"), OTP_SECRET);
        let path = |file: &str| folder.join(file).display().to_string();
        let settings = [
            ("client", name.to_owned()),
            ("redis", redis.url().await),
            ("auth", url(auth.address())),
            ("hub", url(link.address())),
            ("otp_secret_file", path("otp-secret")),
            ("state_dir", path("state")),
            ("admin_listen", String::new()),
            ("trim", if n.is_multiple_of(2) { "keep" } else { "acked" }.to_owned()),
            ("trim_slack_entries", SLACK_ENTRIES.to_owned()),
            ("log.level", "debug".to_owned()),
            ("log.format", "json".to_owned()),
        ];
        let short_retries = [
            ("retry_first_ms", "20".to_owned()),
            ("retry_longest_ms", "500".to_owned()),
            ("refused_retry_first_ms", "100".to_owned()),
            ("refused_retry_longest_ms", "1000".to_owned()),
        ];
        let settings =
            settings.into_iter().chain(short_retries.into_iter().filter(|_| has_short_retries));
        let start = settings.fold(Start::with(&["run"]), |start, (key, value)| {
            start.variable(&variable(key), value)
        });
        let mut agent = Agent {
            process: None,
            start,
            log: folder.join("agent.log"),
            state: folder.join("state"),
        };
        agent.start();
        Self { name: name.to_owned(), redis, link, agent: Mutex::new(agent) }
    }
}

impl Agent {
    /// Starts it, killing it first if it runs.
    pub(crate) fn start(&mut self) {
        self.process = None;
        let program = binaries::path_of("spoke-agent");
        self.process = Some(Process::start(&program, &self.start, &self.log));
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

async fn start_auth(folder: &Path, redis: &str) -> Service {
    let settings = [
        ("session_ttl_seconds", SESSION_SECONDS),
        // Agents here log in a hundred times as often as in production.
        ("throttle.login_burst", "10000"),
        ("throttle.login_per_minute", "10000"),
        ("throttle.address_burst", "10000"),
        ("throttle.address_per_minute", "10000"),
    ];
    Service::start(Kind::Auth, redis, &settings, folder).await
}

async fn start_hub(folder: &Path, redis: &str, auth_redis: &str) -> Service {
    std::fs::create_dir(folder).expect("a folder can be made");
    Service::start(Kind::Hub, redis, &[("auth_redis", auth_redis)], folder).await
}

async fn provision(redis: &Host, client: &str) {
    let mut hset = cmd("HSET");
    hset.arg(format!("spoke-auth:client:{client}:h")).arg("otpSecret").arg(OTP_SECRET);
    hset.arg("regDeadline").arg(now_ms() + 3_600_000);
    redis.query::<()>(&hset).await.expect("redis takes a client");
}
