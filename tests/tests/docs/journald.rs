//! Log lines for the journal.

use std::{fs::File, os::unix::fs::MetadataExt, path::Path};

use spoke_tests::{
    binaries,
    process::{Process, Start},
    wait::{PATIENCE, eventually},
};

/// The first log lines of a hub without a Redis: its start, and a warning.
async fn log_lines(log: &Path, format: &str, stream: &str) -> Vec<String> {
    let mut start = Start::with(&["serve"]).variable("JOURNAL_STREAM", stream);
    for (name, value) in [
        ("SPOKE_HUB_LISTEN", "127.0.0.1:0"),
        ("SPOKE_HUB_ADMIN_LISTEN", ""),
        ("SPOKE_HUB_REDIS", "redis://127.0.0.1:1"),
        ("SPOKE_HUB_LOG__FORMAT", format),
    ] {
        start = start.variable(name, value);
    }
    let hub = Process::start(&binaries::path_of("spoke-hub"), &start, log);
    let awaited = ["lost redis change notifications", "listening for devices"];
    eventually("the warning and the start to be logged", PATIENCE, async || {
        let log = hub.log();
        let is_logged = awaited.iter().all(|words| log.contains(words)) && log.ends_with('\n');
        if is_logged { Ok(log.lines().map(str::to_owned).collect()) } else { Err(log) }
    })
    .await
}

#[tokio::test]
async fn log_lines_have_a_priority_prefix_only_when_they_go_to_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    for format in ["json", "text"] {
        let log = folder.path().join(format);
        let file = File::create(&log).unwrap().metadata().unwrap();
        let lines = log_lines(&log, format, &format!("{}:{}", file.dev(), file.ino())).await;
        for line in lines {
            let priority = if line.contains("WARN") { "<4>" } else { "<6>" };
            assert!(line.starts_with(priority), "{format}: {line}");
        }
        let elsewhere =
            log_lines(&folder.path().join(format!("{format}-elsewhere")), format, "1:2").await;
        assert!(elsewhere.iter().all(|line| !line.starts_with('<')), "{elsewhere:?}");
    }
}
