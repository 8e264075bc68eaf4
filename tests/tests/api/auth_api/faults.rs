//! Auth when its Redis fails, when it shuts down, and when requests are malformed.

use spoke_tests::{
    cloud::one_time_code,
    wait::{PATIENCE, eventually, eventually_is, eventually_true},
};

use crate::auth_api::{SECRET, auth, auth_with_device, log_in, provision_now, register, token};

#[tokio::test]
async fn auth_answers_503_while_redis_is_down_and_recovers_automatically() {
    let mut stand = auth_with_device(&[]).await;
    let api = stand.api();
    let token = token(&api).await;
    stand.redis.kill9();

    let answers = [
        log_in(&api, "dev1", SECRET).await,
        api.with_token(&token).post("/refresh").await,
        api.with_token(&token).post("/logout").await,
    ];

    for answer in answers {
        assert_eq!(answer.refusal(), (503, "unavailable".to_owned()));
    }
    let admin = stand.service.admin();
    assert_eq!(admin.get("/readyz").await.status, 503);
    assert_eq!(
        admin.get("/healthz").await.status,
        200,
        "auth is alive, and a restart would not help"
    );

    stand.redis.restart().await;
    stand.service.ready().await;
    eventually_is("a refresh with the session from before", 200, async || {
        api.with_token(&token).post("/refresh").await.status
    })
    .await;
}

#[tokio::test]
async fn a_full_redis_gives_503_and_does_not_use_up_the_code() {
    let stand = auth().await;
    provision_now(&stand.redis, "dev1").await;
    stand.redis.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let answer = register(&stand.api(), "dev1", SECRET, &one_time_code(0)).await;
    assert_eq!(answer.refusal(), (503, "unavailable".to_owned()));
    stand.redis.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let answer = register(&stand.api(), "dev1", SECRET, &one_time_code(0)).await;
    assert_eq!(answer.status, 200, "the code was not used up: {answer:?}");
}

#[tokio::test]
async fn a_login_in_progress_is_finished_on_sigterm_and_the_exit_code_is_0() {
    // The login keeps a core busy for about a second, long enough to send the signal meanwhile.
    let mut stand = auth_with_device(&[("bcrypt_cost", "13"), ("bcrypt_workers", "1")]).await;
    let (api, admin) = (stand.api(), stand.service.admin());
    let login = tokio::spawn(async move { log_in(&api, "dev1", SECRET).await });
    eventually("a login in progress", PATIENCE, async || {
        assert!(!login.is_finished(), "the login was over before the signal");
        let metrics = admin.get("/metrics").await.text;
        let in_progress = metrics.lines().any(|line| {
            line.contains("bcrypt_in_hand") && line.ends_with(" 1") && !line.starts_with('#')
        });
        in_progress.then_some(()).ok_or(metrics)
    })
    .await;

    let status = stand.service.terminate().await;

    assert_eq!(status.code(), Some(0), "{status}");
    assert_eq!(login.await.unwrap().status, 200);
}

#[tokio::test]
async fn an_idle_connection_does_not_delay_shutdown() {
    let mut stand = auth().await;
    let idle = tokio::net::TcpStream::connect(stand.service.address()).await.unwrap();
    let begun = std::time::Instant::now();
    let status = stand.service.terminate().await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(begun.elapsed().as_secs() < 15, "it took {:?}", begun.elapsed());
    drop(idle);
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_get_the_usual_error_body() {
    let stand = auth().await;
    let api = stand.api();
    for path in ["/", "/nothing", "/metrics", "/healthz", "/readyz", "/login/", "/%00"] {
        assert_eq!(api.get(path).await.refusal(), (404, "not-found".to_owned()), "{path}");
    }
    let answer = api.get("/login").await;
    assert_eq!(answer.refusal(), (405, "method-not-allowed".to_owned()));
    assert_eq!(answer.header("allow"), Some("POST"));
}

#[tokio::test]
async fn health_and_metrics_are_on_the_admin_listener() {
    let stand = auth_with_device(&[]).await;
    let admin = stand.service.admin();
    assert_eq!(admin.get("/healthz").await.status, 200);
    stand.service.ready().await;
    let metrics = admin.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.text.contains("/register"), "the registration was counted: {metrics:?}");
    assert!(!metrics.text.contains("dev1"), "client names are not labels: {metrics:?}");
}

#[tokio::test]
async fn a_request_with_unfinished_headers_is_cut_off_and_others_are_served() {
    let stand = auth_with_device(&[]).await;
    let api = stand.api();
    let slow = tokio::spawn({
        let api = api.clone();
        async move { api.raw(b"POST /login HTTP/1.1\r\nHost: x\r\nX-Slow: ").await }
    });
    assert_eq!(log_in(&api, "dev1", SECRET).await.status, 200);
    eventually_true("the slow connection to be cut off", async || slow.is_finished()).await;
    assert!(!slow.await.unwrap().contains("200 OK"));
}

#[tokio::test]
async fn malformed_bytes_are_refused_or_closed_and_do_no_harm() {
    let stand = auth_with_device(&[]).await;
    let api = stand.api();
    for malformed in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nzz\r\n",
        b"*1\r\n$8\r\nFLUSHALL\r\n",
    ] {
        let mut bytes = malformed.to_vec();
        bytes.extend(b"\r\n\r\n");
        let answer = api.raw(&bytes).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{malformed:?}: {answer}");
    }
    assert_eq!(log_in(&api, "dev1", SECRET).await.status, 200);
}
