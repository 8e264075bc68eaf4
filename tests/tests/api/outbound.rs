//! Every outgoing call of a device uses the same proxy: each call with each proxy setting. The cloud's host
//! names resolve only at the proxy.

use std::path::{Path, PathBuf};

use spoke_tests::{
    binaries::path_of,
    certificates::{Authority, Valid},
    cloud::{Cloud, OTP_SECRET, Settings, now_ms, provision},
    device::OUT,
    entries::numbered,
    forward_proxy::{ForwardProxy, Speaks},
    process::{Finished, Process, Start, run},
    redis::RedisServer,
    wait::{eventually_is, eventually_true},
};
use tempfile::TempDir;

const HUB: &str = "hub.spoke.test";
const AUTH: &str = "auth.spoke.test";

/// Whether the services use TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Tls,
    Plain,
}

/// A cloud that is reached through proxies.
struct World {
    cloud: Cloud,
    link: Link,
    ca: PathBuf,
    _certificates: TempDir,
}

impl World {
    async fn start(link: Link) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let files = Authority::make(folder.path()).issue(&[HUB, AUTH], Valid::Now);
        let tls = files.settings();
        let tls: Vec<_> = tls.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let own = if link == Link::Tls { tls.as_slice() } else { &[] };
        let cloud = Cloud::start_with(Settings { hub: own, auth: own }).await;
        Self { cloud, link, ca: files.ca_file, _certificates: folder }
    }

    async fn proxy(&self, speaks: Speaks, credentials: Option<(&str, &str)>) -> ForwardProxy {
        let names = [(HUB, self.cloud.hub.address()), (AUTH, self.cloud.auth.address())];
        ForwardProxy::start(speaks, &names, credentials).await
    }

    fn url(&self, name: &str) -> String {
        let scheme = if self.link == Link::Tls { "https" } else { "http" };
        format!("{scheme}://{name}:8443")
    }
}

/// A device that is not enrolled yet.
struct Device<'a> {
    world: &'a World,
    client: String,
    redis: RedisServer,
    folder: TempDir,
    environment: Vec<(String, String)>,
}

