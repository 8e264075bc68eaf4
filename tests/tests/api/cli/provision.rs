//! `spoke-auth provision --from`: a whole list of clients.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use spoke_tests::{
    binaries::path_of,
    cloud::{Cloud, url},
    device::OUT,
    entries::numbered,
    process::{Finished, Process, Start, run},
    redis::RedisServer,
    wait::eventually_is,
};

async fn provision(cloud: &Cloud, list: &str, folder: &Path, more: &[&str]) -> Finished {
    let file = folder.join("clients.csv");
    fs::write(&file, list).expect("the list can be written");
    let (from, out) = (file.display().to_string(), folder.join("out").display().to_string());
    let mut start = Start::with(&["provision", "--from", &from, "--out", &out]);
    start.arguments.extend(more.iter().map(ToString::to_string));
    start.environment = cloud.auth.environment().to_vec();
    let (auth, hub) = (url(cloud.auth_proxy.address()), url(cloud.hub_proxy.address()));
    let start = start.variable("SPOKE_AUTH_AUTH_URL", auth).variable("SPOKE_AUTH_HUB_URL", hub);
    run(&path_of("spoke-auth"), &start).await
}

#[tokio::test]
async fn each_listed_client_gets_two_files_that_its_agent_runs_with() {
    let cloud = Cloud::start().await;
    let folder = tempfile::tempdir().unwrap();
    let finished =
        provision(&cloud, "client,valid\ndev1\ndev2,1h\n", folder.path(), &[]).await.done();
    assert!(finished.stdout.contains("2 provisioned"), "{finished:?}");
    let path = |name: &str| folder.path().join("out").join(name);
    let mode = |name: &str| fs::metadata(path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("dev1"), mode("dev1/otp-secret")), (0o700, 0o600));
    let secrets = ["dev1", "dev2"].map(|name| fs::read(path(name).join("otp-secret")).unwrap());
    assert_ne!(secrets[0], secrets[1]);
    let deadline = async |client: &str| -> u64 {
        let stored = cloud.redis.hash(&format!("spoke-auth:client:{client}:h")).await;
        stored["regDeadline"].parse().unwrap()
    };
    assert!(deadline("dev1").await > deadline("dev2").await);

    let redis = RedisServer::start().await;
    let state = folder.path().join("state").display().to_string();
    let config = path("dev1/agent.toml").display().to_string();
    let credentials = path("dev1").display().to_string();
    let start = Start::with(&["run", "--config", &config, "--set", "admin_listen="])
        // As systemd's LoadCredential does.
        .variable("CREDENTIALS_DIRECTORY", credentials)
        .variable("SPOKE_AGENT_REDIS", redis.url())
        .variable("SPOKE_AGENT_STATE_DIR", state);
    let _agent = Process::start(&path_of("spoke-agent"), &start, &folder.path().join("log"));
    redis.add(OUT, &numbered(1)).await;
    eventually_is("the entry to arrive", 1, async || cloud.carried("dev1").await.len()).await;
}

#[tokio::test]
async fn a_list_is_resumed_and_clients_provisioned_elsewhere_are_not_replaced() {
    let cloud = Cloud::start().await;
    let folder = tempfile::tempdir().unwrap();
    provision(&cloud, "dev1\n", folder.path(), &[]).await.done();
    let secret = || fs::read(folder.path().join("out/dev1/otp-secret")).unwrap();
    let first = secret();

    let more = provision(&cloud, "dev1\ndev2\n", folder.path(), &[]).await.done();
    assert!(more.stdout.contains("1 provisioned, 1 skipped"), "{more:?}");
    assert_eq!(secret(), first);

    cloud.provision("elsewhere").await;
    let refused = provision(&cloud, "dev3\nelsewhere\n", folder.path(), &[]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("elsewhere") && refused.stderr.contains("--again"));
    assert!(cloud.redis.hash("spoke-auth:client:dev3:h").await.is_empty(), "nothing was done");

    provision(&cloud, "dev1\nelsewhere\n", folder.path(), &["--again"]).await.done();
    assert_ne!(secret(), first);
}

#[tokio::test]
async fn an_invalid_line_is_reported_before_anything_is_done() {
    let cloud = Cloud::start().await;
    let folder = tempfile::tempdir().unwrap();
    let refused = provision(&cloud, "dev1\ndev 2\n", folder.path(), &[]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("line 2: dev 2"), "{refused:?}");
    assert!(cloud.redis.hash("spoke-auth:client:dev1:h").await.is_empty());
    assert!(!folder.path().join("out").exists());
}
