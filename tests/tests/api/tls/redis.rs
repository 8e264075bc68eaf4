//! `rediss://`: a pinned CA works, and an untrusted Redis is refused with a plain message.

use spoke_tests::{
    binaries::path_of,
    certificates::{Authority, Certificates, Valid},
    cloud::Cloud,
    device::{Device, OUT},
    entries::numbered,
    process::{Finished, Start, run},
    redis::{RedisServer, free_port},
    wait::{PATIENCE, eventually},
};

/// Starts a Redis with a TLS port beside its plain one. Returns it and the URL of the TLS port.
async fn start(files: &Certificates) -> (RedisServer, String) {
    start_with(files, "no").await
}

/// The same, with `tls-auth-clients` set.
async fn start_with(files: &Certificates, auth_clients: &str) -> (RedisServer, String) {
    let path = |path: &std::path::Path| path.display().to_string();
    let (cert, key) = (path(&files.cert_file), path(&files.key_file));
    for _ in 0..10 {
        let port = free_port().to_string();
        let options = ["--tls-port", &port, "--tls-auth-clients", auth_clients];
        let ca = files.ca();
        let files = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
        let redis = RedisServer::start_with(&[&options[..], &files[..]].concat()).await;
        // If the port was taken meanwhile, Redis continues with the plain one alone.
        if tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await.is_ok() {
            return (redis, format!("rediss://127.0.0.1:{port}"));
        }
    }
    panic!("redis-server has no TLS port; is it built with TLS?");
}

async fn list(url: &str) -> Finished {
    let start = Start::with(&["list", "--json"]).variable("SPOKE_AUTH_REDIS", url);
    run(&path_of("spoke-auth"), &start).await
}

#[tokio::test]
async fn an_agent_and_a_service_reach_redis_over_tls_with_a_pinned_authority() {
    let folder = tempfile::tempdir().unwrap();
    let files = Certificates::make(folder.path());
    let (redis, url) = start(&files).await;
    let url = format!("{url}?ca_file={}", files.ca());
    list(&url).await.done();
    let cloud = Cloud::start().await;
    let device = Device::without_agent_on(redis, &cloud, "dev1", &[("redis", &url)]).await;
    let mut device = device;
    device.start_agent();
    device.redis.add(OUT, &numbered(1)).await;
    device.carried_both_ways(&cloud).await;
}

#[tokio::test]
async fn a_renewed_client_certificate_is_used_for_redis_without_a_restart() {
    let (folder, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let authority = Authority::make(folder.path());
    let (redis, url) = start_with(&authority.issue(&["127.0.0.1"], Valid::Now), "yes").await;
    let ca = folder.path().join("ca.pem").display().to_string();
    let refused = list(&format!("{url}?ca_file={ca}")).await;
    assert_eq!(refused.code, Some(1), "without a certificate: {refused:?}");

    // First an expired certificate, then a valid one in the same files.
    let place = |name: &str| own.path().join(name);
    let install = |valid| {
        let files = authority.issue(&["client"], valid);
        std::fs::copy(files.cert_file, place("cert.pem")).unwrap();
        std::fs::copy(files.key_file, place("key.pem")).unwrap();
    };
    install(Valid::Before);
    let (cert, key) = (place("cert.pem"), place("key.pem"));
    let url = format!("{url}?ca_file={ca}&cert_file={}&key_file={}", cert.display(), key.display());
    let cloud = Cloud::start().await;
    let mut device = Device::without_agent_on(redis, &cloud, "dev1", &[("redis", &url)]).await;
    device.start_agent();
    device.redis.add(OUT, &numbered(1)).await;
    eventually("the agent to be refused", PATIENCE, async || {
        let log = device.log();
        log.contains("redis request failed").then_some(()).ok_or(log)
    })
    .await;
    assert!(cloud.inbound().await.is_empty());
    install(Valid::Now);
    device.carried_both_ways(&cloud).await;
}

#[tokio::test]
async fn an_untrusted_redis_is_refused_with_a_plain_message() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let other = Certificates::make(theirs.path());
    let authority = Authority::make(ours.path());
    let table: [(&[&str], _, _, _); 3] = [
        (
            &["redis.example.com"],
            Valid::Now,
            true,
            "is for redis.example.com and not for 127.0.0.1",
        ),
        (&["127.0.0.1"], Valid::Before, true, "expired"),
        (&["127.0.0.1"], Valid::Now, false, "authority that is not trusted here"),
    ];
    for (names, valid, is_trusted, words) in table {
        let files = authority.issue(names, valid);
        let (_redis, url) = start(&files).await;
        let ca = if is_trusted { files.ca() } else { other.ca() };
        let refused = list(&format!("{url}?ca_file={ca}")).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(words), "{words}: {refused:?}");
        assert!(!refused.stderr.contains("InvalidCertificate"), "{refused:?}");
    }
}

#[tokio::test]
async fn an_agent_logs_that_its_redis_is_not_trusted() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (files, other) = (Certificates::make(ours.path()), Certificates::make(theirs.path()));
    let (redis, url) = start(&files).await;
    let url = format!("{url}?ca_file={}", other.ca());
    let cloud = Cloud::start().await;
    let mut device = Device::without_agent_on(redis, &cloud, "dev1", &[("redis", &url)]).await;
    device.start_agent();
    let words = "authority that is not trusted here";
    eventually("the agent to log why", PATIENCE, async || {
        let log = device.log();
        log.contains(words).then_some(()).ok_or(log)
    })
    .await;
}

#[tokio::test]
async fn an_unusable_ca_file_is_an_invalid_setting() {
    let ended = list("rediss://127.0.0.1:1?ca_file=/nowhere/ca.pem").await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.stderr.contains("redis: /nowhere/ca.pem cannot be used"), "{ended:?}");
}
