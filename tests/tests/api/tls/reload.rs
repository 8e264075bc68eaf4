//! What changes while a service runs: its certificate, and on SIGHUP its settings.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustls::pki_types::CertificateDer;
use serde_json::json;
use spoke_tests::{
    binaries::path_of,
    certificates::{Authority, Certificates, Valid},
    cloud::{Cloud, OTP_SECRET, admit, url},
    device::OUT,
    entries::numbered,
    process::{Process, Start, write_secret},
    redis::RedisServer,
    service::{Kind, Service},
    systemd::Systemd,
    wait::{PATIENCE, eventually, eventually_true},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::tls::connect;

/// A service with a settings file, and a socket that receives its notifications to systemd.
struct Running {
    service: Service,
    redis: RedisServer,
    systemd: Systemd,
    file: PathBuf,
    folder: TempDir,
}

const CAN_WRITE: &str = "the settings can be written";

impl Running {
    async fn start(kind: Kind, settings: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        Self::start_in(folder, kind, settings).await
    }

    async fn start_in(folder: TempDir, kind: Kind, settings: &str) -> Self {
        let file = folder.path().join("settings.toml");
        fs::write(&file, settings).expect(CAN_WRITE);
        let systemd = Systemd::listen(folder.path());
        let socket = systemd.variables()[0].clone();
        let environment = vec![(socket.0.to_owned(), socket.1)];
        let redis = RedisServer::start().await;
        let service = Service::start_from(environment, kind, &redis.url(), &file).await;
        Self { service, redis, systemd, file, folder }
    }

    /// Sends SIGHUP and returns what systemd received until the reload was over.
    async fn reload(&mut self, settings: &str) -> Vec<String> {
        fs::write(&self.file, settings).expect(CAN_WRITE);
        // Consumes the notifications of the start, READY=1 among them.
        eventually_true("the start to be over", async || {
            self.systemd.heard().iter().any(|line| line == "READY=1")
                || self.service.log().contains("settings reloaded")
        })
        .await;
        self.service.process().hang_up();
        let mut heard = Vec::new();
        eventually("systemd to receive the end of the reload", PATIENCE, async || {
            heard.extend(self.systemd.heard());
            let is_over = heard.iter().any(|line| line == "READY=1");
            if is_over { Ok(()) } else { Err(heard.clone()) }
        })
        .await;
        heard
    }
}

fn with_tls(files: &Certificates) -> String {
    files.settings().map(|(key, path)| format!("{key} = {path:?}\n")).concat()
}

/// The certificate that the service presents now.
async fn presented(files: &Certificates, service: &Service) -> CertificateDer<'static> {
    let stream = connect(files, service.address(), &[]).await.expect("the certificate is trusted");
    stream.get_ref().1.peer_certificates().expect("the service presents a certificate")[0]
        .clone()
        .into_owned()
}

#[tokio::test]
async fn new_connections_get_a_replaced_certificate_but_never_a_broken_one() {
    for kind in [Kind::Hub, Kind::Auth] {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::make(folder.path());
        let files = authority.issue(&["127.0.0.1"], Valid::Now);
        let running = Running::start_in(folder, kind, &with_tls(&files)).await;
        let mut kept = connect(&files, running.service.address(), &[]).await.unwrap();
        let first = presented(&files, &running.service).await;

        // Half of a renewal: a new key with the old certificate.
        let old = fs::read_to_string(&files.cert_file).unwrap();
        authority.issue(&["127.0.0.1"], Valid::Now);
        let new = fs::read_to_string(&files.cert_file).unwrap();
        fs::write(&files.cert_file, old).unwrap();
        eventually_true("the mismatch to be logged", async || {
            running.service.log().contains("not the key of the certificate")
        })
        .await;
        assert_eq!(presented(&files, &running.service).await, first);
        fs::remove_file(&files.cert_file).unwrap();
        eventually_true("the missing file to be logged", async || {
            running.service.log().contains("No such file or directory")
        })
        .await;
        assert_eq!(presented(&files, &running.service).await, first);
        fs::write(&files.cert_file, new).unwrap();
        eventually_true("the new certificate to be presented", async || {
            presented(&files, &running.service).await != first
        })
        .await;

        let request = b"GET /nowhere HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        // The connection may have been closed as idle, so the result does not matter.
        let _ = kept.write_all(request).await;
        let tail = running.service.log();
        let faults = tail.matches("failed to reload TLS certificate").count();
        assert_eq!(faults, 2, "each fault is logged once: {tail}");
        assert!(tail.contains("TLS certificate files are valid again"), "{tail}");
    }
}

#[tokio::test]
async fn on_sighup_a_hub_reloads_certificate_log_level_and_limits_and_warns_of_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::make(folder.path());
    let files = authority.issue(&["127.0.0.1"], Valid::Now);
    let tls = with_tls(&files);
    let begin = format!("{tls}log.level = \"info\"\nlog.format = \"json\"\n");
    let mut running = Running::start_in(folder, Kind::Hub, &begin).await;
    let first = presented(&files, &running.service).await;
    assert!(!running.service.log().contains("DEBUG"), "{}", running.service.log());

    authority.issue(&["127.0.0.1"], Valid::Now);
    let heard = running
        .reload(&format!(
            "{tls}log.level = \"debug\"\nlog.format = \"json\"\nconnections = 2\n\
             key_prefix = \"other\"\n"
        ))
        .await;

    assert_eq!(heard[0], "RELOADING=1", "{heard:?}");
    assert!(heard[1].starts_with("MONOTONIC_USEC="), "{heard:?}");
    assert_ne!(presented(&files, &running.service).await, first, "the certificate changes at once");
    let log = running.service.log();
    let warned = |key: &str| {
        let is_warning = |line: &&str| line.contains("only after a restart") && line.contains(key);
        log.lines().filter(is_warning).count()
    };
    assert_eq!(
        (warned("key_prefix"), warned("connections"), warned("log.level")),
        (1, 0, 0),
        "{log}"
    );
    let _held = [hold(&running.service).await, hold(&running.service).await];
    let mut third = TcpStream::connect(running.service.address()).await.unwrap();
    assert_eq!(third.read(&mut [0; 1]).await.unwrap_or(0), 0, "only two connections are allowed");
    // Connections are logged at level debug.
    eventually_true("a line of level debug", async || running.service.log().contains("DEBUG"))
        .await;
    drop(running.folder);
}