impl<'a> Device<'a> {
    async fn new(world: &'a World, client: &str, environment: &[(&str, String)]) -> Self {
        provision(&world.cloud.redis, client, now_ms() + 3_600_000).await;
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let folder = tempfile::tempdir().expect("a folder can be made");
        let redis = RedisServer::start().await;
        Self { world, client: client.to_owned(), redis, folder, environment }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn start(&self, arguments: &[&str]) -> Start {
        let mut start = Start::with(arguments)
            .variable("SPOKE_AGENT_ALLOW_PLAINTEXT", "true")
            .variable("SPOKE_AGENT_ADMIN_LISTEN", "")
            .variable("SPOKE_AGENT_RETRY_FIRST_MS", "20")
            .variable("SPOKE_AGENT_RETRY_LONGEST_MS", "200");
        if self.world.link == Link::Tls {
            start = start.variable("SPOKE_AGENT_CA_FILE", self.world.ca.display());
        }
        for (name, value) in &self.environment {
            start = start.variable(name, value);
        }
        start
    }

    async fn command(&self, arguments: &[&str]) -> Finished {
        run(&path_of("spoke-agent"), &self.start(arguments)).await
    }

    async fn enrol(&self) -> Finished {
        let (auth, hub) = (self.world.url(AUTH), self.world.url(HUB));
        let (config, state, redis) =
            (self.path("agent.toml"), self.path("state"), self.redis.url());
        self.command(&[
            "enrol",
            "--client",
            &self.client,
            "--auth",
            &auth,
            "--hub",
            &hub,
            "--redis",
            &redis,
            "--otp-secret",
            OTP_SECRET,
            "--state-dir",
            &state,
            "--config",
            &config,
            "--no-start",
        ])
        .await
    }

    fn start_agent(&self, transport: &str) -> Process {
        let config = self.path("agent.toml");
        let start = self.start(&["run", "--config", &config]);
        let start = start.variable("SPOKE_AGENT_TRANSPORT", transport);
        let log = self.folder.path().join(format!("{transport}.log"));
        Process::start(&path_of("spoke-agent"), &start, Path::new(&log))
    }

    /// Starts the agent with this transport, adds an entry, and waits until the cloud has `count` entries.
    async fn assert_carries(&self, transport: &str, count: usize) {
        let mut agent = self.start_agent(transport);
        self.redis.add(OUT, &numbered(count)).await;
        eventually_is("the entries to be in the cloud", count, async || {
            self.world.cloud.carried(&self.client).await.len()
        })
        .await;
        agent.terminate().await;
    }
}

/// Enrols, checks, carries over both transports and rotates: all of it through the proxy.
async fn assert_all_through_proxy(
    world: &World,
    proxy: &ForwardProxy,
    client: &str,
    settings: &[(&str, String)],
) {
    let device = Device::new(world, client, settings).await;
    let note = "through the proxy";

    let enrolled = device.enrol().await.done();
    assert!(enrolled.stderr.matches(note).count() == 2, "{settings:?}: {enrolled:?}");
    let calls = proxy.take_asked();
    assert!(calls.iter().any(|call| call.ends_with(AUTH)), "{settings:?}: {calls:?}");
    assert!(calls.iter().any(|call| call.ends_with(HUB)), "{settings:?}: {calls:?}");

    let config = device.path("agent.toml");
    let checked = device.command(&["check", "--config", &config]).await;
    let lines: Vec<_> = checked.stdout.lines().filter(|line| line.contains(note)).collect();
    assert!(
        lines.len() == 2 && lines.iter().all(|line| line.starts_with("ok")),
        "{settings:?}: {checked:?}"
    );
    assert!(!checked.stdout.contains("s3cret"), "{checked:?}");
    assert!(proxy.take_asked().len() >= 2, "{settings:?}");

    device.assert_carries("ws", 1).await;
    let calls = proxy.take_asked();
    let is_tunnel = |call: &String| !call.starts_with("GET") && call.ends_with(HUB);
    assert!(calls.iter().any(is_tunnel), "{settings:?}: {calls:?}");
    device.assert_carries("http", 2).await;
    assert!(proxy.take_asked().iter().any(|call| call.ends_with(HUB)), "{settings:?}");

    device.command(&["rotate", "--config", &config]).await.done();
    assert!(proxy.take_asked().iter().any(|call| call.ends_with(AUTH)), "{settings:?}");
}

#[tokio::test]
async fn every_call_uses_the_proxy_of_the_setting_or_of_the_environment() {
    let user = Some(("dev", "s3cret/@"));
    for link in [Link::Tls, Link::Plain] {
        let world = World::start(link).await;
        let open = world.proxy(Speaks::Http, None).await;
        let closed = world.proxy(Speaks::Http, user).await;
        let socks = world.proxy(Speaks::Socks, None).await;
        let closed_socks = world.proxy(Speaks::Socks, user).await;
        let url = |proxy: &ForwardProxy| format!("http://{}", proxy.address());
        let with_user = |scheme: &str, proxy: &ForwardProxy| {
            format!("{scheme}://dev:s3cret%2F%40@{}", proxy.address())
        };
        let (upper, lower) = match link {
            Link::Tls => ("HTTPS_PROXY", "https_proxy"),
            Link::Plain => ("HTTP_PROXY", "http_proxy"),
        };
        let dead_proxy = || ("ALL_PROXY", "http://127.0.0.1:1".to_owned());
        let table: [(&ForwardProxy, Vec<(&str, String)>); 8] = [
            (&open, vec![(upper, url(&open))]),
            (&open, vec![(lower, url(&open)), ("NO_PROXY", "other.test".to_owned())]),
            (&open, vec![("ALL_PROXY", url(&open))]),
            (&closed, vec![(upper, with_user("http", &closed)), dead_proxy()]),
            (&open, vec![("SPOKE_AGENT_PROXY", url(&open)), dead_proxy()]),
            (
                &closed,
                vec![
                    ("SPOKE_AGENT_PROXY", with_user("http", &closed)),
                    ("NO_PROXY", "*".to_owned()),
                ],
            ),
            (&socks, vec![("all_proxy", format!("socks5h://{}", socks.address()))]),
            (&closed_socks, vec![("SPOKE_AGENT_PROXY", with_user("socks5", &closed_socks))]),
        ];
        for (index, (proxy, settings)) in table.into_iter().enumerate() {
            assert_all_through_proxy(&world, proxy, &format!("dev{index}"), &settings).await;
        }
    }
}

#[tokio::test]
async fn without_a_proxy_calls_go_direct_and_report_that_the_name_does_not_resolve() {
    let world = World::start(Link::Tls).await;
    let proxy = world.proxy(Speaks::Http, None).await;
    let url = format!("http://{}", proxy.address());
    for settings in [
        vec![("HTTPS_PROXY", url.clone()), ("SPOKE_AGENT_PROXY", String::new())],
        vec![("HTTPS_PROXY", url.clone()), ("NO_PROXY", "spoke.test".to_owned())],
        vec![("https_proxy", url.clone()), ("no_proxy", "a.test, .spoke.test".to_owned())],
        vec![("HTTP_PROXY", url.clone())],
        vec![],
    ] {
        let device = Device::new(&world, "dev1", &settings).await;
        let enrolled = device.enrol().await;
        assert!(enrolled.code != Some(0), "{settings:?}");
        let config = device.path("agent.toml");
        let checked = device.command(&["check", "--config", &config]).await;
        for output in [&enrolled.stderr, &checked.stdout] {
            assert!(output.contains("failed to lookup address"), "{settings:?}: {output}");
            assert!(!output.contains("through the proxy"), "{settings:?}: {output}");
        }
        assert_eq!(proxy.take_asked(), [""; 0], "{settings:?}");
    }
}

#[tokio::test]
async fn a_proxy_that_refuses_is_reported_with_its_answer() {
    let world = World::start(Link::Tls).await;
    let proxy = world.proxy(Speaks::Http, Some(("dev", "s3cret"))).await;
    let socks = world.proxy(Speaks::Socks, Some(("dev", "s3cret"))).await;
    let (address, socks_at) = (proxy.address(), socks.address());
    for (setting, expected) in [
        (format!("http://{address}"), "407"),
        (format!("http://dev:wr0ng@{address}"), "requires a user and a password"),
        ("http://127.0.0.1:1".to_owned(), "Connection refused"),
        (format!("socks5://dev:wr0ng@{socks_at}"), "SOCKS5"),
    ] {
        let device = Device::new(&world, "dev1", &[("SPOKE_AGENT_PROXY", setting.clone())]).await;
        let output = device.enrol().await;
        assert!(output.stderr.contains(expected), "{setting}: {output:?}");
        assert!(output.stderr.contains("proxy") && !output.stderr.contains("wr0ng"), "{output:?}");
    }
    for bad in ["ftp://dev:s3cret@p", "http://dev:s3#cret@p"] {
        for name in ["SPOKE_AGENT_PROXY", "HTTPS_PROXY"] {
            let device = Device::new(&world, "dev1", &[(name, bad.to_owned())]).await;
            let output = device.enrol().await;
            assert!(output.code != Some(0) && output.stderr.contains(name), "{bad}: {output:?}");
            assert!(!output.stderr.contains("s3"), "{output:?}");
        }
    }
}

#[tokio::test]
async fn transport_auto_falls_back_to_http_behind_a_proxy_without_tunnels() {
    let world = World::start(Link::Plain).await;
    let proxy = world.proxy(Speaks::HttpNoTunnel, None).await;
    let settings = [("SPOKE_AGENT_PROXY", format!("http://{}", proxy.address()))];
    let device = Device::new(&world, "dev1", &settings).await;
    device.enrol().await.done();
    let agent = device.start_agent("auto");
    device.redis.add(OUT, &numbered(1)).await;
    eventually_true("the entry to be in the cloud", async || {
        !world.cloud.carried("dev1").await.is_empty()
    })
    .await;
    drop(agent);
    let calls = proxy.take_asked();
    assert!(calls.contains(&format!("POST {HUB}")), "{calls:?}");
}
