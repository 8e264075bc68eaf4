//! The rate of a client: what exceeds it is slowed down, and nothing is refused, lost or mistaken for a dead link.

use std::time::{Duration, Instant};

use serde_json::Value;
use spoke_tests::{
    binaries::path_of,
    checker::{assert_same, expected},
    cloud::{Cloud, IN, Settings},
    device::{Device, OUT},
    process::{Finished, Start, run},
    service::Service,
    wait::eventually_true,
};

/// The rate of the greedy client.
const RATE: &str = "20/s 1MB/s";
/// What it may send at once, by its burst of ten seconds.
const AT_ONCE: usize = 200;
/// Less than a batch of the default size would take at the rate, and the agent's time for an acknowledgement.
const PROGRESS_TIMEOUT_MS: &str = "5000";

async fn command(service: &Service, program: &str, arguments: &[&str]) -> Finished {
    let mut start = Start::with(arguments);
    start.environment = service.environment().to_vec();
    run(&path_of(program), &start).await.done()
}

async fn set_rate(cloud: &Cloud, client: &str, rate: &str) {
    command(&cloud.auth, "spoke-auth", &["set", client, "--rate", rate]).await;
}

/// The line of a client in `spoke-hub clients --json`.
async fn row(cloud: &Cloud, client: &str) -> Value {
    let list = command(&cloud.hub, "spoke-hub", &["clients", client, "--json"]).await.json();
    list[0].clone()
}

async fn publish(device: &Device, count: usize) {
    let adding = "for n = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'n', n) end";
    device.redis.command::<Option<u64>>(&["EVAL", adding, "1", OUT, &count.to_string()]).await;
}

async fn arrived(cloud: &Cloud, device: &Device) -> usize {
    cloud.carried(&device.client).await.len()
}

fn sessions(cloud: &Cloud, client: &str) -> usize {
    let log = cloud.hub.log();
    let is_start = |line: &&str| line.contains("session started") && line.contains(client);
    log.lines().filter(is_start).count()
}

async fn assert_nothing_lost(cloud: &Cloud, device: &Device) {
    let added = device.redis.entries(OUT).await;
    let what = format!("entries of {}", device.client);
    assert_same(&what, &expected(&added, Some(1)), &cloud.carried(&device.client).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_at_ten_times_its_rate_is_slowed_to_it_and_its_neighbour_is_not_delayed() {
    let cloud = Cloud::start_with(Settings { hub: &[("log.level", "info")], auth: &[] }).await;
    let timeout = [("progress_timeout_ms", PROGRESS_TIMEOUT_MS)];
    let greedy = Device::start_with(&cloud, "greedy", &timeout).await;
    let quiet = Device::start(&cloud, "quiet").await;
    for device in [&greedy, &quiet] {
        publish(device, 1).await;
        device.carried_both_ways(&cloud).await;
    }
    set_rate(&cloud, "greedy", RATE).await;
    eventually_true("the greedy client to reconnect", async || sessions(&cloud, "greedy") == 2)
        .await;

    // Ten times its rate for a second, and its burst before that.
    let begun = Instant::now();
    publish(&greedy, AT_ONCE).await;
    publish(&greedy, 200).await;
    let mut worst = Duration::ZERO;
    while begun.elapsed() < Duration::from_secs(6) {
        let (before, added) = (arrived(&cloud, &quiet).await, Instant::now());
        publish(&quiet, 1).await;
        eventually_true("the quiet client's entry", async || {
            arrived(&cloud, &quiet).await > before
        })
        .await;
        worst = worst.max(added.elapsed());
    }
    let sent = arrived(&cloud, &greedy).await - 1;
    let seconds = begun.elapsed().as_secs_f64();
    println!("{sent} entries of the greedy client in {seconds:.1} s; quiet: worst {worst:?}");
    // A batch of two seconds may be ahead of the burst.
    let allowed = AT_ONCE as f64 + 20.0 * seconds + 41.0;
    assert!(sent >= AT_ONCE && (sent as f64) < allowed, "{sent} of {allowed}");
    assert!(worst < Duration::from_secs(2), "the neighbour was delayed: {worst:?}");
    let row_of = row(&cloud, "greedy").await;
    assert_eq!(row_of["throttled"]["cause"], "rate", "{row_of}");
    assert!(row(&cloud, "quiet").await["throttled"].is_null());
    let table = command(&cloud.hub, "spoke-hub", &["clients"]).await.stdout;
    assert!(table.contains("1 throttled") && table.contains("it exceeds its rate"), "{table}");
    let page = cloud.hub.admin().get("/metrics").await.text;
    for line in [
        "spoke_hub_throttled_clients{cause=\"rate\"} 1",
        "spoke_hub_throttled_clients_total{cause=\"rate\"} 1",
    ] {
        assert!(page.lines().any(|own| own == line), "{line}: {page}");
    }

    greedy.carried_both_ways(&cloud).await;

    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(7), "400 entries took {took:?}");
    for device in [&greedy, &quiet] {
        assert_nothing_lost(&cloud, device).await;
    }
    assert_eq!(sessions(&cloud, "greedy"), 2, "no link was given up: {}", greedy.log());
    let log = cloud.hub.log();
    let throttled = log.lines().filter(|line| line.contains("client throttled; it exceeds"));
    assert_eq!(throttled.count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_that_is_lifted_or_removed_applies_within_seconds() {
    let cloud = Cloud::start_with(Settings { hub: &[("client_rate", RATE)], auth: &[] }).await;
    let greedy = Device::start(&cloud, "greedy").await;
    publish(&greedy, AT_ONCE + 2000).await;
    eventually_true("the client to be throttled", async || {
        !row(&cloud, "greedy").await["throttled"].is_null()
    })
    .await;

    let begun = Instant::now();
    set_rate(&cloud, "greedy", "none").await;
    greedy.carried_both_ways(&cloud).await;

    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_nothing_lost(&cloud, &greedy).await;
    let shown = command(&cloud.auth, "spoke-auth", &["show", "greedy", "--json"]).await.json();
    assert_eq!(shown["rate"], "none");
    set_rate(&cloud, "greedy", "default").await;
    let shown = command(&cloud.auth, "spoke-auth", &["show", "greedy", "--json"]).await.json();
    assert!(shown["rate"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_over_http_is_slowed_down_within_one_session() {
    let cloud = Cloud::start_with(Settings { hub: &[("client_rate", RATE)], auth: &[] }).await;
    let settings = [("transport", "http"), ("progress_timeout_ms", "20000")];
    let greedy = Device::start_with(&cloud, "greedy", &settings).await;
    publish(&greedy, AT_ONCE + 150).await;
    let begun = Instant::now();
    greedy.carried_both_ways(&cloud).await;
    assert!(begun.elapsed() > Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(cloud.redis.length(IN).await, AT_ONCE + 150);
    assert_nothing_lost(&cloud, &greedy).await;
    assert_eq!(sessions(&cloud, "greedy"), 1, "{}", greedy.log());
}
