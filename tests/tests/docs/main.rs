//! What the documents tell people to type is typed here, so that it cannot rot.
//!
//! A fenced block says behind its language where it runs and how:
//!
//! | word | means |
//! | --- | --- |
//! | `device`, `cloud` | on which machine |
//! | `background` | it goes on running until the document's end |
//! | `eventually` | it may be repeated until it shows what is shown |
//! | `agent-stopped` | the agent stands still meanwhile |
//! | `root` | it takes root and systemd: `make deb-check` runs it, together with the others of its document |
//! | `x.toml` | settings of that service: they are read as it reads them |
//! | `x.py` | it is kept under this name for those that follow |
//! | `x.rs` | a program: it is the one in `tests/examples` |
//!
//! A block of `text` or `json` right below one is what that puts out (`shown`). A block of which nobody
//! knows how to run it fails.

#![expect(clippy::unwrap_used, reason = "this is a test, its helpers included")]

mod agent;
mod commands;
mod frames;
mod links;
mod page;
mod settings;
mod shown;
mod world;

use std::time::Duration;

use spoke_tests::{
    cloud::{Cloud, Settings, out},
    device::{Device, OUT},
    entries::numbered,
    process::{Start, run},
    redis::RedisServer,
    wait::eventually,
};

use crate::{
    page::{Block, blocks, guides},
    settings::check_settings,
    shown::compare,
    world::{At, Running, World},
};

/// What is run: how it is to be run follows from the block.
const PROGRAMS: [&str; 4] = ["sh", "python", "javascript", "rust"];
/// Behind a language.
const WORDS: [&str; 6] = ["device", "cloud", "background", "eventually", "agent-stopped", "root"];
/// What may take a moment to be shown.
const MOMENT: Duration = Duration::from_secs(15);

/// Each with its own test below.
const RUN: [&str; 6] = [
    "README.md",
    "docs/install.md",
    "docs/operate.md",
    "docs/protocol.md",
    "docs/publish-and-consume.md",
    "docs/security.md",
];

/// Commands that say not where they run, since they run in the repository, and what runs them.
const ELSEWHERE: [(&str, &str); 2] = [
    ("make demo", "tests/tests/demo.rs"),
    // The same as `make bench` runs, but for what is built beside.
    ("cargo build --release -p spoke-agent -p spoke-hub -p spoke-auth", "Makefile"),
];
/// What takes root is run by this, and by what it names.
const AS_ROOT: &str = "scripts/check-debs";

#[tokio::test]
async fn what_the_readme_tells_to_type_works() {
    run_all("README.md", World::enrolled().await).await;
}

#[tokio::test]
async fn what_install_tells_to_type_does_what_it_says() {
    run_all("docs/install.md", World::start().await).await;
}

#[tokio::test]
async fn what_publish_and_consume_tells_to_type_does_what_it_says() {
    run_all("docs/publish-and-consume.md", World::enrolled().await).await;
}

#[tokio::test]
async fn what_operate_tells_to_type_does_what_it_says() {
    run_all("docs/operate.md", World::enrolled().await).await;
}

#[tokio::test]
async fn what_security_tells_to_type_does_what_it_says() {
    run_all("docs/security.md", World::enrolled().await).await;
}

#[tokio::test]
async fn what_protocol_tells_to_type_does_what_it_says() {
    run_all("docs/protocol.md", World::enrolled().await).await;
}

