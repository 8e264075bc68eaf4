//! Authentication, and which streams a client may use.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;
use spoke_store::session_tokens::{digest, session_key};
use spoke_tests::{
    entries::numbered,
    service::Kind,
    single_service::Stand,
    wait::{PATIENCE, eventually},
};

use crate::hub_http::{OUT, assert_read_waits, carried, entry_body, hub, inbound};

const PATHS: [(Method, &str); 4] = [
    (Method::GET, "/seq"),
    (Method::POST, "/xadd"),
    (Method::GET, "/xread"),
    (Method::GET, "/sync"),
];

#[tokio::test]
async fn every_endpoint_refuses_requests_without_a_valid_session() {
    let stand = hub().await;
    let api = stand.api();
    let live = stand.client("dev1").await.token().unwrap().to_owned();
    let unknown = "A".repeat(43);
    for (method, path) in PATHS {
        let bearers = [None, Some(""), Some("x"), Some(unknown.as_str()), Some(&digest(&live))]
            .map(|token| token.map(|token| format!("Bearer {token}")));
        let others = [Some(format!("Basic {live}")), Some(live.clone())];
        for authorization in bearers.into_iter().chain(others) {
            let mut request = api.request(method.clone(), path).json(&entry_body("1-0", 1));
            if let Some(value) = &authorization {
                request = request.header("authorization", value);
            }
            let answer = api.call(request).await;
            assert_eq!(answer.refusal().0, 401, "{path} {authorization:?}: {answer:?}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{path}");
        }
    }
    assert_eq!(inbound(&stand.redis).await.len(), 0);
}

#[tokio::test]
async fn a_token_in_the_url_is_refused_even_if_it_is_valid() {
    let stand = hub().await;
    let api = stand.api();
    let live = stand.client("dev1").await.token().unwrap().to_owned();
    for (method, path) in PATHS {
        for name in ["token", "access_token", "sessionToken"] {
            let request = api.request(method.clone(), &format!("{path}?{name}={live}"));
            let answer = api.call(request.json(&entry_body("1-0", 1))).await;
            assert_eq!(answer.refusal(), (400, "token-in-url".to_owned()), "{path}?{name}");
        }
    }
    assert!(!stand.service.log().contains(&live), "the token is in the log");
}

#[tokio::test]
async fn requests_are_refused_once_their_session_has_ended() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    dev1.get("/seq").await.ok();
    let key = session_key("spoke-auth", &digest(dev1.token().unwrap()));

    stand.redis.command::<()>(&["DEL", &key]).await;

    // The contract allows a live connection one second; a request gets no longer.
    eventually("the request to be refused", PATIENCE, async || {
        let answer = dev1.get("/seq").await;
        if answer.status == 401 { Ok(()) } else { Err(answer) }
    })
    .await;
    assert_eq!(dev1.post_json("/xadd", &entry_body("1-0", 1)).await.status, 401);
}

#[tokio::test]
async fn a_waiting_read_is_refused_within_a_second_after_its_session_ends() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    let key = session_key("spoke-auth", &digest(dev1.token().unwrap()));
    let waiting = tokio::spawn(async move { dev1.get("/xread?blockMs=20000").await });
    assert_read_waits(&stand).await;

    stand.redis.command::<()>(&["DEL", &key]).await;
    let begun = Instant::now();
    stand.redis.add(OUT, &numbered(1)).await;

    let answer = waiting.await.unwrap();
    assert_eq!(answer.refusal().0, 401, "an ended session got an entry: {answer:?}");
    assert!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
}

/// Commands with which an operator can block a client by hand.
const BLOCKS_BY_HAND: [&[&str]; 4] = [
    &["HSET", "spoke-auth:client:dev1:h", "disabled", "1"],
    &["DEL", "spoke-auth:client:dev1:h"],
    &["HDEL", "spoke-auth:client:dev1:h", "secret"],
    // Another device has registered under the name: the session is of an earlier registration.
    &["HSET", "spoke-auth:client:dev1:h", "registeredAt", "1700000000000"],
];

#[tokio::test]
async fn a_client_blocked_by_hand_is_refused_at_once() {
    for by_hand in BLOCKS_BY_HAND {
        let stand = hub().await;
        let dev1 = stand.client("dev1").await;
        dev1.get("/seq").await.ok();

        stand.redis.command::<()>(by_hand).await;

        assert_eq!(dev1.get("/seq").await.status, 401, "{by_hand:?}");
        assert_eq!(dev1.post_json("/xadd", &entry_body("1-0", 1)).await.status, 401, "{by_hand:?}");
    }
}

