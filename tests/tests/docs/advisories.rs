//! `scripts/cargo-deny` and `scripts/advisories`: the last lines of `make check` say if the advisories were not
//! checked, or not for a long time. A script stands in for cargo-deny, which needs the network: its fetch
//! succeeds or fails.

#![expect(clippy::unwrap_used, reason = "this is a test, its helpers included")]

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A copy of the scripts with a fake cargo-deny whose `fetch` and `check … advisories` exit with these codes.
fn copy(fetch: u8, check: u8) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["scripts", ".config", "bin"] {
        fs::create_dir(path(name)).unwrap();
    }
    for name in ["scripts/cargo-deny", "scripts/advisories", ".config/advisories-checked"] {
        fs::copy(source(name), path(name)).unwrap();
    }
    let program = format!(
        "#!/bin/sh\ncase \"$*\" in\n*'fetch db') exit {fetch} ;;\n*advisories) exit {check} ;;\nesac\n"
    );
    fs::write(path("bin/cargo-deny"), program).unwrap();
    fs::set_permissions(path("bin/cargo-deny"), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn run(folder: &TempDir, script: &str) -> Output {
    let path = format!("{}/bin:{}", folder.path().display(), env::var("PATH").unwrap());
    let mut command = Command::new(folder.path().join("scripts").join(script));
    command.env_remove("CARGO_TARGET_DIR").env("PATH", path).output().unwrap()
}

fn warning(folder: &TempDir) -> String {
    let finished = run(folder, "advisories");
    assert!(finished.status.success(), "a warning is not a failure: {finished:?}");
    String::from_utf8(finished.stderr).unwrap()
}

/// The date this many days ago, in the format of the file.
fn days_ago(days: u32) -> String {
    let ago = format!("{days} days ago");
    let date = Command::new("date").args(["--utc", "+%F", "--date", &ago]).output();
    String::from_utf8(date.unwrap().stdout).unwrap()
}

fn write_checked(folder: &TempDir, text: &str) {
    fs::write(folder.path().join(".config/advisories-checked"), text).unwrap();
}

fn checked(folder: &TempDir) -> String {
    fs::read_to_string(folder.path().join(".config/advisories-checked")).unwrap()
}

#[test]
fn an_unavailable_database_is_reported_last_and_the_date_is_kept() {
    let folder = copy(1, 0);
    write_checked(&folder, &format!("# words\n{}", days_ago(3)));
    let before = checked(&folder);
    assert!(run(&folder, "cargo-deny").status.success());
    let text = warning(&folder);
    assert!(text.contains("NOT checked") && text.contains(days_ago(3).trim()), "{text}");
    assert_eq!(checked(&folder), before);
}

#[test]
fn a_real_check_prints_nothing_and_writes_todays_date_below_the_comment() {
    let folder = copy(1, 0);
    run(&folder, "cargo-deny");
    assert!(warning(&folder).contains("no check has ever succeeded"));
    let working = copy(0, 0);
    fs::copy(working.path().join("bin/cargo-deny"), folder.path().join("bin/cargo-deny")).unwrap();
    assert!(run(&folder, "cargo-deny").status.success());
    assert_eq!(warning(&folder), "");
    let text = checked(&folder);
    assert!(text.starts_with("# When the dependencies"), "{text}");
    assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), 1, "{text}");
    assert!(text.ends_with(&days_ago(0)), "{text}");
}

#[test]
fn a_check_that_finds_an_advisory_fails_and_does_not_count() {
    let folder = copy(0, 1);
    let before = checked(&folder);
    assert!(!run(&folder, "cargo-deny").status.success());
    assert_eq!(checked(&folder), before);
    assert!(
        warning(&folder).contains("no check has ever succeeded"),
        "the failed check does not count"
    );
}

#[test]
fn checks_older_than_thirty_days_are_reported_and_an_invalid_date_is_never() {
    let folder = copy(0, 0);
    for (date, expected) in [
        (days_ago(0), ""),
        (days_ago(30), ""),
        (days_ago(32), "more than 30 days ago"),
        ("never\n".to_owned(), "no check has ever succeeded"),
        ("2026-99-99\n".to_owned(), "no check has ever succeeded"),
        (String::new(), "no check has ever succeeded"),
    ] {
        write_checked(&folder, &date);
        let text = warning(&folder);
        assert_eq!(text.is_empty(), expected.is_empty(), "{date:?}: {text}");
        assert!(text.contains(expected), "{date:?}: {text}");
    }
}

#[test]
fn make_check_ends_with_the_advisories_script() {
    let makefile = fs::read_to_string(source("Makefile")).unwrap();
    let (_, recipe) = makefile.split_once("\ncheck: ").unwrap();
    let lines = recipe.lines().skip(1).take_while(|line| line.starts_with('\t'));
    assert_eq!(lines.last().unwrap().trim(), "@scripts/advisories");
}
