//! A cloud and a device for the commands of a document: real services, a Redis each, and a folder
//! instead of `/etc/spoke`.
//!
//! A command runs unchanged, except for the names, ports and folders of `substitutes`, which a test cannot use.
//! `redis-cli`, `sudo` and Spoke's programs are wrappers in a folder on the PATH, which use the Redis and the
//! settings of their machine.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use spoke_tests::{
    binaries::path_of,
    cloud::{Cloud, Settings, url},
    process::{Finished, Process, Start, run, write_secret},
    redis::{RedisServer, ShippedConf, free_port},
    service::Kind,
    wait::{PATIENCE, eventually, eventually_true},
};
use tempfile::TempDir;

/// Debian's Python, which has Debian's modules.
const PYTHON: &str = "/usr/bin/python3";
/// How to install missing programs.
const HOW_TO_INSTALL: &str = "run: scripts/setup redis docs";
/// Debian's folder for Node packages.
const NODE_PATH: &str = "/usr/share/nodejs";
/// The one-time secret in all documents.
const OTP_SECRET: &str = "GRZWE3CLNBBTK2LMIRFEM6CCI5WEQR3P";

/// Which machine a command is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// `dev1`
    Device,
    /// Where hub and auth run.
    Cloud,
}

/// A cloud, and a device whose agent runs once it is enrolled.
pub(crate) struct World {
    cloud: Cloud,
    device: RedisServer,
    agent: Option<Process>,
    agent_admin: String,
    folder: TempDir,
    scripts: usize,
}

/// A command that keeps running.
pub(crate) struct Running {
    process: Process,
    log: PathBuf,
}

impl World {
    /// Starts a cloud and a device that is not enrolled.
    pub(crate) async fn start() -> Self {
        let cloud = async {
            let redis = RedisServer::start_shipped(ShippedConf::Hub).await;
            Cloud::start_on(redis, Settings::default()).await
        };
        let device = RedisServer::start_shipped(ShippedConf::Device);
        let (cloud, device) = tokio::join!(cloud, device);
        let folder = tempfile::Builder::new().prefix("spoke-docs-").tempdir().unwrap();
        let agent_admin = format!("127.0.0.1:{}", free_port());
        let world = Self { cloud, device, agent: None, agent_admin, folder, scripts: 0 };
        for at in [At::Device, At::Cloud] {
            fs::create_dir_all(world.home(at).join("bin")).unwrap();
            fs::create_dir_all(world.settings(at)).unwrap();
            world.write_programs(at);
        }
        world
    }

    /// Starts a cloud and a device that is enrolled as `dev1` and whose agent is connected.
    pub(crate) async fn enrolled() -> Self {
        let mut world = Self::start().await;
        world.cloud.provision("dev1").await;
        let (auth, hub) = (world.auth(), world.hub());
        let line = format!(
            "spoke-agent enrol --client dev1 --auth {auth} --hub {hub} --otp-secret {OTP_SECRET}"
        );
        world.run(At::Device, "sh", &line).await.done();
        world.start_agent().await;
        world
    }

    /// Starts the agent, as systemd would, and waits until it is connected.
    pub(crate) async fn start_agent(&mut self) {
        let start = self.start_of(At::Device, &["run"]);
        let log = self.folder.path().join("agent.log");
        let program = self.home(At::Device).join("bin/spoke-agent");
        self.agent = Some(Process::start(&program, &start, &log));
        let is_connected = async || {
            let status = self.run_shell(At::Device, "spoke-agent status").await;
            status.stdout.contains("connected ")
        };
        eventually_true("the agent to be connected", is_connected).await;
    }

