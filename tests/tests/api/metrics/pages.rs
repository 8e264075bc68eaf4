//! What the services export.

use std::collections::BTreeSet;

use spoke_protocol::message::{Cursor, Frame};
use spoke_tests::{
    cloud::out,
    device::OUT,
    entries::numbered,
    service::Kind,
    single_service::Stand,
    wait::{PATIENCE, eventually, eventually_true},
    websocket::{hello, session},
};

use crate::metrics::{cloud_with_traffic, page, promtool, samples, value};

#[tokio::test]
async fn traffic_is_counted_at_both_ends_and_promtool_accepts_the_metrics() {
    let (cloud, device) = cloud_with_traffic().await;
    let hub = page(&cloud.hub.admin()).await;
    let agent = page(&device.admin()).await;
    let auth = page(&cloud.auth.admin()).await;
    for (service, page) in [("hub", &hub), ("agent", &agent)] {
        for (metric, expected) in [
            ("entries_total{direction=\"up\"}", 9.0),
            ("entries_total{direction=\"down\"}", 7.0),
            ("lost_entries_total{direction=\"up\",cause=\"trimmed\"}", 0.0),
            ("waiting_entries{direction=\"up\"}", 0.0),
            ("waiting_entries{direction=\"down\"}", 0.0),
            ("redis_up", 1.0),
        ] {
            assert_eq!(value(page, &format!("spoke_{service}_{metric}")), expected, "{metric}");
        }
        for metric in [
            "batches_total{direction=\"up\"}",
            "batches_total{direction=\"down\"}",
            "entry_bytes_total{direction=\"up\"}",
            "entry_bytes_total{direction=\"down\"}",
            "acknowledgement_seconds_count",
            "entry_age_seconds_count{direction=\"up\"}",
            "entry_age_seconds_count{direction=\"down\"}",
            "redis_seconds_count{redis=\"redis\"}",
            "redis_seconds_sum{redis=\"redis\"}",
        ] {
            assert!(value(page, &format!("spoke_{service}_{metric}")) > 0.0, "{service} {metric}");
        }
    }
    let dead = "spoke_agent_dead_entries_total{direction=\"up\",reason=\"reserved-field\"}";
    assert_eq!(value(&agent, dead), 1.0);
    assert_eq!(value(&agent, "spoke_agent_stream_entries{stream=\"dead\"}"), 1.0);
    assert_eq!(value(&agent, "spoke_agent_sessions_total{transport=\"ws\"}"), 1.0);
    assert_eq!(value(&hub, "spoke_hub_connections"), 1.0);
    assert_eq!(value(&hub, "spoke_hub_stream_entries{stream=\"in\"}"), 9.0);
    let registered = "spoke_auth_requests_total{route=\"/register\",status=\"200\"}";
    assert_eq!(value(&auth, registered), 1.0);
    assert!(value(&auth, "spoke_auth_bcrypt_seconds_count") >= 1.0);
    for page in [&hub, &agent, &auth] {
        assert!(!page.contains("dev1"), "client names are not labels: {page}");
        assert_is_well_formed(page);
        if let Some(output) = promtool(&["check", "metrics"], page) {
            assert_eq!(output, "", "promtool has no complaints");
        }
    }
}

/// Each name once, with HELP and TYPE before its samples, and each series once.
fn assert_is_well_formed(page: &str) {
    let (mut names, mut series) = (BTreeSet::new(), BTreeSet::new());
    let mut current = "";
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            current = help.split(' ').next().unwrap();
            assert!(names.insert(current), "{current} appears twice");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, current, "HELP comes first");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            assert!(line.starts_with(current), "{line} does not belong to {current}");
            assert!(series.insert(line.rsplit_once(' ').unwrap().0), "{line} appears twice");
        }
    }
    assert!(samples(page).len() > 20);
}

