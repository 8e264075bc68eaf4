//! `spoke-agent rotate`: after an interruption at any step the device can log in, and the next run completes it.

use std::fs;

use serde_json::json;
use spoke_tests::{
    cloud::Cloud,
    device::{Device, OUT},
    entries::numbered,
    wait::eventually_true,
};

const KEY: &str = "spoke-auth:client:dev1:h";

/// Starts a device that has connected.
async fn enrolled(cloud: &Cloud) -> Device {
    let device = Device::start(cloud, "dev1").await;
    device.redis.add(OUT, &numbered(1)).await;
    device.carried_both_ways(cloud).await;
    device
}

fn file(device: &Device, name: &str) -> Option<String> {
    let text = fs::read_to_string(device.folder().join("state").join(name)).ok()?;
    Some(text.trim_end().to_owned())
}

async fn accepts(cloud: &Cloud, secret: &str) -> bool {
    let body = json!({ "client": "dev1", "secret": secret });
    let answer = cloud.auth.api().post_json("/login", &body).await;
    assert!(matches!(answer.status, 200 | 401), "{answer:?}");
    answer.status == 200
}

/// Makes the device log in again and carry an entry.
async fn assert_can_log_in(cloud: &Cloud, device: &mut Device) {
    let _ = fs::remove_file(device.folder().join("state/session"));
    device.start_agent();
    device.redis.add(OUT, &numbered(2)).await;
    device.carried_both_ways(cloud).await;
    device.stop_agent().await;
}

#[tokio::test]
async fn rotating_while_the_agent_runs_gives_a_new_secret_and_invalidates_the_old_one() {
    let cloud = Cloud::start().await;
    let device = enrolled(&cloud).await;
    let old = file(&device, "secret").unwrap();

    let output = device.command(&["rotate"]).await.done().stdout;

    let new = file(&device, "secret").unwrap();
    assert!(new != old && file(&device, "secret.next").is_none());
    assert!(output.contains("dev1 has a new secret") && !output.contains(&new), "{output}");
    assert_eq!((accepts(&cloud, &old).await, accepts(&cloud, &new).await), (false, true));
    device.redis.add(OUT, &numbered(3)).await;
    device.carried_both_ways(&cloud).await;
    device.command(&["rotate"]).await.done();
    assert!(!accepts(&cloud, &new).await, "a second rotation works too");
}

/// The step at which a run is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KilledBefore {
    /// The next secret is on disk, and auth has not received it.
    Request,
    /// Auth accepts both secrets, and the device does not know.
    Answer,
    /// Auth accepts only the next secret, and the device does not know.
    LoginAnswer,
}

async fn interrupt(cloud: &Cloud, device: &Device, step: KilledBefore) {
    let has_next = async || cloud.redis.hash(KEY).await.contains_key("nextSecret");
    let kill = async |awaited: &str, is_reached: &dyn Fn(bool) -> bool| {
        let mut rotating = device.begin(&["rotate"]);
        eventually_true(awaited, async || {
            file(device, "secret.next").is_some() && is_reached(has_next().await)
        })
        .await;
        rotating.kill9();
    };
    match step {
        KilledBefore::Request => {
            cloud.auth_proxy.black_hole();
            let before = cloud.auth_proxy.connections();
            let is_sent = |_| cloud.auth_proxy.connections() > before;
            kill("the request to be sent", &is_sent).await;
            assert!(!has_next().await);
        }
        KilledBefore::Answer => {
            cloud.auth_proxy.lose_downstream();
            kill("auth to store the next secret", &|has_next| has_next).await;
        }
        KilledBefore::LoginAnswer => {
            cloud.auth_proxy.lose_downstream();
            kill("auth to store the next secret", &|has_next| has_next).await;
            kill("auth to accept only the next secret", &|has_next| !has_next).await;
        }
    }
    cloud.auth_proxy.cut();
    cloud.auth_proxy.restore();
}

