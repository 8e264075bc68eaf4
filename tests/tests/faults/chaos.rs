//! `make chaos` itself: it passes when nothing is wrong, and it can fail.

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
async fn a_run_that_carries_every_entry_passes_and_leaves_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let ended = chaos(folder.path(), &[]).await.done();
    assert!(ended.stdout.contains("duplicated 0, missing 0"), "{}", ended.stdout);
    assert!(!ended.stdout.contains("offered 0"), "{}", ended.stdout);
    assert_eq!(names_in(folder.path()), [""; 0]);
}

#[tokio::test]
async fn a_hostile_client_causes_no_loss_and_no_duplicate_for_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let ended = chaos(folder.path(), &["--hostile"]).await.done();
    assert!(ended.stdout.contains("duplicated 0, missing 0"), "{}", ended.stdout);
    let attacks = ended.stdout.lines().find(|line| line.contains("a hostile client: "));
    assert!(attacks.is_some_and(|line| line.contains("socket closed")), "{}", ended.stdout);
}

#[tokio::test]
async fn many_clients_of_one_hub_are_each_judged() {
    let folder = tempfile::tempdir().unwrap();
    let ended = chaos(folder.path(), &["--clients", "24"]).await.done();
    assert!(ended.stdout.contains("4 devices, 24 clients, 1 hubs"), "{}", ended.stdout);
    assert!(ended.stdout.contains("duplicated 0, missing 0"), "{}", ended.stdout);
    let ended = chaos(folder.path(), &["--clients", "24", "--spoil"]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    assert!(ended.stdout.contains("duplicated 1, missing 1"), "{}", ended.stdout);
}

#[tokio::test]
async fn a_run_with_one_fault_at_a_time_prints_the_recovery_times() {
    let folder = tempfile::tempdir().unwrap();
    let more = ["--seconds", "6", "--alone", "--faults", "cut-link"];
    let ended = chaos_with(folder.path(), &more).await.done();
    let cut = ended.stdout.lines().find(|line| line.starts_with("cut-link"));
    assert!(cut.is_some_and(|line| line.contains("worst")), "{}", ended.stdout);
}

#[tokio::test]
async fn a_run_that_finds_a_missing_or_duplicated_entry_fails_and_keeps_its_evidence() {
    let folder = tempfile::tempdir().unwrap();
    let ended = chaos(folder.path(), &["--spoil"]).await;
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    assert!(ended.stdout.contains("duplicated 1, missing 1"), "{}", ended.stdout);
    let [kept] = <[String; 1]>::try_from(names_in(folder.path())).unwrap();
    let kept = folder.path().join(kept);
    assert!(ended.stdout.contains(kept.to_str().unwrap()), "{}", ended.stdout);
    let verdict = std::fs::read_to_string(kept.join("verdict.txt")).unwrap();
    assert!(verdict.contains("  missing: dev"), "{verdict}");
    assert!(verdict.contains("  duplicated: dev"), "{verdict}");
    let files = names_in(&kept);
    for name in ["journal.txt", "copy-cloud.tsv", "ledger-dev1.tsv", "dev1-redis", "hub2"] {
        assert!(files.iter().any(|file| file == name), "{name} is not among {files:?}");
    }
}
