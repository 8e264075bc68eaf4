//! Transports to the hub: WebSocket, HTTP as a fallback, TLS with a pinned CA.

use spoke_tests::{
    certificates::Certificates,
    cloud::{Cloud, Settings, out},
    device::{Device, OUT},
    entries::numbered,
    proxy::Direction,
    redis::free_port,
    wait::{PATIENCE, eventually, eventually_true},
};

use crate::carry::{added, assert_carried};

async fn assert_some_carried_each_way(cloud: &Cloud, device: &Device) {
    let entries: Vec<_> = (0..200).map(numbered).collect();
    device.redis.add_all(OUT, &entries).await;
    cloud.redis.add_all(&out(&device.client), &entries).await;
    let (up, down) = added(cloud, device).await;
    assert_carried(cloud, device, &up, &down).await;
}

#[tokio::test]
async fn the_agent_falls_back_to_http_if_websocket_upgrades_are_refused() {
    let cloud = Cloud::start().await;
    cloud.hub_proxy.refuse_upgrades();
    let device = Device::start(&cloud, "dev1").await;
    assert_some_carried_each_way(&cloud, &device).await;
}

#[tokio::test]
async fn with_transport_ws_the_agent_waits_for_a_websocket() {
    let cloud = Cloud::start().await;
    cloud.hub_proxy.refuse_upgrades();
    let device = Device::start_with(&cloud, "dev1", &[("transport", "ws")]).await;
    device.redis.add(OUT, &numbered(1)).await;
    eventually("three connection attempts", PATIENCE, async || {
        let tries = cloud.hub_proxy.connections();
        if tries >= 3 { Ok(()) } else { Err(tries) }
    })
    .await;
    assert_eq!(cloud.inbound().await.len(), 0, "the agent used another transport");
    cloud.hub_proxy.restore();
    assert_some_carried_each_way(&cloud, &device).await;
}

#[tokio::test]
async fn a_websocket_is_used_if_available_and_http_if_configured() {
    for (transport, used) in [("auto", "ws"), ("ws", "ws"), ("http", "http")] {
        let cloud = Cloud::start().await;
        let admin = format!("127.0.0.1:{}", free_port());
        let settings = [("transport", transport), ("admin_listen", &admin)];
        let device = Device::start_with(&cloud, "dev1", &settings).await;
        assert_some_carried_each_way(&cloud, &device).await;
        let status = device.admin().get("/status").await.ok();
        assert_eq!(status["transport"], used, "{status}");
    }
}

#[tokio::test]
async fn all_entries_arrive_over_tls_with_a_pinned_ca() {
    let folder = tempfile::tempdir().unwrap();
    let files = Certificates::make(folder.path());
    let path = |path: &std::path::Path| path.display().to_string();
    let (cert, key) = (path(&files.cert_file), path(&files.key_file));
    let tls = [("tls.cert_file", cert.as_str()), ("tls.key_file", key.as_str())];
    for transport in ["ws", "http"] {
        let cloud = Cloud::start_with(Settings { hub: &tls, auth: &tls }).await;
        let hub = format!("https://{}", cloud.hub_proxy.address());
        let auth = format!("https://{}", cloud.auth_proxy.address());
        let ca = path(&files.ca_file);
        let settings = [("transport", transport), ("hub", &hub), ("auth", &auth), ("ca_file", &ca)];
        let device = Device::start_with(&cloud, "dev1", &settings).await;
        assert_some_carried_each_way(&cloud, &device).await;
    }
}

#[tokio::test]
async fn an_agent_sends_nothing_to_a_hub_with_an_untrusted_certificate() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (trusted, other) = (Certificates::make(ours.path()), Certificates::make(theirs.path()));
    let path = |path: &std::path::Path| path.display().to_string();
    let (cert, key) = (path(&other.cert_file), path(&other.key_file));
    let tls = [("tls.cert_file", cert.as_str()), ("tls.key_file", key.as_str())];
    let cloud = Cloud::start_with(Settings { hub: &tls, auth: &[] }).await;
    let hub = format!("https://{}", cloud.hub_proxy.address());
    let ca = path(&trusted.ca_file);
    let settings = [("hub", hub.as_str()), ("ca_file", ca.as_str())];
    let device = Device::start_with(&cloud, "dev1", &settings).await;
    device.redis.add(OUT, &numbered(1)).await;
    eventually_true("three connection attempts", async || cloud.hub_proxy.connections() >= 3).await;
    assert_eq!(cloud.inbound().await.len(), 0);
    assert!(device.log().to_lowercase().contains("certificate"), "the log says why");
}

#[tokio::test]
async fn an_idle_agent_sends_nothing_for_seconds() {
    let cloud = Cloud::start().await;
    let device = Device::start_with(&cloud, "dev1", &[("transport", "ws")]).await;
    assert_some_carried_each_way(&cloud, &device).await;
    let carried = async || {
        let proxy = &cloud.hub_proxy;
        (proxy.connections(), proxy.bytes(Direction::Up), proxy.bytes(Direction::Down))
    };
    // The last acknowledgements may still be in flight when the copies are equal.
    let mut before = carried().await;
    eventually_true("the link to fall silent", async || {
        let now = carried().await;
        let is_silent = now == before;
        before = now;
        is_silent
    })
    .await;
    let quiet = std::time::Duration::from_secs(3);
    spoke_tests::wait::throughout("an idle link", quiet, before, carried).await;
}