#[tokio::test]
async fn the_redis_user_of_security_may_all_that_spoke_needs_and_reaches_no_other_key() {
    let blocks = blocks("docs/security.md");
    let lines = blocks.iter().flat_map(|block| block.text.lines());
    let mut lines = lines.filter(|line| line.contains("ACL SETUSER spoke "));
    let line = lines.next().expect("security.md makes a user").replace('\'', "");
    let words: Vec<_> = line.split_whitespace().skip(1).collect();
    let (own, device) = tokio::join!(RedisServer::start(), RedisServer::start());
    for redis in [&own, &device] {
        redis.command::<()>(&words).await;
    }
    let by = |redis: &RedisServer| redis.url().replace("//", "//spoke:its-password@");
    let (url, device_url) = (by(&own), by(&device));
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

async fn run_all(document: &str, mut world: World) {
    assert!(RUN.contains(&document));
    let mut running: Vec<(Block, At, Running)> = Vec::new();
    for block in blocks(document) {
        let place = &block.place;
        check_words(&block);
        if block.has("root") {
            // What systemd does where there is one.
            if block.text.contains("systemctl enable --now spoke-agent") {
                world.start_agent().await;
            }
            continue;
        }
        if !PROGRAMS.contains(&block.language.as_str()) {
            check_settings(&block);
            continue;
        }
        if block.words.is_empty() {
            check_elsewhere(&block);
            continue;
        }
        println!("{place}");
        let at = match (block.has("device"), block.has("cloud")) {
            (true, false) => At::Device,
            (false, true) => At::Cloud,
            _ => panic!("{place} says not on which machine it runs"),
        };
        if let Some(file) = block.file(".py") {
            world.write(at, file, &block.text).await;
            continue;
        }
        let text = program(&block);
        if block.has("background") {
            let begun = world.begin(at, &block.language, &text).await;
            running.push((block, at, begun));
            continue;
        }
        if block.has("agent-stopped") {
            world.stop_agent().await;
        }
        run_one(&mut world, at, &block, &text).await;
        if block.has("agent-stopped") {
            world.start_agent().await;
        }
    }
    for (block, at, running) in running {
        if let Some((language, shown)) = &block.shown {
            let shown = world.substituted(at, shown).await;
            eventually(&format!("the output of {}", block.place), MOMENT, async || {
                compare(language, &shown, &running.output(), false)
            })
            .await;
        }
        running.end();
    }
}

async fn run_one(world: &mut World, at: At, block: &Block, text: &str) {
    let place = &block.place;
    let deadline = std::time::Instant::now() + MOMENT;
    loop {
        let finished = world.run(at, &block.language, text).await;
        assert_eq!(finished.code, Some(0), "{place}: {finished:?}");
        let is_shown = |word| block.shown.as_ref().is_some_and(|(_, shown)| shown.contains(word));
        let is_refused = finished.stdout.contains("(error)") && !is_shown("(error)");
        assert!(!is_refused, "{place}: redis refuses: {}", finished.stdout);
        let Some((language, shown)) = &block.shown else { return };
        let shown = world.substituted(at, shown).await;
        match compare(language, &shown, &finished.stdout, true) {
            Ok(()) => return,
            Err(_) if block.has("eventually") && std::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(difference) => panic!("{place}:\n{difference}\n{}", finished.stderr),
        }
    }
}

/// What is to be run: a program in Rust has to be built before, so it is in `tests/examples`.
fn program(block: &Block) -> String {
    let Some(file) = block.file(".rs") else { return block.text.clone() };
    let url = r#""redis://127.0.0.1:6379""#;
    let here = r#"std::env::var("REDIS_URL").unwrap_or_default()"#;
    let example = page::read(&format!("tests/examples/{file}"));
    // What the compiler wants to hear of a program that is a file of ours.
    let (_, example) = example.split_once("\n\n").expect("it begins with what it is");
    assert_eq!(block.text.replace(url, here), example, "{}: tests/examples/{file}", block.place);
    format!("examples/{}", file.trim_end_matches(".rs"))
}

fn check_words(block: &Block) {
    for word in &block.words {
        let is_known =
            WORDS.contains(&word.as_str()) || word.contains('.') || block.language == "hex";
        assert!(is_known, "{}: nobody knows what {word} means", block.place);
    }
}

fn check_elsewhere(block: &Block) {
    for line in block.text.lines().filter(|line| !line.trim().is_empty()) {
        let known = ELSEWHERE.iter().find(|(command, _)| line.starts_with(command));
        let (_, file) = known.unwrap_or_else(|| panic!("{}: nothing runs {line:?}", block.place));
        assert!(page::root().join(file).exists(), "{file}, which runs {line:?}, is gone");
    }
}

#[test]
fn no_block_of_any_document_is_left_out() {
    let guides = guides();
    for document in RUN {
        assert!(guides.iter().any(|guide| guide == document), "{document} is gone");
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
async fn what_takes_root_is_run_where_packages_are_checked() {
    let script = page::read(AS_ROOT);
    let documents = guides().into_iter();
    let mut count = 0;
    for document in documents {
        let rooted: Vec<_> =
            blocks(&document).into_iter().filter(|block| block.has("root")).collect();
        if rooted.is_empty() {
            continue;
        }
        assert!(script.contains(&document), "{AS_ROOT} passes over {document}");
        let path = page::root().join(&document).display().to_string();
        let extract = page::root().join("scripts/doc-commands");
        let extracted = run(&extract, &Start::with(&[&path])).await.done().stdout;
        for block in rooted {
            assert!(extracted.contains(&block.text), "{}: not found:\n{extracted}", block.place);
            count += 1;
        }
    }
    assert!(count >= 8, "{count} blocks are too few to be all");
}
