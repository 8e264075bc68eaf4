//! The checks of `make image-check`: the images of a release as a device and a cloud, in containers of `crun`, on real
//! Redis servers.
//!
//! `scripts/check-image` unpacks the images. Root is needed, for the containers.

mod container;
mod stack;

use std::{panic::AssertUnwindSafe, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use futures_util::FutureExt;
use spoke_tests::{
    entries::numbered,
    redis::RedisServer,
    signals::signals,
    traffic::{FeedPace, Traffic, copy_lengths},
    wait::{PATIENCE, eventually, eventually_true},
};

use crate::{
    container::Container,
    stack::{CLIENT, Stack},
};

/// Entries each way before anything is stopped.
const ENTRIES: usize = 200;
/// Entries each way while a service is stopped, and those in the copies when it is.
const ENTRIES_AT_STOP: (usize, usize) = (1_000, 100);
/// Slow enough to stop a service meanwhile.
const PACE: FeedPace = (10, Duration::from_millis(20));

/// Checks the images of a release.
#[derive(Debug, Parser)]
#[command(name = "image_check")]
struct Arguments {
    /// The folder with the unpacked images: agent, hub and auth
    bundles: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The harness reports failures by panics.
    std::panic::set_hook(Box::new(|panic| {
        let words = panic.payload_as_str().unwrap_or("something went wrong");
        eprintln!("image-check: failed: {words}");
    }));
    // All containers end with this future, whether it completes, fails or is dropped.
    let checks = AssertUnwindSafe(check(arguments)).catch_unwind();
    tokio::select! {
        result = checks => match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        () = signals() => ExitCode::FAILURE,
    }
}

async fn check(arguments: Arguments) {
    let step = |text: &str| println!("image-check: {text}");
    let mut stack = Stack::prepare(&arguments.bundles).await;
    stack.auth.start().await;
    stack.hub.start().await;
    stack.provision().await;
    stack.agent.start().await;
    step("auth, the hub and the agent run as containers, with TLS, and their `health` is ok");
    eventually_true("the agent to register", async || stack.is_registered()).await;
    // From here on the agent has only what is in its volume.
    stack.agent.remove("otp-secret");
    for container in stack.containers() {
        container.assert_confined().await;
    }
    step("each is PID 1, user 65532, without capabilities, and cannot write outside of volumes");

    let mut traffic = Traffic::new(CLIENT, numbered);
    traffic.feed(&stack.device, &stack.cloud, ENTRIES, PACE).await;
    traffic.assert_carried(&stack.device, &stack.cloud, PATIENCE).await;
    step(&format!("{ENTRIES} entries each way are carried once, in order and unchanged"));

    let Stack { agent, hub, auth, device, cloud, .. } = &mut stack;
    for container in [agent, hub, auth] {
        let took = stop_meanwhile(container, device, cloud, &mut traffic).await.as_secs_f64();
        step(&format!("SIGTERM ends {} with 0 in {took:.2} s, as entries flow", container.name));
        container.start().await;
        traffic.assert_carried(device, cloud, PATIENCE).await;
        step(&format!("after its restart {} entries each way are carried once", traffic.count()));
    }
}

/// Adds entries at both ends and stops a container meanwhile. Returns how long it took to end.
async fn stop_meanwhile(
    container: &mut Container,
    device: &RedisServer,
    cloud: &RedisServer,
    traffic: &mut Traffic,
) -> Duration {
    let (more, before_stop) = ENTRIES_AT_STOP;
    let enough = traffic.count() + before_stop;
    let end = traffic.count() + more;
    let feeding = traffic.feed(device, cloud, more, PACE);
    let stopping = async {
        eventually("entries in both copies", PATIENCE, async || {
            let lengths = copy_lengths(device, cloud).await;
            let (up, down) = lengths;
            if up.min(down) >= enough { Ok(()) } else { Err(lengths) }
        })
        .await;
        let (up, down) = copy_lengths(device, cloud).await;
        assert!(up.max(down) < end, "{} is stopped too late", container.name);
        container.stop().await
    };
    tokio::join!(feeding, stopping).1
}