    /// Stops the agent, if it runs.
    pub(crate) async fn stop_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.terminate().await;
        }
    }

    /// Runs a program in this language to its end.
    pub(crate) async fn run(&mut self, at: At, language: &str, text: &str) -> Finished {
        let (program, start) = self.prepared(at, language, text).await;
        run(&program, &start).await
    }

    /// Starts a program that does not exit on its own, and waits until it blocks on Redis or has printed
    /// something.
    pub(crate) async fn begin(&mut self, at: At, language: &str, text: &str) -> Running {
        let before = self.blocked_clients(at).await;
        let (program, start) = self.prepared(at, language, text).await;
        let log = self.folder.path().join(format!("output-{}", self.scripts));
        let mut process = Process::start(&program, &start, &log);
        eventually("the program to wait for entries", PATIENCE, async || {
            if let Some(status) = process.exit() {
                panic!("the program ended with {status}: {}", process.log());
            }
            let is_begun = self.blocked_clients(at).await > before || !process.log().is_empty();
            is_begun.then_some(()).ok_or(text)
        })
        .await;
        Running { process, log }
    }

    /// Replaces the names, ports and folders of a document's text by those of this test.
    pub(crate) async fn substituted(&self, at: At, text: &str) -> String {
        let mut text = text.to_owned();
        for (shown, here) in self.substitutes(at).await {
            text = text.replace(shown, &here);
        }
        text
    }

    /// Writes a file of a document for later programs on this machine.
    pub(crate) async fn write(&self, at: At, name: &str, text: &str) {
        fs::write(self.home(at).join(name), self.substituted(at, text).await).unwrap();
    }

    async fn substitutes(&self, at: At) -> Vec<(&'static str, String)> {
        let (hub, auth) = (self.hub(), self.auth());
        let otp_secret: Option<String> =
            self.cloud.redis.command(&["HGET", "spoke-auth:client:dev1:h", "otpSecret"]).await;
        vec![
            ("wss://hub.example.com:8443", hub.replace("http://", "ws://")),
            ("https://hub.example.com:8443", hub),
            ("https://auth.example.com:8444", auth),
            ("redis://127.0.0.1:6379", self.redis(at).url()),
            ("127.0.0.1:9464", self.cloud.hub.admin().address().to_string()),
            ("127.0.0.1:9465", self.agent_admin.clone()),
            ("127.0.0.1:9466", self.cloud.auth.admin().address().to_string()),
            ("/etc/spoke", self.settings(at).display().to_string()),
            ("/var/lib/spoke-agent", self.state().display().to_string()),
            (OTP_SECRET, otp_secret.unwrap_or(OTP_SECRET.to_owned())),
        ]
    }

    async fn prepared(&mut self, at: At, language: &str, text: &str) -> (PathBuf, Start) {
        self.scripts += 1;
        let text = self.substituted(at, text).await;
        let file = self.home(at).join(format!("script-{}", self.scripts));
        // A user sees standard output and standard error.
        let first = if language == "sh" { "exec 2>&1\n" } else { "" };
        fs::write(&file, format!("{first}{text}")).unwrap();
        let file = file.display().to_string();
        let (program, arguments): (PathBuf, Vec<&str>) = match language {
            "sh" => (find_program("bash"), vec!["-euo", "pipefail", &file]),
            "python" => (find_program(PYTHON), vec!["-u", &file]),
            "javascript" => (find_program("node"), vec![&file]),
            "rust" => (path_of(text.trim()), vec![]),
            _ => panic!("cannot run {language}"),
        };
        (program, self.start_of(at, &arguments))
    }

    async fn run_shell(&self, at: At, line: &str) -> Finished {
        run(&find_program("bash"), &self.start_of(at, &["-c", line])).await
    }

    /// Arguments and environment of a command on this machine.
    fn start_of(&self, at: At, arguments: &[&str]) -> Start {
        let home = self.home(at);
        let path = format!("{}:{}", home.join("bin").display(), search_path());
        let mut start = Start::with(arguments);
        start.through = vec!["env".to_owned(), format!("--chdir={}", home.display())];
        start
            .variable("PATH", path)
            .variable("HOME", home.display())
            .variable("NODE_PATH", NODE_PATH)
            .variable("REDIS_URL", self.redis(at).url())
    }

    fn write_programs(&self, at: At) {
        let program = find_program("redis-cli");
        let redis_cli = format!("{} --no-raw -p {}", program.display(), self.redis(at).port());
        self.write_program(at, "redis-cli", &[], &redis_cli);
        self.write_program(at, "sudo", &[], "");
        // `ssh hub command`
        let cloud = self.home(At::Cloud).display().to_string();
        let line =
            format!("env --chdir={cloud} PATH={cloud}/bin:$PATH sh -c 'shift && exec \"$@\"' ssh");
        self.write_program(at, "ssh", &[], &line);
        let own = |name: &str| path_of(name).display().to_string();
        match at {
            At::Cloud => {
                for (service, kind) in
                    [(&self.cloud.hub, Kind::Hub), (&self.cloud.auth, Kind::Auth)]
                {
                    let mut variables = service.environment().to_vec();
                    if kind == Kind::Auth {
                        variables.push((kind.variable("auth_url"), self.auth()));
                        variables.push((kind.variable("hub_url"), self.hub()));
                    }
                    self.write_program(at, kind.program(), &variables, &own(kind.program()));
                }
            }
            At::Device => {
                let variables = [
                    ("REDIS", self.device.url()),
                    ("STATE_DIR", self.state().display().to_string()),
                    ("ADMIN_LISTEN", self.agent_admin.clone()),
                ];
                let variables =
                    variables.map(|(name, value)| (format!("SPOKE_AGENT_{name}"), value));
                let settings = self.settings(at).join("agent.toml");
                let line = format!("{} --config {}", own("spoke-agent"), settings.display());
                self.write_program(at, "spoke-agent", &variables, &line);
            }
        }
    }

    fn write_program(&self, at: At, name: &str, variables: &[(String, String)], line: &str) {
        let path = self.home(at).join("bin").join(name);
        let mut text = "#!/bin/sh\n".to_owned();
        for (variable, value) in variables {
            text.push_str(&format!("export {variable}='{value}'\n"));
        }
        text.push_str(&format!("exec {line} \"$@\"\n"));
        write_secret(&path, &text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    }

    async fn blocked_clients(&self, at: At) -> usize {
        let clients = self.redis(at).info("clients").await;
        let line = clients.lines().find_map(|line| line.strip_prefix("blocked_clients:"));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
    }

    pub(crate) fn redis(&self, at: At) -> &RedisServer {
        match at {
            At::Device => &self.device,
            At::Cloud => &self.cloud.redis,
        }
    }

    fn hub(&self) -> String {
        url(self.cloud.hub.address())
    }

    fn auth(&self) -> String {
        url(self.cloud.auth.address())
    }

    fn home(&self, at: At) -> PathBuf {
        self.folder.path().join(match at {
            At::Device => "device",
            At::Cloud => "cloud",
        })
    }

    fn settings(&self, at: At) -> PathBuf {
        self.home(at).join("etc")
    }

    fn state(&self) -> PathBuf {
        self.home(At::Device).join("state")
    }
}

impl Running {
    /// The output so far.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Kills the program.
    pub(crate) fn end(mut self) {
        self.process.kill9();
    }
}

/// Finds the real program of this name, outside the folder of wrappers.
fn find_program(name: &str) -> PathBuf {
    let paths = search_path();
    let found =
        std::env::split_paths(&paths).map(|folder| folder.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is missing; {HOW_TO_INSTALL}"))
}

/// The PATH of the test itself.
fn search_path() -> String {
    std::env::var("PATH").unwrap_or_default()
}
