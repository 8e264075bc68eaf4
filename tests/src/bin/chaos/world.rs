//! All processes: devices, hubs behind one address, auth, and a Redis for each place.
//!
//! Auth has a Redis of its own, whose file is always kept: a device registers once, and a cloud that
//! forgot its devices cannot recover automatically.

use std::{path::Path, process::ExitStatus, sync::Arc, time::Duration};

use redis::cmd;
use spoke_tests::{
    balancer::Balancer,
    chaos::fault::Fleet,
    cloud::{OTP_SECRET, now_ms, out},
    proxy::Proxy,
    redis::ShippedConf,
    service::{Kind, Service},
};
use tokio::sync::Mutex;

use crate::{
    device::{Device, DeviceClient},
    host::Host,
    journal::Journal,
};

/// Short, so that sessions expire and are refreshed within a run.
const SESSION_SECONDS: &str = "60";
/// The interval at which the processes are checked.
const LOOK: Duration = Duration::from_millis(250);

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
    /// The clients on them.
    pub(crate) clients: Vec<DeviceClient>,
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
        let clients: Vec<_> = (0..fleet.clients).map(|n| DeviceClient::new(n, fleet)).collect();
        let down =
            clients.iter().map(|client| (format!("{}.down", client.name), out(&client.name)));
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
        for client in &clients {
            provision(&auth_redis, &client.name).await;
        }
        let mut devices = Vec::new();
        for n in 0..fleet.devices {
            let clients: Vec<_> = clients.iter().filter(|client| client.device == n).collect();
            let link = Proxy::start(balancer.address()).await;
            let links = (link, &auth_link);
            let device = Device::start(folder, &clients, links, has_short_retries, &journal);
            devices.push(device.await);
        }
        let supervised = |service| Mutex::new(Supervised { service, is_up: true });
        Self {
            journal,
            devices,
            clients,
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
            if let Some(status) = agent.exit() {
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
