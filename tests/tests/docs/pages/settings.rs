//! Blocks that are not programs: settings, which are read as the service reads them, and texts.

use serde::{Serialize, de::DeserializeOwned};
use spoke_service::config::{SettingSources, load};

use spoke_tests::sources::root;

use crate::pages::page::Block;

/// Languages of blocks that are only text.
const TEXTS: [&str; 2] = ["", "text"];

pub(crate) fn check_settings(block: &Block) {
    let Block { place, text, .. } = block;
    match (block.language.as_str(), block.words.first().map_or("", String::as_str)) {
        ("toml", "agent.toml") => check::<spoke_agent::AgentConfig>("agent", block),
        ("toml", "hub.toml") => check::<spoke_hub::HubConfig>("hub", block),
        ("toml", "auth.toml") => check::<spoke_auth::AuthConfig>("auth", block),
        ("toml", "Cargo.toml") => {
            let workspace = crate::pages::page::read("Cargo.toml");
            for line in text.lines().filter(|line| !line.starts_with('[')) {
                let (name, version) = line.split_once(" = ").expect("name = version");
                let own = format!("{name} = {{ version = {version}");
                assert!(
                    workspace.contains(&own),
                    "{place}: the workspace uses another version: {line}"
                );
            }
        }
        // `frames` checks these.
        ("hex", _) => {}
        ("yaml", "prometheus.yml") => check_prometheus(text),
        (language, _) if TEXTS.contains(&language) => {
            let looks_like_a_command = |line: &str| {
                ["sudo ", "spoke-", "redis-cli ", "curl ", "make ", "$ "]
                    .iter()
                    .any(|word| line.starts_with(word))
            };
            let command = text.lines().find(|line| looks_like_a_command(line));
            assert!(command.is_none(), "{place}: this is not output, and nothing runs {command:?}");
        }
        (language, _) => panic!("{place}: unknown language {language:?}"),
    }
}

fn check<T: Serialize + DeserializeOwned + Default>(service: &str, block: &Block) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("settings.toml");
    std::fs::write(&path, &block.text).unwrap();
    let sources = SettingSources { service, file: Some(&path), environment: vec![], flags: vec![] };
    if let Err(error) = load::<T>(&sources) {
        panic!("{}: {error}", block.place);
    }
}

fn check_prometheus(text: &str) {
    let folder = tempfile::tempdir().unwrap();
    let rules = root().join("docs/monitoring/alerts.yml").display().to_string();
    let path = folder.path().join("prometheus.yml");
    std::fs::write(&path, text.replace("/etc/prometheus/spoke/alerts.yml", &rules)).unwrap();
    let mut command = std::process::Command::new("promtool");
    match command.args(["check", "config"]).arg(&path).output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(_) => eprintln!("SKIPPED: promtool is missing; scripts/setup prometheus installs it"),
    }
}
