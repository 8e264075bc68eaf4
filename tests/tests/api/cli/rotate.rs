//! `spoke-agent rotate`: cut short at every step, the device gets in, and the next run makes it good.

use std::fs;

use serde_json::json;
use spoke_tests::{
    cloud::Cloud,
    device::{Device, OUT},
    entries::numbered,
    wait::eventually_true,
};

const KEY: &str = "spoke-auth:client:dev1:h";

/// A device that was let in.
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

async fn takes(cloud: &Cloud, secret: &str) -> bool {
    let body = json!({ "client": "dev1", "secret": secret });
    let answer = cloud.auth.api().post_json("/login", &body).await;
    assert!(matches!(answer.status, 200 | 401), "{answer:?}");
    answer.status == 200
}

/// The device logs in anew and carries an entry.
async fn gets_in(cloud: &Cloud, device: &mut Device) {
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

    let said = device.command(&["rotate"]).await.done().stdout;

    let new = file(&device, "secret").unwrap();
    assert!(new != old && file(&device, "secret.next").is_none());
    assert!(said.contains("dev1 has a new secret") && !said.contains(&new), "{said}");
    assert_eq!((takes(&cloud, &old).await, takes(&cloud, &new).await), (false, true));
    device.redis.add(OUT, &numbered(3)).await;
    device.carried_both_ways(&cloud).await;
    device.command(&["rotate"]).await.done();
    assert!(!takes(&cloud, &new).await, "and again");
}

/// A run that dies, and what it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// The next secret is on the disk, and auth has not heard of it.
    Untold,
    /// Auth takes both, and the device does not know.
    Unanswered,
    /// Auth takes the next one only, and the device does not know.
    Unkept,
}

async fn die(cloud: &Cloud, device: &Device, death: Death) {
    let has_next = async || cloud.redis.hash(KEY).await.contains_key("nextSecret");
    let kill = async |awaited: &str, is_reached: &dyn Fn(bool) -> bool| {
        let mut rotating = device.begin(&["rotate"]);
        eventually_true(awaited, async || {
            file(device, "secret.next").is_some() && is_reached(has_next().await)
        })
        .await;
        rotating.kill9();
    };
    match death {
        Death::Untold => {
            cloud.auth_proxy.black_hole();
            let before = cloud.auth_proxy.connections();
            let asks = |_| cloud.auth_proxy.connections() > before;
            kill("the request to be under way", &asks).await;
            assert!(!has_next().await);
        }
        Death::Unanswered => {
            cloud.auth_proxy.lose_downstream();
            kill("auth to have heard of it", &|has_next| has_next).await;
        }
        Death::Unkept => {
            cloud.auth_proxy.lose_downstream();
            kill("auth to have heard of it", &|has_next| has_next).await;
            kill("auth to go by it", &|has_next| !has_next).await;
        }
    }
    cloud.auth_proxy.cut();
    cloud.auth_proxy.restore();
}

#[tokio::test]
async fn after_a_kill_at_any_step_the_device_can_log_in_and_the_next_run_completes() {
    for death in [Death::Untold, Death::Unanswered, Death::Unkept] {
        for is_started_between in [false, true] {
            let cloud = Cloud::start().await;
            let mut device = enrolled(&cloud).await;
            device.stop_agent().await;
            let old = file(&device, "secret").unwrap();

            die(&cloud, &device, death).await;

            let next = file(&device, "secret.next").expect("it is kept until it is in its place");
            assert_eq!(file(&device, "secret").unwrap(), old, "{death:?}");
            if is_started_between {
                gets_in(&cloud, &mut device).await;
            }
            let is_made_good = file(&device, "secret") == Some(next.clone());
            let is_used = death == Death::Unkept;
            assert_eq!(is_made_good, is_started_between && is_used, "{death:?}");

            if !is_made_good {
                let checked = device.command(&["check"]).await.stdout;
                assert!(
                    checked.contains("is incomplete\n      help: spoke-agent rotate"),
                    "{checked}"
                );
                device.command(&["rotate"]).await.done();
            }

            assert_eq!(file(&device, "secret"), Some(next), "{death:?}: no third one is made");
            assert_eq!(file(&device, "secret.next"), None, "{death:?}");
            assert!(!takes(&cloud, &old).await, "{death:?}");
            gets_in(&cloud, &mut device).await;
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
    assert!(takes(&cloud, &old).await && !takes(&cloud, &new).await, "it knows the old one only");

    gets_in(&cloud, &mut device).await;

    assert!(device.log().contains("only the previous secret"), "{}", device.log());
    device.command(&["rotate"]).await.done();
    assert_eq!(file(&device, "secret"), Some(new), "the rotation is made good");
    assert!(!takes(&cloud, &old).await);
    gets_in(&cloud, &mut device).await;
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
    let nothing = device.command(&["rotate"]).await;
    assert_eq!(nothing.code, Some(1), "{nothing:?}");
    assert!(nothing.stderr.contains("spoke-agent enrol"), "{nothing:?}");
    let device = enrolled(&cloud).await;
    cloud.auth_proxy.refuse();
    let later = device.command(&["rotate"]).await;
    assert_eq!(later.code, Some(1), "{later:?}");
    assert!(later.stderr.contains("Resolve this, then run"), "{later:?}");
}