#[tokio::test]
async fn after_a_kill_at_any_step_the_device_can_log_in_and_the_next_run_completes() {
    for step in [KilledBefore::Request, KilledBefore::Answer, KilledBefore::LoginAnswer] {
        for is_started_between in [false, true] {
            let cloud = Cloud::start().await;
            let mut device = enrolled(&cloud).await;
            device.stop_agent().await;
            let old = file(&device, "secret").unwrap();

            interrupt(&cloud, &device, step).await;

            let next =
                file(&device, "secret.next").expect("the next secret is kept until it is in place");
            assert_eq!(file(&device, "secret").unwrap(), old, "{step:?}");
            if is_started_between {
                assert_can_log_in(&cloud, &mut device).await;
            }
            let is_completed = file(&device, "secret") == Some(next.clone());
            let is_used = step == KilledBefore::LoginAnswer;
            assert_eq!(is_completed, is_started_between && is_used, "{step:?}");

            if !is_completed {
                let checked = device.command(&["check"]).await.stdout;
                assert!(
                    checked.contains("is incomplete\n      help: spoke-agent rotate"),
                    "{checked}"
                );
                device.command(&["rotate"]).await.done();
            }

            assert_eq!(file(&device, "secret"), Some(next), "{step:?}: no third secret is created");
            assert_eq!(file(&device, "secret.next"), None, "{step:?}");
            assert!(!accepts(&cloud, &old).await, "{step:?}");
            assert_can_log_in(&cloud, &mut device).await;
        }
    }
}

#[tokio::test]
async fn a_device_can_log_in_after_auth_is_restored_to_before_a_rotation() {
    let cloud = Cloud::start().await;
    let mut device = enrolled(&cloud).await;
    device.stop_agent().await;
    let before = cloud.redis.hash(KEY).await;
    let old = file(&device, "secret").unwrap();
    device.command(&["rotate"]).await.done();
    let new = file(&device, "secret").unwrap();
    cloud.redis.command::<()>(&["HSET", KEY, "secret", &before["secret"]]).await;
    assert!(
        accepts(&cloud, &old).await && !accepts(&cloud, &new).await,
        "auth accepts only the old secret"
    );

    assert_can_log_in(&cloud, &mut device).await;

    assert!(device.log().contains("only the previous secret"), "{}", device.log());
    device.command(&["rotate"]).await.done();
    assert_eq!(file(&device, "secret"), Some(new), "the rotation is completed");
    assert!(!accepts(&cloud, &old).await);
    assert_can_log_in(&cloud, &mut device).await;
}

#[tokio::test]
async fn rotate_of_a_device_unknown_to_auth_keeps_its_secret_and_says_so() {
    let cloud = Cloud::start().await;
    let mut device = enrolled(&cloud).await;
    device.stop_agent().await;
    let old = file(&device, "secret").unwrap();
    cloud.redis.command::<()>(&["DEL", KEY]).await;
    let refused = device.command(&["rotate"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("not rotated") && refused.stderr.contains("--again"));
    assert_eq!(file(&device, "secret"), Some(old));
}

#[tokio::test]
async fn rotate_without_a_secret_or_without_auth_says_what_to_do() {
    let cloud = Cloud::start().await;
    let device = Device::without_agent(&cloud, "dev1", &[]).await;
    let unenrolled = device.command(&["rotate"]).await;
    assert_eq!(unenrolled.code, Some(1), "{unenrolled:?}");
    assert!(unenrolled.stderr.contains("spoke-agent enrol"), "{unenrolled:?}");
    let device = enrolled(&cloud).await;
    cloud.auth_proxy.refuse();
    let unreachable = device.command(&["rotate"]).await;
    assert_eq!(unreachable.code, Some(1), "{unreachable:?}");
    assert!(unreachable.stderr.contains("Resolve this, then run"), "{unreachable:?}");
}