#[tokio::test]
async fn a_waiting_read_is_refused_within_a_second_after_a_block_by_hand() {
    for by_hand in BLOCKS_BY_HAND {
        let stand = hub().await;
        let dev1 = stand.client("dev1").await;
        let waiting = tokio::spawn(async move { dev1.get("/xread?blockMs=20000").await });
        assert_read_waits(&stand).await;

        stand.redis.command::<()>(by_hand).await;
        let begun = Instant::now();

        assert_eq!(waiting.await.unwrap().refusal().0, 401, "{by_hand:?}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{by_hand:?}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn harmless_fields_in_a_clients_hash_end_no_session() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    for harmless in [["disabled", "0"], ["disabled", ""], ["registeredAt", "soon"], ["note", "x"]] {
        let key = "spoke-auth:client:dev1:h";
        stand.redis.command::<()>(&["HSET", key, harmless[0], harmless[1]]).await;
        assert_eq!(dev1.get("/seq").await.status, 200, "{harmless:?}");
    }
}

#[tokio::test]
async fn two_clients_never_see_each_others_streams() {
    let stand = hub().await;
    let (dev1, dev2) = (stand.client("dev1").await, stand.client("dev2").await);
    stand.redis.add(OUT, &numbered(1)).await;
    stand.redis.add("spoke-hub:out:dev2:x", &numbered(2)).await;

    dev1.post_json("/xadd", &entry_body("5-0", 5)).await.ok();
    dev2.post_json("/xadd", &entry_body("3-0", 3)).await.ok();

    assert_eq!(dev1.get("/seq").await.ok()["seq"], "5-0");
    assert_eq!(dev2.get("/seq").await.ok()["seq"], "3-0");
    let mut expected = carried("dev1", 1, [5]);
    expected.extend(carried("dev2", 1, [3]));
    assert_eq!(inbound(&stand.redis).await, expected);
    for (client, n) in [(&dev1, "1"), (&dev2, "2")] {
        let entries = client.get("/xread").await.ok()["entries"].clone();
        assert_eq!(entries.as_array().unwrap().len(), 1, "{entries}");
        assert_eq!(entries[0]["fields"], json!([["topic", "test"], ["n", n]]));
    }
}

#[tokio::test]
async fn a_request_cannot_choose_whose_streams_it_uses() {
    let stand = hub().await;
    let dev1 = stand.client("dev1").await;
    stand.redis.add("spoke-hub:out:dev2:x", &numbered(2)).await;
    let mut body = entry_body("1-0", 1);
    body["client"] = json!("dev2");
    let answer = dev1.post_json("/xadd", &body).await;
    assert_eq!(answer.refusal(), (400, "malformed".to_owned()), "{answer:?}");
    assert!(answer.message().contains("client"), "the message names the key: {answer:?}");
    for query in ["client=dev2", "key=spoke-hub:out:dev2:x"] {
        let answer = dev1.get(&format!("/xread?{query}")).await;
        assert!(
            !answer.text.contains("topic"),
            "the answer has an entry of another client: {answer:?}"
        );
    }
    let with_header = dev1.request(Method::GET, "/xread").header("spoke-client", "dev2");
    assert_eq!(dev1.call(with_header).await.ok()["entries"], json!([]));
}

#[tokio::test]
async fn prefixes_separate_fleets_that_share_one_redis() {
    let settings = [("key_prefix", "north"), ("auth_key_prefix", "north-auth")];
    let stand = Stand::start(Kind::Hub, &settings).await;
    let default_client = stand.client("dev1").await;
    assert_eq!(default_client.get("/seq").await.status, 401);
    let token = "a-token-of-the-north-made-up-by-hand-only-here";
    let key = session_key("north-auth", &digest(token));
    stand.redis.command::<()>(&["HSET", &key, "client", "dev1"]).await;
    stand.redis.command::<()>(&["HSET", "north-auth:client:dev1:h", "secret", "no hash"]).await;

    stand.api().with_token(token).post_json("/xadd", &entry_body("1-0", 1)).await.ok();

    assert_eq!(stand.redis.length("north:in:x").await, 1);
    assert_eq!(stand.redis.length("spoke-hub:in:x").await, 0);
}

#[tokio::test]
async fn sessions_may_be_in_another_redis() {
    let auth_redis = spoke_tests::redis::RedisServer::start().await;
    let url = auth_redis.url();
    let stand = Stand::start(Kind::Hub, &[("auth_redis", &url)]).await;
    let token = spoke_tests::cloud::admit(&auth_redis, "dev1").await;
    stand.api().with_token(&token).post_json("/xadd", &entry_body("1-0", 1)).await.ok();
    assert_eq!(stand.redis.length("spoke-hub:in:x").await, 1);
    assert_eq!(
        stand.client("dev1").await.get("/seq").await.status,
        401,
        "the hub's own redis is not asked for sessions"
    );
}