/// Opens a connection that the service accepts and keeps open.
async fn hold(service: &Service) -> TcpStream {
    eventually("a connection to be accepted", PATIENCE, async || {
        let mut stream = TcpStream::connect(service.address()).await.expect("the service listens");
        let brief = std::time::Duration::from_millis(100);
        match tokio::time::timeout(brief, stream.read(&mut [0; 1])).await {
            Err(_) => Ok(stream),
            Ok(ended) => Err(format!("{ended:?}")),
        }
    })
    .await
}

#[tokio::test]
async fn on_sighup_the_connection_limit_per_client_changes() {
    let mut running = Running::start(Kind::Hub, "").await;
    running.reload("connections_per_client = 1\n").await;
    let token = admit(&running.redis, "dev1").await;
    let hub = running.service.api().with_token(&token);
    let path = "/xread?seq=0-0&count=1&blockMs=30000";
    let first_to_end = tokio::select! {
        answer = hub.get(path) => answer,
        answer = hub.get(path) => answer,
    };
    assert_eq!(first_to_end.refusal(), (429, "too-many-connections".to_owned()));
}

#[tokio::test]
async fn invalid_settings_change_nothing_and_do_not_keep_systemd_waiting() {
    let mut running = Running::start(Kind::Auth, "throttle.login_burst = 5\n").await;
    let heard = running.reload("throttle.login_burst = 0\n").await;
    assert_eq!(heard[0], "RELOADING=1");
    let log = running.service.log();
    assert!(
        log.contains("keeping the current ones") && log.contains("throttle.login_burst"),
        "{log}"
    );
    assert_eq!(log_in(&running).await, 401);
}

async fn log_in(running: &Running) -> u16 {
    let body = json!({ "client": "dev1", "secret": "a-secret-that-nobody-has" });
    running.service.api().post_json("/login", &body).await.status
}

#[tokio::test]
async fn on_sighup_auth_reloads_throttling_and_its_bcrypt_pool() {
    let mut running = Running::start(Kind::Auth, "bcrypt_cost = 4\n").await;
    for _ in 0..3 {
        assert_eq!(log_in(&running).await, 401);
    }
    let settings = "bcrypt_cost = 4\nthrottle.login_burst = 4\nthrottle.login_per_minute = 1\n\
                    bcrypt_workers = 1\nbcrypt_queue = 0\nsession_ttl_seconds = 60\n";
    running.reload(settings).await;
    let log = running.service.log();
    let warnings: Vec<_> =
        log.lines().filter(|line| line.contains("only after a restart")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("session_ttl_seconds"), "{warnings:?}");
    let mut throttled = false;
    for _ in 0..6 {
        throttled |= log_in(&running).await == 429;
    }
    assert!(throttled, "30 logins at once were allowed before");
}

#[tokio::test]
async fn on_sighup_an_agent_reloads_its_log_level_and_warns_of_the_rest() {
    let cloud = Cloud::start().await;
    cloud.provision("dev1").await;
    let redis = RedisServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    write_secret(&folder.path().join("otp-secret"), OTP_SECRET);
    let path = |name: &str| folder.path().join(name);
    let settings = |level: &str, more: &str| {
        format!(
            "client = \"dev1\"\nauth = {:?}\nhub = {:?}\nredis = {:?}\nstate_dir = {:?}\n\
             otp_secret_file = {:?}\nadmin_listen = \"\"\nlog.level = {level:?}\n\
             log.format = \"json\"\n{more}",
            url(cloud.auth_proxy.address()),
            url(cloud.hub_proxy.address()),
            redis.url(),
            path("state"),
            path("otp-secret"),
        )
    };
    let file = path("agent.toml");
    fs::write(&file, settings("warn", "")).unwrap();
    let agent = start_agent(&file);
    redis.add(OUT, &numbered(1)).await;
    eventually_true("the entry to arrive", async || cloud.inbound().await.len() == 1).await;
    assert!(!agent.log().contains("INFO"), "{}", agent.log());

    fs::write(&file, settings("debug", "trim = \"keep\"\n")).unwrap();
    agent.hang_up();
    eventually_true("the agent to reload its settings", async || {
        agent.log().contains("settings reloaded")
    })
    .await;
    let log = agent.log();
    let warning = log.lines().find(|line| line.contains("only after a restart"));
    assert!(warning.is_some_and(|line| line.contains("trim")), "{log}");
    cloud.hub_proxy.cut();
    eventually_true("a line of level debug", async || agent.log().contains("DEBUG")).await;
}

fn start_agent(file: &Path) -> Process {
    let start = Start::with(&["run", "--config", file.to_str().expect("a path is text")]);
    Process::start(&path_of("spoke-agent"), &start, &file.with_extension("log"))
}
