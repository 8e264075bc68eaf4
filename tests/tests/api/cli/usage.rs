//! `--help`, `--version` and wrong usage.

use spoke_tests::{
    binaries::path_of,
    process::{Finished, Start, run},
};

use crate::cli::PROGRAMS;

const COMMANDS: [(&str, &[&str]); 3] = [
    ("spoke-agent", &["run", "enrol", "status", "health"]),
    ("spoke-auth", &["serve", "provision", "list", "show", "extend", "revoke", "health"]),
    ("spoke-hub", &["serve", "clients", "tail", "send", "health"]),
];

async fn run_with(program: &str, arguments: &[&str]) -> Finished {
    run(&path_of(program), &Start::with(arguments)).await
}

#[tokio::test]
async fn help_of_every_command_describes_it_and_shows_its_usage() {
    for (program, commands) in COMMANDS {
        let help = run_with(program, &["--help"]).await.done().stdout;
        assert!(help.contains("Exit codes: 0 done, 1 failed, 2 bad usage, 78 bad settings"));
        for command in commands {
            assert!(help.contains(command), "{program} --help does not name {command}");
            let help = run_with(program, &[command, "--help"]).await.done();
            let usage = format!("Usage: {program} {command}");
            assert!(help.stdout.contains(&usage), "{help:?}");
            let first = help.stdout.lines().next().unwrap_or_default();
            assert!(first.len() > 10 && !first.starts_with("Usage"), "no description: {help:?}");
            assert_eq!(help.stderr, "");
        }
    }
}

#[tokio::test]
async fn commands_that_list_something_offer_json() {
    for (program, command) in [
        ("spoke-agent", "status"),
        ("spoke-auth", "list"),
        ("spoke-auth", "show"),
        ("spoke-hub", "clients"),
    ] {
        let help = run_with(program, &[command, "--help"]).await.done().stdout;
        assert!(help.contains("--json"), "{program} {command}: {help}");
    }
}

#[tokio::test]
async fn bad_usage_exits_with_2_and_a_message_on_standard_error() {
    for program in PROGRAMS {
        for arguments in [
            &[][..],
            &["no-such-command"],
            &["--no-such-flag"],
            &["serve", "run", "extra"],
            &["--config"],
            &["--set", "no-equals-sign", "serve"],
        ] {
            let ended = run_with(program, arguments).await;
            assert_eq!(ended.code, Some(2), "{program} {arguments:?}: {ended:?}");
            assert!(ended.stderr.contains("--help"), "{program} {arguments:?}: {ended:?}");
            assert_eq!(ended.stdout, "", "{program} {arguments:?}");
        }
    }
    for (program, arguments) in [
        ("spoke-auth", &["provision"][..]),
        ("spoke-auth", &["provision", "bad name"]),
        ("spoke-auth", &["provision", "dev1", "--valid", "soon"]),
        ("spoke-auth", &["show", &*"x".repeat(65)]),
        ("spoke-agent", &["enrol", "--client", "dev1"]),
        ("spoke-hub", &["send", "dev1"]),
        ("spoke-hub", &["send", "dev1", "field-without-value"]),
        ("spoke-hub", &["send", "no/slash", "a", "b"]),
    ] {
        let ended = run_with(program, arguments).await;
        assert_eq!(ended.code, Some(2), "{program} {arguments:?}: {ended:?}");
    }
}

#[tokio::test]
async fn version_prints_the_name_and_the_version() {
    for program in PROGRAMS {
        let version = run_with(program, &["--version"]).await.done().stdout;
        assert_eq!(version.trim(), format!("{program} {}", env!("CARGO_PKG_VERSION")));
    }
}
