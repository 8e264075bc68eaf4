//! Sessions that expire while auth is down for long: the agent buffers, retries occasionally, and
//! continues automatically when auth is back.

use std::time::Duration;

use spoke_tests::{
    checker::{assert_same, expected},
    cloud::{Cloud, out},
    device::{Device, OUT},
    redis::free_port,
    wait::{PATIENCE, eventually, eventually_true, throughout},
};

use crate::outages::{TRANSPORTS, add_down, add_up};

#[tokio::test]
async fn a_session_that_expires_while_auth_is_down_loses_nothing() {
    for transport in TRANSPORTS {
        let mut cloud = Cloud::start().await;
        let admin = format!("127.0.0.1:{}", free_port());
        let settings = [
            ("transport", transport),
            ("admin_listen", &*admin),
            ("trim", "acked"),
            ("trim_slack_entries", "0"),
        ];
        let mut device = Device::start_with(&cloud, "dev1", &settings).await;
        let before = add_up(&device, "before", 10).await;
        eventually_true("them to be acknowledged and trimmed", async || {
            device.redis.length(OUT).await == 0
        })
        .await;

        // As if days had passed: the session has expired, and auth cannot issue another.
        cloud.auth.kill9();
        cloud.redis.forget("spoke-auth:session:").await;
        assert_buffers(&device, "auth-unreachable", 0).await;
        let up = add_up(&device, "while auth is down", 50).await;
        let down = add_down(&cloud, &device, "while auth is down", 50).await;
        assert_buffers(&device, "auth-unreachable", 50).await;
        device.start_agent();
        assert_buffers(&device, "auth-unreachable", 50).await;
        throughout("nothing leaves the origins", Duration::from_secs(1), (50, 50), async || {
            (device.redis.length(OUT).await, cloud.redis.length(&out("dev1")).await)
        })
        .await;

        cloud.restart_auth().await;
        device.carried_both_ways(&cloud).await;
        let up = [before, up].concat();
        assert_same("up", &expected(&up, Some(1)), &cloud.carried("dev1").await);
        assert_same("down", &expected(&down, None), &device.carried().await);
    }
}

/// Waits until `status` shows this cause, and this many buffered entries.
async fn assert_buffers(device: &Device, cause: &str, entries: u64) {
    eventually(&format!("status to show {cause}"), PATIENCE, async || {
        let status = device.command(&["status", "--json"]).await.json();
        let agent = &status["agent"];
        match agent["why"]["cause"] == cause && status["redis"]["waiting"]["entries"] == entries {
            true => Ok(()),
            false => Err(status),
        }
    })
    .await;
}
