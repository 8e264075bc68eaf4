//! A hub or auth process, with its settings in the environment and its ports taken from its log.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use crate::{
    api::Api,
    binaries,
    process::{Process, Start},
    wait::{PATIENCE, eventually, eventually_is},
};

/// Which service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `spoke-auth`
    Auth,
    /// `spoke-hub`
    Hub,
}

impl Kind {
    /// The program's name.
    pub fn program(self) -> &'static str {
        match self {
            Self::Auth => "spoke-auth",
            Self::Hub => "spoke-hub",
        }
    }

    /// The environment variable of a setting, such as `SPOKE_HUB_TLS__CERT_FILE` of `tls.cert_file`.
    pub fn variable(self, key: &str) -> String {
        let prefix = self.program().replace('-', "_");
        format!("{prefix}_{}", key.replace('.', "__")).to_uppercase()
    }
}

/// A running service. It is killed when dropped.
pub struct Service {
    kind: Kind,
    start: Start,
    log: PathBuf,
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Service {
    /// Starts a service on free ports, with `settings` over the defaults of a test, and waits until it
    /// listens. Its log is in `folder`.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(kind: Kind, redis: &str, settings: &[(&str, &str)], folder: &Path) -> Self {
        Self::start_in(Vec::new(), kind, redis, settings, folder).await
    }

    /// The same with further variables in its environment.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_in(
        environment: Vec<(String, String)>,
        kind: Kind,
        redis: &str,
        settings: &[(&str, &str)],
        folder: &Path,
    ) -> Self {
        let mut start = Start { environment, ..Start::with(&["serve"]) };
        let mut defaults = vec![
            ("listen", "127.0.0.1:0"),
            ("admin_listen", "127.0.0.1:0"),
            ("redis", redis),
            ("log.level", "debug"),
            ("log.format", "json"),
        ];
        if kind == Kind::Auth {
            // The lowest cost of bcrypt, since tests need no security.
            defaults.push(("bcrypt_cost", "4"));
        }
        for (key, value) in defaults.iter().chain(settings) {
            start = start.variable(&kind.variable(key), value);
        }
        let log = folder.join(format!("{}.log", kind.program()));
        let (process, address, admin) = launch(kind, &start, &log).await;
        Self { kind, start, log, process, address, admin }
    }

    /// Starts a service with the settings of this file, except its ports and its Redis, and with further
    /// environment variables.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_from(
        environment: Vec<(String, String)>,
        kind: Kind,
        redis: &str,
        file: &Path,
    ) -> Self {
        let path = file.display().to_string();
        let mut start = Start { environment, ..Start::with(&["serve", "--config", &path]) };
        for (key, value) in
            [("listen", "127.0.0.1:0"), ("admin_listen", "127.0.0.1:0"), ("redis", redis)]
        {
            start = start.variable(&kind.variable(key), value);
        }
        let log = file.with_extension("log");
        let (process, address, admin) = launch(kind, &start, &log).await;
        Self { kind, start, log, process, address, admin }
    }

    /// Its public address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// An HTTP client of its public listener.
    pub fn api(&self) -> Api {
        Api::new(self.address)
    }

    /// An HTTP client of its admin listener.
    pub fn admin(&self) -> Api {
        Api::new(self.admin)
    }

    /// Its environment, for the commands of the same program.
    pub fn environment(&self) -> &[(String, String)] {
        &self.start.environment
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its log so far, including before restarts.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Kills it with SIGKILL.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Sends SIGTERM, and waits for its exit.
    ///
    /// # Panics
    /// If it does not end in time.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.process.terminate().await
    }

    /// Restarts it on new ports; kills it first if it is running.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn restart(&mut self) {
        self.process.kill9();
        (self.process, self.address, self.admin) = launch(self.kind, &self.start, &self.log).await;
    }

    /// Waits until `/readyz` answers 200, which needs its Redis.
    ///
    /// # Panics
    /// If that takes longer than `PATIENCE`.
    pub async fn ready(&self) {
        let admin = self.admin();
        let awaited = format!("{} to be ready", self.kind.program());
        eventually_is(&awaited, 200, async || admin.get("/readyz").await.status).await;
    }
}

async fn launch(kind: Kind, start: &Start, log: &Path) -> (Process, SocketAddr, SocketAddr) {
    let before = std::fs::metadata(log).map_or(0, |data| data.len() as usize);
    let mut process = Process::start(&binaries::path_of(kind.program()), start, log);
    let awaited = format!("{} to log its addresses", kind.program());
    let addresses = eventually(&awaited, PATIENCE, async || {
        if let Some(status) = process.exit() {
            return Ok(Err(status));
        }
        let log = process.log();
        listening(log.get(before..).unwrap_or_default()).map(Ok).ok_or("nothing yet")
    })
    .await;
    match addresses {
        Ok((address, admin)) => (process, address, admin),
        Err(status) => {
            panic!("{} ended at once with {status}:\n{}", kind.program(), process.tail())
        }
    }
}

/// The public and the admin address in a log.
fn listening(log: &str) -> Option<(SocketAddr, SocketAddr)> {
    let mut public = None;
    let mut admin = None;
    for line in log.lines().filter(|line| line.contains("listening")) {
        let address = line.split_once("127.0.0.1:")?.1;
        let digits = address.split(|c: char| !c.is_ascii_digit()).next()?;
        let address = SocketAddr::from(([127, 0, 0, 1], digits.parse().ok()?));
        match line.contains("health") || line.contains("admin") {
            true => admin = Some(address),
            false => public = Some(address),
        }
    }
    Some((public?, admin?))
}
