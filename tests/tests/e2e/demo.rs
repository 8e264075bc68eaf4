//! `make demo`, as a new user runs it.

use std::{net::TcpStream, path::Path};

use spoke_tests::{
    api::Api,
    binaries::FOLDER_VARIABLE,
    process::{Process, Start, run},
    wait::eventually_true,
};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");

fn start(arguments: &[&str], folder: &Path) -> Start {
    let start = Start::with(arguments).variable("TMPDIR", folder.display());
    match std::env::var(FOLDER_VARIABLE) {
        Ok(binaries) => start.variable(FOLDER_VARIABLE, binaries),
        Err(_) => start,
    }
}

/// The ports of the two Redis servers.
fn ports(output: &str) -> Vec<u16> {
    let words = output.lines().filter_map(|line| line.split_once(" port "));
    words.filter_map(|(_, port)| port.trim().parse().ok()).collect()
}

fn assert_nothing_left(output: &str, folder: &Path) {
    let ports = ports(output);
    assert_eq!(ports.len(), 2, "{output}");
    for port in ports {
        let left = TcpStream::connect(("127.0.0.1", port));
        assert!(left.is_err(), "a Redis still listens on port {port}");
    }
    let left: Vec<_> =
        folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "files are left: {left:?}");
}

#[tokio::test]
async fn demo_once_shows_both_directions_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let ended = run(Path::new(DEMO), &start(&["--once"], folder.path())).await.done();
    for words in ["hello-hub", "hello-client", "spoke-hub:in:x", "spoke-agent:in:x"] {
        assert!(ended.stdout.contains(words), "{words}: {}", ended.stdout);
    }
    for line in ended.stdout.lines() {
        assert!(line.chars().count() <= 80, "wider than a terminal: {line}");
    }
    assert_nothing_left(&ended.stdout, folder.path());
}

#[tokio::test]
async fn the_demo_shows_entries_as_they_arrive_until_it_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut demo = Process::start(Path::new(DEMO), &start(&[], folder.path()), log.path());
    eventually_true("the commands to try", async || demo.log().contains("Ctrl-C")).await;
    let output = demo.log();
    let line = output.lines().find(|line| line.contains("XADD") && line.contains(r#""hello"}'"#));
    let line = line.unwrap_or_else(|| panic!("the demo shows no command to try: {output}"));

    let page = output.lines().map(str::trim).find(|line| line.starts_with("http://127.0.0.1:"));
    let page = page.and_then(|url| url.strip_prefix("http://")?.strip_suffix('/'));
    let page =
        page.unwrap_or_else(|| panic!("the demo does not show the status page's URL: {output}"));
    let page = Api::new(page.parse().unwrap()).get("/").await;
    assert!(page.status == 200 && page.text.contains("dev1"), "{page:?}");

    let typed = run(Path::new("sh"), &Start::with(&["-c", line.trim()])).await.done();

    let id = typed.stdout.trim().to_owned();
    eventually_true("the entry to be shown", async || {
        demo.log().lines().any(|line| line.contains("spoke-hub:in:x") && line.contains(&id))
    })
    .await;
    assert_eq!(demo.terminate().await.code(), Some(0));
    assert_nothing_left(&demo.log(), folder.path());
}

#[tokio::test]
async fn a_failing_demo_exits_with_1_and_says_what_failed() {
    let folder = tempfile::tempdir().unwrap();
    let start =
        start(&["--once"], folder.path()).variable(FOLDER_VARIABLE, folder.path().display());
    let ended = run(Path::new(DEMO), &start).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("spoke-auth"), "{ended:?}");
    assert!(!ended.stderr.contains("panicked"), "a user must not see a panic: {ended:?}");
}
