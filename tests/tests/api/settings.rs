//! The settings files that the packages install, `systemd/*.toml`: each names every setting with its default.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use spoke_service::config::{SettingSources, load};

/// Settings without a default, or with one that depends on the machine: what the file shows is an example.
const EXAMPLES: [&str; 8] =
    ["client", "auth", "hub", "proxy", "auth_url", "hub_url", "bcrypt_workers", "log.format"];

fn shipped(service: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    fs::read_to_string(folder.join(format!("{service}.toml"))).expect("the file is there")
}

fn loaded<T: Serialize + DeserializeOwned + Default>(service: &str, text: &str) -> Value {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("settings.toml");
    fs::write(&path, text).expect("it can be written to");
    let sources =
        SettingSources { service, file: Some(&path), environment: Vec::new(), flags: Vec::new() };
    let settings: T = load(&sources).unwrap_or_else(|error| panic!("{service}.toml: {error}"));
    serde_json::to_value(settings).expect("settings serialise")
}

/// The file with each `# key = value` line uncommented.
fn uncommented(text: &str) -> String {
    let is_key =
        |key: &str| key.bytes().all(|byte| byte.is_ascii_lowercase() || b"._".contains(&byte));
    let line = |line: &str| match line.strip_prefix("# ") {
        Some(setting) if setting.split_once(" = ").is_some_and(|(key, _)| is_key(key)) => {
            format!("{setting}\n")
        }
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// Collects the dotted keys of all settings with their values.
fn leaves(prefix: &str, value: &Value, found: &mut BTreeMap<String, Value>) {
    let Value::Object(table) = value else {
        found.insert(prefix.to_owned(), value.clone());
        return;
    };
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        leaves(&key, value, found);
    }
}

fn check<T: Serialize + DeserializeOwned + Default>(service: &str) {
    let text = shipped(service);
    let default = serde_json::to_value(T::default()).expect("settings serialise");
    assert_eq!(loaded::<T>(service, &text), default, "{service}.toml changes a default");

    let (mut expected, mut shown) = (BTreeMap::new(), BTreeMap::new());
    leaves("", &default, &mut expected);
    let text = uncommented(&text);
    leaves("", &loaded::<T>(service, &text), &mut shown);
    for key in expected.keys() {
        let is_named = text.lines().any(|line| line.starts_with(&format!("{key} = ")));
        assert!(is_named, "{service}.toml does not name {key}");
    }
    for example in EXAMPLES {
        assert_eq!(expected.remove(example).is_some(), shown.remove(example).is_some());
    }
    assert_eq!(shown, expected, "{service}.toml shows other values than the defaults");
}

#[test]
fn packages_install_settings_readable_only_by_root_and_the_services_group() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for service in ["agent", "hub", "auth"] {
        let read = |path: &str| fs::read_to_string(root.join(path)).expect("the file is there");
        let package = read(&format!("{service}/Cargo.toml"));
        let asset = format!("[\"../systemd/{service}.toml\", \"etc/spoke/\", \"640\"]");
        assert!(package.contains(&asset), "{service}");
        let script = read(&format!("packaging/spoke-{service}.postinst"));
        let group = format!("chgrp spoke-{service} /etc/spoke/{service}.toml");
        assert!(script.contains(&group), "{service}");
    }
}

#[test]
fn every_agent_setting_is_in_its_file_with_its_default() {
    check::<spoke_agent::AgentConfig>("agent");
}

#[test]
fn every_hub_setting_is_in_its_file_with_its_default() {
    check::<spoke_hub::HubConfig>("hub");
}

#[test]
fn every_auth_setting_is_in_its_file_with_its_default() {
    check::<spoke_auth::AuthConfig>("auth");
}
