//! An agent sends nothing to a hub or auth that it cannot verify, and says why and what to do.

use spoke_tests::{
    certificates::{Authority, Certificates, Valid},
    cloud::{Cloud, Settings},
    device::{Device, OUT},
    entries::numbered,
    forward_proxy::{ForwardProxy, Speaks},
    wait::{PATIENCE, eventually},
};

/// The certificate of the service, the CA that the agent trusts, and what its message contains.
struct Row {
    what: &'static str,
    shown: Certificates,
    trusted: String,
    words: [&'static str; 2],
    _folders: [tempfile::TempDir; 2],
}

fn rows() -> Vec<Row> {
    let loopback = ["127.0.0.1"];
    let table: [(_, &[&str], _, _, _); 4] = [
        (
            "wrong host",
            &["hub.example.com"],
            Valid::Now,
            true,
            ["is for hub.example.com and not for 127.0.0.1", "use one of its names"],
        ),
        ("expired", &loopback, Valid::Before, true, ["expired", "renew it"]),
        ("of the future", &loopback, Valid::Later, true, ["not valid yet", "clock"]),
        (
            "unknown CA",
            &loopback,
            Valid::Now,
            false,
            ["authority that is not trusted here", "ca_file"],
        ),
    ];
    let folder = || tempfile::tempdir().expect("a folder");
    let row = |(what, names, valid, is_trusted, words)| {
        let folders = [folder(), folder()];
        let shown = Authority::make(folders[0].path()).issue(names, valid);
        let other = Certificates::make(folders[1].path());
        let trusted = if is_trusted { shown.ca() } else { other.ca() };
        Row { what, shown, trusted, words, _folders: folders }
    };
    table.into_iter().map(row).collect()
}

/// Waits until one line of the agent's log contains these words, and checks that it has no TLS jargon.
async fn assert_logs(device: &Device, what: &str, words: [&str; 2]) {
    let line = eventually(&format!("the agent to log: {what}"), PATIENCE, async || {
        let log = device.log();
        let line = log.lines().find(|line| words.iter().all(|word| line.contains(word)));
        line.map(str::to_owned).ok_or(log)
    })
    .await;
    for jargon in ["UnknownIssuer", "InvalidCertificate", "DnsName", "(UNIX)"] {
        assert!(!line.contains(jargon), "{what}: {line}");
    }
}

#[tokio::test]
async fn an_untrusted_hub_is_refused_with_a_plain_message_over_websocket_and_http() {
    for row in rows() {
        let tls = row.shown.settings();
        let tls = [(tls[0].0, tls[0].1.as_str()), (tls[1].0, tls[1].1.as_str())];
        let cloud = Cloud::start_with(Settings { hub: &tls, auth: &[] }).await;
        let hub = format!("https://{}", cloud.hub_proxy.address());
        for transport in ["ws", "http"] {
            let client = format!("dev-{transport}");
            let settings = [("transport", transport), ("hub", &hub), ("ca_file", &row.trusted)];
            let device = Device::start_with(&cloud, &client, &settings).await;
            device.redis.add(OUT, &numbered(1)).await;
            assert_logs(&device, &format!("{} over {transport}", row.what), row.words).await;
            assert!(device.log().contains("\"reason\":\"untrusted\""), "{}", device.log());
            let checked = device.command(&["check"]).await;
            let is_reported = row.words.iter().all(|words| checked.stdout.contains(words));
            assert!(checked.code == Some(1) && is_reported, "{}: {checked:?}", row.what);
        }
        assert_eq!(cloud.inbound().await.len(), 0, "{}", row.what);
    }
}

#[tokio::test]
async fn an_untrusted_auth_is_refused_with_a_plain_message() {
    for row in rows() {
        let tls = row.shown.settings();
        let tls = [(tls[0].0, tls[0].1.as_str()), (tls[1].0, tls[1].1.as_str())];
        let cloud = Cloud::start_with(Settings { hub: &[], auth: &tls }).await;
        let auth = format!("https://{}", cloud.auth_proxy.address());
        let settings = [("auth", auth.as_str()), ("ca_file", &row.trusted)];
        let device = Device::start_with(&cloud, "dev1", &settings).await;
        assert_logs(&device, row.what, row.words).await;
        let stored = cloud.redis.hash("spoke-auth:client:dev1:h").await;
        assert!(!stored.contains_key("registeredAt"), "{}: {stored:?}", row.what);
    }
}

#[tokio::test]
async fn a_service_without_tls_at_an_https_url_is_reported_as_such() {
    let cloud = Cloud::start().await;
    let folder = tempfile::tempdir().unwrap();
    let ca = Certificates::make(folder.path()).ca();
    let hub = format!("https://{}", cloud.hub_proxy.address());
    let device = Device::start_with(&cloud, "dev1", &[("hub", &hub), ("ca_file", &ca)]).await;
    assert_logs(&device, "no TLS", ["does not speak TLS", "right port"]).await;
}

/// Only the proxy resolves the name, as only a router resolves names under `.lan`.
#[tokio::test]
async fn a_wildcard_over_a_single_label_is_reported_as_not_matching() {
    let folder = tempfile::tempdir().expect("a folder");
    let shown = Authority::make(folder.path()).issue(&["*.lan"], Valid::Now);
    let tls = shown.settings();
    let tls = [(tls[0].0, tls[0].1.as_str()), (tls[1].0, tls[1].1.as_str())];
    let cloud = Cloud::start_with(Settings { hub: &tls, auth: &[] }).await;
    let names = [("hub.lan", cloud.hub.address()), ("127.0.0.1", cloud.auth.address())];
    let proxy = ForwardProxy::start(Speaks::Http, &names, None).await;
    let (proxy, ca) = (format!("http://{}", proxy.address()), shown.ca());
    let settings = [("hub", "https://hub.lan:8443"), ("ca_file", &ca), ("proxy", &proxy)];
    let device = Device::start_with(&cloud, "dev1", &settings).await;
    let words =
        ["is for *.lan and not for hub.lan, since a wildcard over a single label", "full name"];
    assert_logs(&device, "a wildcard", words).await;
}
