//! Metrics: what the services export, what that costs, and that alerts and dashboard use only metrics that
//! exist.

#![expect(clippy::unwrap_used, reason = "this is a test, its helpers included")]

mod files;
mod hosts;
mod pages;

use std::{io::Write, process::Stdio};

use spoke_tests::{
    api::Api,
    cloud::{Cloud, out},
    device::{Device, OUT},
    entries::{fields, numbered},
    redis::free_port,
    wait::eventually_true,
};

/// One sample of `/metrics`: its name, its labels and its value, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: String,
}

async fn page(admin: &Api) -> String {
    let answer = admin.get("/metrics").await;
    assert_eq!(answer.status, 200);
    answer.text
}

fn samples(page: &str) -> Vec<Sample> {
    page.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
    let label = |label: &str| {
        let (name, value) = label.split_once('=').unwrap();
        (name.to_owned(), value.trim_matches('"').to_owned())
    };
    Sample { name: name.to_owned(), labels: labels.map(label).collect(), value: value.to_owned() }
}

/// The value of a series, which is written as on the page.
fn value(page: &str, series: &str) -> f64 {
    let of = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
    let found = page.lines().find_map(of);
    found.unwrap_or_else(|| panic!("{series} is not in\n{page}"))
}

/// Runs `promtool` with a file on its standard input. Returns `None` if promtool is not installed.
fn promtool(arguments: &[&str], input: &str) -> Option<String> {
    let mut command = std::process::Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        eprintln!("SKIPPED: promtool is missing; scripts/setup prometheus installs it");
        return None;
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let messages =
        [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
    assert!(output.status.success(), "promtool {arguments:?}: {messages:?}");
    Some(messages.concat())
}

/// A cloud and a device after ten entries up, one of them a poison entry, and seven down.
async fn cloud_with_traffic() -> (Cloud, Device) {
    let cloud = Cloud::start().await;
    let admin = format!("127.0.0.1:{}", free_port());
    let device = Device::start_with(&cloud, "dev1", &[("admin_listen", &*admin)]).await;
    for n in 0..9 {
        device.redis.add(OUT, &numbered(n)).await;
    }
    device.redis.add(OUT, &fields([("client", "dev2")])).await;
    for n in 0..7 {
        cloud.redis.add(&out("dev1"), &numbered(n)).await;
    }
    device.acknowledged_both_ways(&cloud).await;
    eventually_true("all entries to be counted", async || {
        page(&cloud.hub.admin()).await.contains("spoke_hub_entries_total{direction=\"down\"} 7\n")
    })
    .await;
    (cloud, device)
}
