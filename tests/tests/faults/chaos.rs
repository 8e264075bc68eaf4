//! `make chaos` itself: that it ends well when all is well, and that it can fail.

use std::path::Path;

use spoke_tests::{
    binaries::FOLDER_VARIABLE,
    process::{Finished, Start, run_within},
    wait::PATIENCE,
};

const CHAOS: &str = env!("CARGO_BIN_EXE_chaos");

/// Two seconds of load without faults.
async fn chaos(folder: &Path, more: &[&str]) -> Finished {
    chaos_with(folder, &[&["--seconds", "2", "--without", "all"], more].concat()).await
}

async fn chaos_with(folder: &Path, more: &[&str]) -> Finished {
    let arguments = [&["--seed", "1"], more].concat();
    let mut start = Start::with(&arguments).variable("TMPDIR", folder.display());
    if let Ok(binaries) = std::env::var(FOLDER_VARIABLE) {
        start = start.variable(FOLDER_VARIABLE, binaries);
    }
    run_within(Path::new(CHAOS), &start, 4 * PATIENCE).await
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().expect("the folder can be read").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn a_run_in_which_all_is_carried_says_so_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ended = chaos(folder.path(), &[]).await.done();
    assert!(ended.stdout.contains("duplicated 0, missing 0"), "{}", ended.stdout);
    assert!(!ended.stdout.contains("offered 0"), "{}", ended.stdout);
    assert_eq!(names_in(folder.path()), [""; 0]);
}

#[tokio::test]
async fn a_hostile_client_beside_the_honest_ones_costs_them_no_entry_and_repeats_none() {
    let folder = tempfile::tempdir().unwrap();
    let ended = chaos(folder.path(), &["--hostile"]).await.done();
    assert!(ended.stdout.contains("duplicated 0, missing 0"), "{}", ended.stdout);
    let attacks = ended.stdout.lines().find(|line| line.contains("a hostile client: "));
    assert!(attacks.is_some_and(|line| line.contains("socket closed")), "{}", ended.stdout);
}

#[tokio::test]
async fn one_fault_at_a_time_shows_how_long_each_takes_to_be_over() {
    let folder = tempfile::tempdir().unwrap();
    let more = ["--seconds", "6", "--alone", "--faults", "cut-link"];
    let ended = chaos_with(folder.path(), &more).await.done();
    let cut = ended.stdout.lines().find(|line| line.starts_with("cut-link"));
    assert!(cut.is_some_and(|line| line.contains("worst")), "{}", ended.stdout);
}

#[tokio::test]
async fn a_run_that_finds_an_entry_missing_or_twice_fails_and_leaves_what_tells_why() {
    let folder = tempfile::tempdir().unwrap();
    let ended = chaos(folder.path(), &["--spoil"]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    assert!(ended.stdout.contains("duplicated 1, missing 1"), "{}", ended.stdout);
    let [left] = <[String; 1]>::try_from(names_in(folder.path())).unwrap();
    let left = folder.path().join(left);
    assert!(ended.stdout.contains(left.to_str().unwrap()), "{}", ended.stdout);
    let verdict = std::fs::read_to_string(left.join("verdict.txt")).unwrap();
    assert!(verdict.contains("  missing: dev"), "{verdict}");
    assert!(verdict.contains("  duplicated: dev"), "{verdict}");
    let files = names_in(&left);
    for name in ["journal.txt", "copy-cloud.tsv", "ledger-dev1.tsv", "dev1-redis", "hub2"] {
        assert!(files.iter().any(|file| file == name), "{name} is not among {files:?}");
    }
}
