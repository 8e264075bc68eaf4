//! `make cluster`, as a new user runs it.

use std::{net::TcpStream, path::Path, time::Duration};

use spoke_tests::{
    binaries::FOLDER_VARIABLE,
    process::{Start, run_within},
};

const DEMO: &str = env!("CARGO_BIN_EXE_cluster");
/// It feeds entries for a quarter of a minute.
const LIMIT: Duration = Duration::from_secs(90);

#[tokio::test]
async fn a_primary_is_killed_and_each_entry_arrives_once_and_nothing_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut start = Start::with(&["--once"]).variable("TMPDIR", folder.path().display());
    if let Ok(binaries) = std::env::var(FOLDER_VARIABLE) {
        start = start.variable(FOLDER_VARIABLE, binaries);
    }
    let output = run_within(Path::new(DEMO), &start, LIMIT).await.done().stdout;
    assert!(output.contains("It works: ") && output.contains("once each and in order"), "{output}");
    for role in ["primary", "replica"] {
        let lines = output.lines().filter(|line| line.split_whitespace().nth(2) == Some(role));
        assert_eq!(lines.count(), 3, "{output}");
    }
    let nodes = output.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok());
    for port in nodes.collect::<Vec<u16>>() {
        let left = TcpStream::connect(("127.0.0.1", port));
        assert!(left.is_err(), "a node still listens on port {port}");
    }
    let left: Vec<_> = folder.path().read_dir().unwrap().flatten().map(|it| it.path()).collect();
    assert!(left.is_empty(), "files are left: {left:?}");
}
