//! `spoke-agent run` and `status`.

use spoke_tests::{
    cloud::Cloud,
    device::{Device, OUT},
    entries::numbered,
    redis::free_port,
    wait::{PATIENCE, eventually, eventually_is},
};

async fn with_admin(cloud: &Cloud) -> Device {
    let admin = format!("127.0.0.1:{}", free_port());
    Device::start_with(cloud, "dev1", &[("admin_listen", &admin)]).await
}

#[tokio::test]
async fn status_of_a_connected_agent_shows_its_transport_and_progress() {
    let cloud = Cloud::start().await;
    let device = with_admin(&cloud).await;
    let last = device.redis.add_all(OUT, &[numbered(1), numbered(2)]).await.pop().unwrap();
    device.acknowledged_both_ways(&cloud).await;

    let status = device.command(&["status", "--json"]).await.done().json();

    assert_eq!((&status["client"], &status["isRunning"]), (&"dev1".into(), &true.into()));
    assert_eq!(status["agent"]["state"], "connected", "{status}");
    assert_eq!(status["agent"]["transport"], "ws", "{status}");
    assert_eq!(status["redis"]["out"]["acked"], last.id, "{status}");
    assert_eq!(status["redis"]["waiting"]["entries"], 0, "{status}");
    let text = device.command(&["status"]).await.done().stdout;
    assert!(text.contains("connected"), "{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "wider than a terminal: {line}");
    }
}

#[tokio::test]
async fn status_watch_prints_the_status_repeatedly() {
    let cloud = Cloud::start().await;
    let mut device = with_admin(&cloud).await;
    device.start_through(&["timeout", "--preserve-status", "--signal=INT", "5"]);
    let watched = device.command(&["status", "--watch"]).await.done();
    assert!(watched.stdout.matches("waiting ").count() >= 2, "{watched:?}");
    assert!(!watched.stdout.contains('\x1b'), "without a terminal there are no escape sequences");
}

#[tokio::test]
async fn status_of_an_agent_that_cannot_connect_shows_the_cause_and_the_backlog() {
    let cloud = Cloud::start().await;
    cloud.hub_proxy.refuse();
    let device = with_admin(&cloud).await;
    let entries: Vec<_> = (0..7).map(numbered).collect();
    device.redis.add_all(OUT, &entries).await;
    let status = eventually("the status to show an error", PATIENCE, async || {
        let status = device.command(&["status", "--json"]).await.json();
        if status["agent"]["lastError"].is_object() { Ok(status) } else { Err(status) }
    })
    .await;
    assert_ne!(status["agent"]["state"], "connected", "{status}");
    assert_eq!(status["redis"]["waiting"]["entries"], 7, "{status}");
    assert!(status["redis"]["waiting"]["oldest"].is_string(), "{status}");
    let text = device.command(&["status"]).await.done().stdout;
    assert!(text.contains('7') && !text.contains("connected to"), "{text}");
}

#[tokio::test]
async fn status_without_a_running_agent_says_so_and_shows_the_backlog() {
    let cloud = Cloud::start().await;
    let admin = format!("127.0.0.1:{}", free_port());
    let device = Device::without_agent(&cloud, "dev1", &[("admin_listen", &admin)]).await;
    device.redis.add(OUT, &numbered(1)).await;
    let status = device.command(&["status", "--json"]).await.json();
    assert_eq!(status["isRunning"], false, "{status}");
    assert_eq!(status["redis"]["waiting"]["entries"], 1, "{status}");
    let text = device.command(&["status"]).await.stdout;
    assert!(text.contains("not run"), "{text}");
}

#[tokio::test]
async fn status_fails_if_redis_is_down_and_names_its_address() {
    let cloud = Cloud::start().await;
    let mut device = Device::without_agent(&cloud, "dev1", &[]).await;
    device.redis.kill9();
    let ended = device.command(&["status"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let port = device.redis.port().to_string();
    assert!(ended.stderr.contains(&port), "{ended:?}");
}

#[tokio::test]
async fn a_backlog_of_thousands_is_counted_or_reported_as_inexact() {
    let cloud = Cloud::start().await;
    let device = Device::without_agent(&cloud, "dev1", &[]).await;
    let entries: Vec<_> = (0..3000).map(numbered).collect();
    device.redis.add_all(OUT, &entries).await;
    let status = device.command(&["status", "--json"]).await.json();
    let waiting = &status["redis"]["waiting"];
    let count = waiting["entries"].as_u64().unwrap();
    match waiting["isExact"].as_bool().unwrap() {
        true => assert_eq!(count, 3000),
        false => assert!(count < 3000, "{status}"),
    }
}

#[tokio::test]
async fn health_and_metrics_are_on_the_admin_listener() {
    let cloud = Cloud::start().await;
    let device = with_admin(&cloud).await;
    device.redis.add(OUT, &numbered(1)).await;
    device.acknowledged_both_ways(&cloud).await;
    let admin = device.admin();
    assert_eq!(admin.get("/healthz").await.status, 200);
    assert_eq!(admin.get("/readyz").await.status, 200);
    assert_eq!(admin.get("/metrics").await.status, 200);
    cloud.hub_proxy.refuse();
    cloud.hub_proxy.cut();
    eventually_is("the agent to be not ready", 503, async || admin.get("/readyz").await.status)
        .await;
    assert_eq!(admin.get("/healthz").await.status, 200, "the agent is still alive");
}

#[tokio::test]
async fn an_agent_exits_with_0_on_sigterm_in_every_state() {
    let mut cloud = Cloud::start().await;
    let mut device = Device::start(&cloud, "dev1").await;
    device.redis.add(OUT, &numbered(1)).await;
    device.carried_both_ways(&cloud).await;
    assert_eq!(device.stop_agent().await.code(), Some(0), "connected");
    cloud.hub.kill9();
    device.start_agent();
    assert_eq!(device.stop_agent().await.code(), Some(0), "waiting for the hub");
    cloud.hub_proxy.black_hole();
    device.start_agent();
    assert_eq!(device.stop_agent().await.code(), Some(0), "in a handshake");
    device.redis.pause();
    device.start_agent();
    assert_eq!(device.stop_agent().await.code(), Some(0), "with a redis that hangs");
    device.redis.resume();
}

#[tokio::test]
async fn a_corrupt_secret_file_is_reported_and_never_replaced() {
    let cloud = Cloud::start().await;
    let mut device = Device::start(&cloud, "dev1").await;
    device.redis.add(OUT, &numbered(1)).await;
    device.carried_both_ways(&cloud).await;
    device.stop_agent().await;
    let path = device.folder().join("state/secret");
    for corrupt in ["", "short\n", "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"] {
        spoke_tests::process::write_secret(&path, corrupt);
        let ended = device.command(&["run"]).await;
        assert!(matches!(ended.code, Some(1 | 78)), "{ended:?}");
        assert!(ended.stderr.contains("secret") || ended.stdout.contains("secret"), "{ended:?}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), corrupt);
    }
}
