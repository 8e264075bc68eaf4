//! The admin listeners answer only if the Host header is an IP address, localhost or a name from the settings.
//! So a website whose name resolves to the service's address (DNS rebinding) learns nothing.

use spoke_tests::{
    api::Api,
    cloud::{Cloud, Settings},
    device::{Device, OUT},
    entries::numbered,
    redis::free_port,
    wait::eventually_true,
};

const HOSTS: (&str, &str) = ("admin_hosts", "spoke.example, hub1.internal");

/// The status line of the answer to a request with these header lines.
async fn status(admin: &Api, target: &str, head: &[&[u8]]) -> String {
    let mut request = format!("GET {target} HTTP/1.1\r\nconnection: close\r\n").into_bytes();
    for line in head {
        request.extend_from_slice(line);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let answer = admin.raw(&request).await;
    answer.lines().next().unwrap_or_default().to_owned()
}

fn is_misdirected(status: &str) -> bool {
    // A request that is not valid HTTP is refused with 400 before the host is checked.
    status.starts_with("HTTP/1.1 421") || status.starts_with("HTTP/1.1 400")
}

#[tokio::test]
async fn all_routes_of_the_admin_listeners_answer_only_under_known_host_names() {
    let cloud = Cloud::start_with(Settings { hub: &[HOSTS], auth: &[HOSTS] }).await;
    let address = format!("127.0.0.1:{}", free_port());
    let settings = [("admin_listen", &*address), HOSTS];
    let device = Device::start_with(&cloud, "dev1", &settings).await;
    device.redis.add(OUT, &numbered(1)).await;
    device.acknowledged_both_ways(&cloud).await;
    eventually_true("the agent to be ready", async || {
        device.admin().get("/readyz").await.status == 200
    })
    .await;
    let listeners = [
        (cloud.hub.admin(), &["/", "/live", "/clients/dev1", "/page.js"][..]),
        (cloud.auth.admin(), &[]),
        (device.admin(), &["/status"]),
    ];
    for (admin, own) in listeners {
        for path in [&["/healthz", "/readyz", "/metrics"], own].concat() {
            for host in
                ["127.0.0.1:9464", "[::1]", "localhost:9464", "spoke.example", "HUB1.internal:80"]
            {
                // `/live` is an endless stream.
                if path == "/live" {
                    continue;
                }
                let line = format!("host: {host}");
                let status = status(&admin, path, &[line.as_bytes()]).await;
                assert!(status.starts_with("HTTP/1.1 200"), "{path} as {host}: {status}");
            }
            let unknown_hosts: [&[&[u8]]; 9] = [
                &[b"host: evil.example"],
                &[b"host: evil.example:9464"],
                &[b"host: 127.0.0.1.evil.example"],
                &[b"host: evil@127.0.0.1"],
                &[b"host: \xff\xfe"],
                &[b"host: 127.0.0.1\xff"],
                &[b"host: "],
                &[b"host: 127.0.0.1", b"host: evil.example"],
                &[],
            ];
            for head in unknown_hosts {
                let status = status(&admin, path, head).await;
                let words: Vec<_> = head.iter().map(|line| String::from_utf8_lossy(line)).collect();
                assert!(is_misdirected(&status), "{path} with {words:?}: {status}");
            }
            let absolute = format!("http://evil.example{path}");
            let status = status(&admin, &absolute, &[b"host: 127.0.0.1"]).await;
            assert!(is_misdirected(&status), "{absolute}: {status}");
        }
        let unknown_path = status(&admin, "/nowhere", &[b"host: evil.example"]).await;
        assert!(
            is_misdirected(&unknown_path),
            "an unknown path is not revealed either: {unknown_path}"
        );
    }
}

#[tokio::test]
async fn a_refused_host_name_is_reported_with_the_setting_that_allows_it() {
    let cloud = Cloud::start().await;
    let request = cloud.hub.admin().request(reqwest::Method::GET, "/metrics");
    let answer = cloud.hub.admin().call(request.header("host", "prometheus.example")).await;
    assert_eq!(answer.refusal(), (421, "unknown-host".to_owned()));
    let message = answer.message();
    assert!(message.contains("prometheus.example") && message.contains("admin_hosts"), "{message}");
}
