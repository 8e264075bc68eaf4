//! Lines for the journal.

use std::{fs::File, os::unix::fs::MetadataExt, path::Path};

use spoke_tests::{
    binaries,
    process::{Process, Start},
    wait::{PATIENCE, eventually},
};

/// What a hub without a Redis says at first, and so how it begins and warns.
async fn said(log: &Path, format: &str, stream: &str) -> Vec<String> {
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
    eventually("it to have warned and begun", PATIENCE, async || {
        let said = hub.log();
        let is_said = awaited.iter().all(|words| said.contains(words)) && said.ends_with('\n');
        if is_said { Ok(said.lines().map(str::to_owned).collect()) } else { Err(said) }
    })
    .await
}

#[tokio::test]
async fn log_lines_have_a_priority_prefix_only_when_they_go_to_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    for format in ["json", "text"] {
        let log = folder.path().join(format);
        let file = File::create(&log).unwrap().metadata().unwrap();
        let lines = said(&log, format, &format!("{}:{}", file.dev(), file.ino())).await;
        for line in lines {
            let priority = if line.contains("WARN") { "<4>" } else { "<6>" };
            assert!(line.starts_with(priority), "{format}: {line}");
        }
        let elsewhere =
            said(&folder.path().join(format!("{format}-elsewhere")), format, "1:2").await;
        assert!(elsewhere.iter().all(|line| !line.starts_with('<')), "{elsewhere:?}");
    }
}
