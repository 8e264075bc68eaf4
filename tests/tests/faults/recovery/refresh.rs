//! Tokens that are refreshed during a session, and transfers that outlast a token.

use std::{fs, time::Duration};

use rand::{RngCore, SeedableRng, rngs::StdRng};
use serde_json::Value;
use spoke_store::session_tokens::{digest, session_key};
use spoke_tests::{
    cloud::{Cloud, now_ms},
    device::{Device, OUT},
    wait::{eventually_is, eventually_true},
};

use crate::recovery::{TRANSPORTS, add_down, add_up, assert_all_carried};

/// The time that the token of a device is still valid when its agent starts.
const LEFT_MS: u64 = 4000;

/// A device whose agent runs with a token that expires soon, and the key of that session.
async fn with_expiring_token(cloud: &Cloud, transport: &str) -> (Device, String) {
    let mut device = Device::start_with(cloud, "dev1", &[("transport", transport)]).await;
    add_up(&device, "first", 10).await;
    device.carried_both_ways(cloud).await;
    device.stop_agent().await;
    let path = device.folder().join("state/session");
    let mut session: Value =
        serde_json::from_slice(&fs::read(&path).expect("the session file exists"))
            .expect("it is JSON");
    let (issued, expires) = (now_ms(), now_ms() + LEFT_MS);
    (session["issued_at_ms"], session["expires_at_ms"]) = (issued.into(), expires.into());
    fs::write(&path, session.to_string()).expect("it can be written");
    let key = session_key("spoke-auth", &digest(session["token"].as_str().expect("it has one")));
    let left = LEFT_MS.to_string();
    let is_set: u64 = cloud.redis.command(&["PEXPIRE", &key, &left]).await;
    assert_eq!(is_set, 1, "auth does not know the token");
    device.start_agent();
    (device, key)
}

async fn generation(cloud: &Cloud) -> String {
    cloud.redis.hash("spoke-hub:client:dev1:h").await["generation"].clone()
}

#[tokio::test]
async fn a_session_outlasts_the_token_that_it_began_with() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let (device, key) = with_expiring_token(&cloud, transport).await;
        add_up(&device, "second", 10).await;
        device.carried_both_ways(&cloud).await;
        let before = generation(&cloud).await;

        eventually_is("the old session to expire", 0, async || {
            cloud.redis.command::<u64>(&["EXISTS", &key]).await
        })
        .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        add_up(&device, "third", 10).await;
        add_down(&cloud, &device, "third", 10).await;
        assert_all_carried(&cloud, &device).await;

        assert_eq!(generation(&cloud).await, before, "{transport}: the session was replaced");
    }
}

#[tokio::test]
async fn an_entry_whose_transfer_outlasts_the_token_arrives() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let (device, key) = with_expiring_token(&cloud, transport).await;
        eventually_true("a session", async || {
            device.log()[..].matches("\"connected to hub\"").count() >= 2
        })
        .await;
        let before = generation(&cloud).await;
        // More than a hundred pieces, each delayed.
        cloud.hub_proxy.delay(Duration::from_millis(60));
        let mut large = vec![0; 500_000];
        StdRng::seed_from_u64(1).fill_bytes(&mut large);
        device.redis.add(OUT, &vec![(b"large".to_vec(), large)]).await;

        eventually_is("entries in the cloud", 11, async || cloud.carried("dev1").await.len()).await;

        let is_there: u64 = cloud.redis.command(&["EXISTS", &key]).await;
        assert_eq!(is_there, 0, "{transport}: the token is still valid");
        assert_eq!(generation(&cloud).await, before, "{transport}: the session was replaced");
    }
}

#[tokio::test]
async fn logging_out_the_refreshed_token_ends_the_session_of_the_old_one() {
    let cloud = Cloud::start().await;
    let (device, key) = with_expiring_token(&cloud, "ws").await;
    let path = device.folder().join("state/session");
    let token = || {
        let session: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        session["token"].as_str().unwrap().to_owned()
    };
    let old = key.clone();
    eventually_true("a new token", async || session_key("spoke-auth", &digest(&token())) != old)
        .await;
    let before = generation(&cloud).await;
    assert_eq!(cloud.auth.api().with_token(&token()).post("/logout").await.status, 204);
    eventually_true("another session", async || generation(&cloud).await != before).await;
    let is_there: u64 = cloud.redis.command(&["EXISTS", &key]).await;
    assert_eq!(is_there, 0, "the old token is still valid");
    add_up(&device, "after", 10).await;
    assert_all_carried(&cloud, &device).await;
}
