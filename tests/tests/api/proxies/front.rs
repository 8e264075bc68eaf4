//! The real nginx and HAProxy with the files of `deploy`, in which only names, addresses and paths
//! are replaced.

use std::{
    env, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use spoke_tests::{
    api::install_tls,
    certificates::Certificates,
    cloud::Cloud,
    process::{Process, Start},
    redis::free_port,
    service::Service,
    wait::{PATIENCE, eventually_true},
};

/// The address from which the proxy calls the services. No client has it.
pub(crate) const PROXY_ADDRESS: &str = "127.0.0.9";

/// Which proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Nginx,
    Haproxy,
}

/// A running proxy in front of a cloud, as `https://127.0.0.1` for the hub and `https://localhost`
/// for auth.
pub(crate) struct Front {
    pub(crate) port: u16,
    certificates: Certificates,
    process: Process,
}

impl Drop for Front {
    /// A killed master would leave its workers running; SIGTERM makes it end them.
    fn drop(&mut self) {
        self.process.ask_to_end();
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.process.exit().is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Front {
    /// Starts the proxy. Returns `None` and prints why if it is not installed.
    pub(crate) async fn start(kind: Kind, cloud: &Cloud) -> Option<Self> {
        Self::start_before(kind, cloud, &[&cloud.hub]).await
    }

    /// Starts the proxy in front of these hubs.
    pub(crate) async fn start_before(kind: Kind, cloud: &Cloud, hubs: &[&Service]) -> Option<Self> {
        let name = kind.program();
        let Some(program) = installed(name) else {
            println!("SKIPPED: {name} is not installed here; `scripts/setup proxies` does that");
            return None;
        };
        let (folder, port) = (cloud.folder(), free_port());
        let certificates = Certificates::make(folder);
        let (text, arguments) = match kind {
            Kind::Nginx => nginx(cloud, hubs, port, &certificates),
            Kind::Haproxy => haproxy(cloud, hubs, port, &certificates),
        };
        let file = folder.join(format!("{name}.conf"));
        fs::write(&file, text).expect("the folder can be written to");
        let mut start = Start::with(&arguments);
        start.arguments.push(file.display().to_string());
        let mut process = Process::start(&program, &start, &folder.join(format!("{name}.log")));
        eventually_true(&format!("{name} to listen"), async || {
            assert!(process.exit().is_none(), "{name} exited at once:\n{}", process.tail());
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        Some(Self { port, certificates, process })
    }

    /// The settings of a device that uses the proxy.
    pub(crate) fn settings(&self) -> [(&'static str, String); 3] {
        [
            ("auth", format!("https://localhost:{}", self.port)),
            ("hub", format!("https://127.0.0.1:{}", self.port)),
            ("ca_file", self.certificates.ca_file.display().to_string()),
        ]
    }

    /// An HTTP client that calls from this address.
    pub(crate) fn client_at(&self, address: &str) -> reqwest::Client {
        install_tls();
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(&self.certificates.ca_file);
        roots.add(ca.expect("the file is there")).expect("an authority can be trusted");
        let tls =
            ClientConfig::builder().with_root_certificates(Arc::new(roots)).with_no_client_auth();
        let address: IpAddr = address.parse().expect("an address");
        let client = reqwest::Client::builder().no_proxy().local_address(address).timeout(PATIENCE);
        client.tls_backend_preconfigured(tls).build().expect("a client can be made")
    }
}

impl Kind {
    fn program(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    /// The configuration file of `deploy`.
    pub(crate) fn shipped(self) -> String {
        let name = match self {
            Self::Nginx => "nginx/spoke.conf",
            Self::Haproxy => "haproxy/haproxy.cfg",
        };
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name))
            .expect("the file is there")
    }
}

fn installed(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian installs servers in /usr/sbin, which is not on every PATH.
    let folders = env::split_paths(&path).chain(["/usr/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Replaces texts of the file. Each must occur.
fn with(mut text: String, changes: &[(&str, String)]) -> String {
    for (from, to) in changes {
        assert!(text.contains(from), "there is no {from:?} in the file");
        text = text.replace(from, to);
    }
    text
}

/// The configuration and the arguments of the proxy.
type Written = (String, Vec<&'static str>);

fn nginx(cloud: &Cloud, hubs: &[&Service], port: u16, files: &Certificates) -> Written {
    let several = if hubs.len() > 1 { " max_fails=0" } else { "" };
    let hubs = hubs.iter().map(|hub| format!("server {}{several};\n", hub.address())).collect();
    let letsencrypt = "/etc/letsencrypt/live";
    let (cert, key) = (files.cert_file.display().to_string(), files.key_file.display().to_string());
    let site = with(
        Kind::Nginx.shipped(),
        &[
            (&format!("{letsencrypt}/hub.example.com/fullchain.pem"), cert.clone()),
            (&format!("{letsencrypt}/hub.example.com/privkey.pem"), key.clone()),
            (&format!("{letsencrypt}/auth.example.com/fullchain.pem"), cert),
            (&format!("{letsencrypt}/auth.example.com/privkey.pem"), key),
            ("hub.example.com", "127.0.0.1".to_owned()),
            ("auth.example.com", "localhost".to_owned()),
            ("listen 443 ssl;", format!("listen 127.0.0.1:{port} ssl;")),
            ("server 127.0.0.1:8443;", hubs),
            ("server 127.0.0.1:8444;", format!("server {};", cloud.auth.address())),
            (
                "proxy_http_version 1.1;",
                format!("proxy_http_version 1.1; proxy_bind {PROXY_ADDRESS};"),
            ),
        ],
    );
    let folder = cloud.folder().display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {folder}/{what};\n"))
        .concat();
    // A short form of Debian's main file around it. It keeps the user root, where the test runs as root.
    let text = format!(
        "daemon off;\nuser root;\npid {folder}/nginx.pid;\nerror_log stderr;\n\
         events {{ worker_connections 256; }}\nhttp {{\naccess_log off;\n{temporary}{site}}}\n"
    );
    (text, vec!["-e", "stderr", "-c"])
}

fn haproxy(cloud: &Cloud, hubs: &[&Service], port: u16, files: &Certificates) -> Written {
    let both = cloud.folder().join("both.pem");
    let read = |file| fs::read_to_string(file).expect("the file is there");
    let pem = [&files.cert_file, &files.key_file].map(read);
    fs::write(&both, pem.concat()).expect("the folder can be written to");
    let server = |name: &str, service: &Service| {
        let (address, admin) = (service.address(), service.admin().address());
        format!("    server {name} {address} source {PROXY_ADDRESS} check port {}\n", admin.port())
    };
    let hubs = hubs.iter().enumerate().map(|(n, hub)| server(&format!("hub{n}"), hub)).collect();
    let text = with(
        Kind::Haproxy.shipped(),
        &[
            // The limit of open files is low here.
            ("maxconn 50000", "maxconn 256".to_owned()),
            ("bind :443", format!("bind 127.0.0.1:{port}")),
            ("/etc/haproxy/spoke/", both.display().to_string()),
            ("hub.example.com", "127.0.0.1".to_owned()),
            ("auth.example.com", "localhost".to_owned()),
            ("    server hub1 127.0.0.1:8443 check port 9464\n", hubs),
            ("    server auth1 127.0.0.1:8444 check port 9466\n", server("auth1", &cloud.auth)),
        ],
    );
    (text, vec!["-db", "-f"])
}
