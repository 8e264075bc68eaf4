//! The traffic budget of a device: the link closes when it is used up, entries wait, an urgent one passes out of
//! the reserve with what is before it, and the count survives a kill.

use std::time::{Duration, Instant};

use serde_json::Value;
use spoke_tests::{
    checker::{assert_same, expected},
    cloud::{Cloud, now_ms},
    device::{Device, OUT},
    redis::free_port,
    wait::{eventually, eventually_true},
};

const BUDGET: u64 = 1_000_000;
const MINUTE_MS: u64 = 60_000;

/// The status of the running agent.
async fn agent(device: &Device) -> Value {
    device.command(&["status", "--json"]).await.json()["agent"].clone()
}

async fn publish(device: &Device, count: usize, level: &str) {
    let adding = "for n = 1, ARGV[1] do
        redis.call('XADD', KEYS[1], '*', 'level', ARGV[2], 'blob', string.rep('x', 1000)) end";
    let arguments = ["EVAL", adding, "1", OUT, &count.to_string(), level];
    device.redis.command::<Option<u64>>(&arguments).await;
}

async fn arrived(cloud: &Cloud, device: &Device) -> usize {
    cloud.carried(&device.client).await.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_budget_closes_the_link_until_the_period_ends_and_urgent_entries_pass_before() {
    let cloud = Cloud::start().await;
    let admin = format!("127.0.0.1:{}", free_port());
    let settings = [
        ("budget", "1MB/minute"),
        ("budget_urgent", "level=alarm"),
        ("compression", "false"),
        ("admin_listen", &admin),
    ];
    let mut device = Device::without_agent(&cloud, "dev1", &settings).await;
    // What follows takes some seconds, and the minute must not end within them.
    eventually("the first third of a minute", Duration::from_secs(45), async || {
        let passed = now_ms() % MINUTE_MS;
        if passed < MINUTE_MS / 3 { Ok(()) } else { Err(passed) }
    })
    .await;
    let minute = now_ms() / MINUTE_MS;
    device.start_agent();

    // Little waits at any time, so that it fits into the reserve.
    let mut added = 0;
    while agent(&device).await["budget"]["state"] != "reserve" {
        assert!(added < 1000, "a thousand entries take more than the budget");
        publish(&device, 20, "info").await;
        added += 20;
        let until = Instant::now() + Duration::from_millis(500);
        while arrived(&cloud, &device).await < added && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let open = arrived(&cloud, &device).await;
    assert!((700..1000).contains(&open), "{open} entries of more than 1 kB");

    publish(&device, 1, "info").await;
    let status = eventually("the agent to wait", Duration::from_secs(5), async || {
        let status = agent(&device).await;
        if status["state"] == "waiting" { Ok(status) } else { Err(status) }
    })
    .await;
    assert_eq!(status["why"]["cause"], "budget", "{status}");
    assert_eq!(status["nextTryMs"], (minute + 1) * MINUTE_MS, "{status}");
    let used = status["budget"]["used"].as_u64().expect("a number");
    assert!((BUDGET / 100 * 95..BUDGET).contains(&used), "{status}");
    let text = device.command(&["status"]).await.done().stdout;
    assert!(text.contains("of 1MB/minute used; the period ends in"), "{text}");
    assert!(text.contains("is for urgent entries"), "{text}");

    // The count survives a kill, and is not below what was used.
    device.kill_agent();
    device.start_agent();
    let after =
        eventually("the agent to have read its count", Duration::from_secs(5), async || {
            let status = agent(&device).await;
            status["budget"]["used"].as_u64().ok_or(status)
        })
        .await;
    assert!((used..used + BUDGET / 50).contains(&after), "{used}, then {after}");
    let waiting = device.redis.length(OUT).await - arrived(&cloud, &device).await;
    assert!(waiting > 0, "the last entry waits");

    publish(&device, 1, "alarm").await;
    let urgent = device.redis.length(OUT).await;
    eventually_true("the urgent entry", async || arrived(&cloud, &device).await >= urgent).await;
    assert_eq!(now_ms() / MINUTE_MS, minute, "the period has not ended");
    eventually_true("the link to be closed again", async || {
        agent(&device).await["state"] == "waiting"
    })
    .await;
    publish(&device, 50, "info").await;
    let early = arrived(&cloud, &device).await;
    assert_eq!(now_ms() / MINUTE_MS, minute, "the period has not ended");
    assert!(early < device.redis.length(OUT).await, "later entries wait");

    eventually("the next period", Duration::from_secs(70), async || {
        let (arrived, all) = (arrived(&cloud, &device).await, device.redis.length(OUT).await);
        if arrived == all { Ok(()) } else { Err((arrived, all)) }
    })
    .await;

    assert!(now_ms() / MINUTE_MS > minute);
    let added = device.redis.entries(OUT).await;
    assert_same("entries", &expected(&added, Some(1)), &cloud.carried("dev1").await);
    eventually_true("the new period's count", async || {
        agent(&device).await["budget"]["used"].as_u64().is_some_and(|used| used < BUDGET / 2)
    })
    .await;
    let page = device.admin().get("/metrics").await.text;
    assert!(page.contains("spoke_agent_budget_bytes 1000000\n"), "{page}");
}
