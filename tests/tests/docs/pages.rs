//! Runs the commands in the documents, so that they stay correct.
//!
//! The words after a fenced block's language say where it runs and how:
//!
//! | word | means |
//! | --- | --- |
//! | `device`, `cloud` | on which machine |
//! | `background` | it keeps running until the document's end |
//! | `eventually` | it may be repeated until its output is the one shown |
//! | `agent-stopped` | the agent is stopped meanwhile |
//! | `root` | it needs root and systemd: `make deb-check` runs it, together with the others of its document |
//! | `x.toml` | settings of that service: they are read as the service reads them |
//! | `x.py` | it is stored under this name for later blocks |
//! | `x.rs` | a program: the same as in `tests/examples` |
//!
//! A block of `text` or `json` directly below one is its output (`shown`). A block that cannot be
//! interpreted fails the test.

#![expect(clippy::unwrap_used, reason = "this is a test, its helpers included")]

mod agent;
mod bounds;
mod commands;
mod frames;
#[expect(dead_code, reason = "its forms are for the fleet's tests")]
#[path = "../../../shared/protocol/src/wire/golden.rs"]
mod golden;
mod links;
mod page;
mod partitions;
mod run;
mod settings;
mod shown;
mod world;

use spoke_tests::{
    cloud::{Cloud, Settings, out},
    device::{Device, OUT},
    entries::numbered,
    process::{Start, run},
    redis::RedisServer,
    sources::root,
};

use crate::pages::{
    page::{Block, blocks, guides},
    run::run_all,
    settings::check_settings,
    world::World,
};

/// Languages of blocks that are run.
const PROGRAMS: [&str; 4] = ["sh", "python", "javascript", "rust"];
/// Words that may follow a language.
const WORDS: [&str; 6] = ["device", "cloud", "background", "eventually", "agent-stopped", "root"];

/// Documents that are run, each with its own test below, or in the module of its name.
const RUN: [&str; 7] = [
    "README.md",
    "docs/install.md",
    "docs/operate.md",
    "docs/partitions.md",
    "docs/protocol.md",
    "docs/publish-and-consume.md",
    "docs/security.md",
];

/// Commands without a machine, since they run in the repository, and the file that runs them.
const ELSEWHERE: [(&str, &str); 3] = [
    ("make demo", "tests/tests/e2e/demo.rs"),
    ("make cluster", "tests/tests/e2e/cluster_demo.rs"),
    // `make bench` runs the same command and builds more.
    ("cargo build --release -p spoke-agent -p spoke-hub -p spoke-auth", "Makefile"),
];
/// The script that runs, or names, the blocks that need root.
const AS_ROOT: &str = "scripts/check-debs";

#[tokio::test]
async fn the_commands_in_the_readme_work() {
    run_all("README.md", World::enrolled().await).await;
}

#[tokio::test]
async fn the_commands_in_install_print_what_it_shows() {
    run_all("docs/install.md", World::start().await).await;
}

#[tokio::test]
async fn the_commands_in_publish_and_consume_print_what_it_shows() {
    run_all("docs/publish-and-consume.md", World::enrolled().await).await;
}

#[tokio::test]
async fn the_commands_in_operate_print_what_it_shows() {
    run_all("docs/operate.md", World::enrolled().await).await;
}

#[tokio::test]
async fn the_commands_in_security_print_what_it_shows() {
    run_all("docs/security.md", World::enrolled().await).await;
}

#[tokio::test]
async fn the_commands_in_protocol_print_what_it_shows() {
    run_all("docs/protocol.md", World::enrolled().await).await;
}

#[tokio::test]
async fn the_redis_user_in_security_can_do_what_spoke_needs_and_reaches_no_other_key() {
    let blocks = blocks("docs/security.md");
    let lines = blocks.iter().flat_map(|block| block.text.lines());
    let mut lines = lines.filter(|line| line.contains("ACL SETUSER spoke "));
    let line = lines.next().expect("security.md makes a user").replace('\'', "");
    let words: Vec<_> = line.split_whitespace().skip(1).collect();
    let (own, device) = tokio::join!(RedisServer::start(), RedisServer::start_device());
    for redis in [&own, &device] {
        redis.command::<()>(&words).await;
    }
    let as_user = |redis: &RedisServer| redis.url().replace("//", "//spoke:its-password@");
    let (url, device_url) = (as_user(&own), as_user(&device));
    let settings = [("redis", url.as_str())];
    let cloud = Cloud::start_on(own, Settings { hub: &settings, auth: &settings }).await;
    let settings = [("redis", device_url.as_str())];
    let mut device = Device::without_agent_on(device, &cloud, "dev1", &settings).await;
    device.start_agent();

    device.redis.add(OUT, &numbered(1)).await;
    cloud.redis.add(&out("dev1"), &numbered(2)).await;
    device.acknowledged_both_ways(&cloud).await;
    let checked = device.command(&["check"]).await.done();
    assert!(!checked.stdout.contains("NOPERM"), "{checked:?}");
    for log in [device.log(), cloud.hub.log(), cloud.auth.log()] {
        assert!(!log.to_lowercase().contains("noperm"), "{log}");
    }
    let reached = cloud.redis.cli(&["--user", "spoke", "--pass", "its-password", "GET", "x"]).await;
    assert!(reached.stdout.contains("NOPERM"), "{reached:?}");
}

fn check_words(block: &Block) {
    for word in &block.words {
        let is_known =
            WORDS.contains(&word.as_str()) || word.contains('.') || block.language == "hex";
        assert!(is_known, "{}: unknown word {word}", block.place);
    }
}

fn check_elsewhere(block: &Block) {
    for line in block.text.lines().filter(|line| !line.trim().is_empty()) {
        let known = ELSEWHERE.iter().find(|(command, _)| line.starts_with(command));
        let (_, file) = known.unwrap_or_else(|| panic!("{}: nothing runs {line:?}", block.place));
        assert!(root().join(file).exists(), "{file}, which runs {line:?}, does not exist");
    }
}

#[test]
fn every_code_block_of_every_document_is_checked() {
    let guides = guides();
    for document in RUN {
        assert!(guides.iter().any(|guide| guide == document), "{document} does not exist");
    }
    for document in guides.iter().filter(|guide| !RUN.contains(&guide.as_str())) {
        for block in blocks(document) {
            check_words(&block);
            match PROGRAMS.contains(&block.language.as_str()) {
                true if block.has("root") => {}
                true => check_elsewhere(&block),
                false => check_settings(&block),
            }
        }
    }
}

#[tokio::test]
async fn blocks_that_need_root_are_run_by_the_package_check() {
    let script = page::read(AS_ROOT);
    let documents = guides().into_iter();
    let mut count = 0;
    for document in documents {
        let root_blocks: Vec<_> =
            blocks(&document).into_iter().filter(|block| block.has("root")).collect();
        if root_blocks.is_empty() {
            continue;
        }
        assert!(script.contains(&document), "{AS_ROOT} does not run {document}");
        let path = root().join(&document).display().to_string();
        let extract = root().join("scripts/doc-commands");
        let extracted = run(&extract, &Start::with(&[&path])).await.done().stdout;
        for block in root_blocks {
            assert!(extracted.contains(&block.text), "{}: not found:\n{extracted}", block.place);
            count += 1;
        }
    }
    assert!(count >= 8, "{count} blocks are too few to be all");
}
