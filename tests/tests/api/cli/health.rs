//! `health` of all three programs, as a probe in a container runs it.

use spoke_tests::{
    binaries::path_of,
    cloud::Cloud,
    process::{Finished, Start, run},
    redis::{RedisServer, free_port},
};

use crate::cli::PROGRAMS;

async fn health(program: &str, admin_listen: &str) -> Finished {
    let listen = format!("admin_listen={admin_listen}");
    let mut start = Start::with(&["--set", &listen, "health"]);
    start = start.variable("SPOKE_AGENT_CLIENT", "dev1");
    run(&path_of(program), &start).await
}

#[tokio::test]
async fn a_running_service_is_healthy_even_while_its_redis_is_down() {
    let mut cloud = Cloud::start().await;
    cloud.redis.kill9();
    for (program, admin) in [("spoke-hub", cloud.hub.admin()), ("spoke-auth", cloud.auth.admin())] {
        let healthy = health(program, &admin.address().to_string()).await;
        assert_eq!(healthy.done().stdout, "ok\n", "{program}");
    }
}

#[tokio::test]
async fn health_fails_with_one_line_if_nothing_or_something_else_answers() {
    let redis = RedisServer::start().await;
    let (nothing, other) =
        (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", redis.port()));
    for program in PROGRAMS {
        for (listen, problem) in [
            (
                nothing.as_str(),
                format!("no answer from {nothing}: Connection refused (os error 111)"),
            ),
            (&other, format!("{other}: unexpected answer; is it another service?")),
            ("", "the setting admin_listen is empty, so the service cannot be asked".to_owned()),
        ] {
            let failed = health(program, listen).await;
            assert_eq!(failed.code, Some(1), "{failed:?}");
            assert_eq!(failed.stderr, format!("{program}: {problem}\n"), "{failed:?}");
        }
    }
}