#[tokio::test]
async fn the_backlog_of_open_sessions_is_exported_without_redis_commands() {
    let stand = Stand::start(Kind::Hub, &[]).await;
    let admin = stand.service.admin();
    let without_clients = commands_per_request(&stand).await;

    let mut sockets = Vec::new();
    for n in 1..=20 {
        let client = format!("dev{n}");
        let api = stand.client(&client).await;
        let (socket, _) = session(api.address(), api.token().unwrap(), hello()).await;
        sockets.push(socket);
    }
    for n in 0..5 {
        stand.redis.add(&out("dev1"), &numbered(n)).await;
    }
    let is_pushed = |frame: &Frame| matches!(frame, Frame::Push(_));
    assert!(is_pushed(&sockets[0].frame().await));
    eventually_true("the backlog to be exported", async || {
        let page = page(&admin).await;
        let down = "{direction=\"down\"}";
        value(&page, &format!("spoke_hub_waiting_entries{down}")) == 5.0
            && value(&page, &format!("spoke_hub_waiting_sessions{down}")) == 1.0
            && value(&page, &format!("spoke_hub_oldest_waiting_age_seconds{down}")) > 0.0
    })
    .await;
    assert_eq!(commands_per_request(&stand).await, without_clients, "20 clients cost no command");

    drop(sockets);
    eventually_true("the backlog of ended sessions to be gone", async || {
        let page = page(&admin).await;
        value(&page, "spoke_hub_connections") == 0.0
            && value(&page, "spoke_hub_waiting_entries{direction=\"down\"}") == 0.0
            && value(&page, "spoke_hub_sessions_ended_total{cause=\"closed\"}")
                + value(&page, "spoke_hub_sessions_ended_total{cause=\"broken\"}")
                == 20.0
    })
    .await;
}

/// How many Redis commands `/metrics` costs: the fewest of a few requests, as a heartbeat may add to one.
async fn commands_per_request(stand: &Stand) -> u64 {
    let mut fewest = u64::MAX;
    for _ in 0..5 {
        let before = commands(stand).await;
        page(&stand.service.admin()).await;
        fewest = fewest.min(commands(stand).await - before);
    }
    fewest
}

async fn commands(stand: &Stand) -> u64 {
    let info = stand.redis.info("stats").await;
    let count = info.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
    count.unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn the_hub_exports_the_backlog_that_a_device_reports() {
    let stand = Stand::start(Kind::Hub, &[]).await;
    let api = stand.client("dev1").await;
    let mut hello = hello();
    hello.origin.added = 40;
    (hello.origin.first, hello.origin.last) = ("1-0".parse().unwrap(), "40-0".parse().unwrap());
    hello.cursor = Cursor::default();
    let (_socket, _) = session(api.address(), api.token().unwrap(), hello).await;
    eventually_true("the hub to export it", async || {
        let page = page(&stand.service.admin()).await;
        value(&page, "spoke_hub_waiting_entries{direction=\"up\"}") == 40.0
    })
    .await;
}

#[tokio::test]
async fn an_agent_without_a_hub_exports_its_backlog_and_why_its_session_ended() {
    let (mut cloud, device) = cloud_with_traffic().await;
    cloud.hub.kill9();
    for n in 0..5 {
        device.redis.add(OUT, &numbered(n)).await;
    }
    eventually("the agent to export it", PATIENCE, async || {
        let page = page(&device.admin()).await;
        let of = |series: &str| value(&page, &format!("spoke_agent_{series}"));
        let is_exported = of("connected") == 0.0
            && of("sessions_ended_total{cause=\"lost\"}") == 1.0
            && of("faults_total{cause=\"broken\"}") > 0.0
            && of("waiting_entries{direction=\"up\"}") == 5.0
            && of("oldest_waiting_age_seconds{direction=\"up\"}") > 0.0;
        if is_exported { Ok(()) } else { Err(page) }
    })
    .await;
}

#[tokio::test]
async fn metrics_are_served_while_redis_is_down_and_report_it() {
    for (kind, service) in [(Kind::Hub, "spoke_hub"), (Kind::Auth, "spoke_auth")] {
        let mut stand = Stand::start(kind, &[]).await;
        let admin = stand.service.admin();
        assert_eq!(value(&page(&admin).await, &format!("{service}_redis_up")), 1.0);
        stand.redis.kill9();
        page(&admin).await;
        let page = page(&admin).await;
        assert_eq!(value(&page, &format!("{service}_redis_up")), 0.0);
        let errors =
            format!("{service}_redis_errors_total{{redis=\"redis\",kind=\"unreachable\"}}");
        assert!(value(&page, &errors) > 0.0);
    }
}
