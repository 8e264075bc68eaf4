//! Runs a document's blocks, one after the other.

use std::time::{Duration, Instant};

use spoke_tests::wait::eventually;

use crate::pages::{
    PROGRAMS, RUN, check_elsewhere, check_words,
    page::{Block, blocks, read},
    settings::check_settings,
    shown::compare,
    world::{At, Running, World},
};

/// The time limit for expected output to appear.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(15);

/// Runs all blocks of a document in their order.
pub(crate) async fn run_all(document: &str, mut world: World) {
    assert!(RUN.contains(&document));
    let mut running = Vec::new();
    for block in blocks(document) {
        check_words(&block);
        if block.has("root") {
            // Starts the agent as systemd would.
            if block.text.contains("systemctl enable --now spoke-agent") {
                world.start_agent().await;
            }
        } else if !PROGRAMS.contains(&block.language.as_str()) {
            check_settings(&block);
        } else if block.words.is_empty() {
            check_elsewhere(&block);
        } else {
            println!("{}", block.place);
            running.extend(run_block(&mut world, block).await);
        }
    }
    for background in running {
        check_output(&world, background).await;
    }
}

/// A program that keeps running, with its block and its machine.
type Background = (Block, At, Running);

async fn run_block(world: &mut World, block: Block) -> Option<Background> {
    let at = match (block.has("device"), block.has("cloud")) {
        (true, false) => At::Device,
        (false, true) => At::Cloud,
        _ => panic!("{} does not say on which machine it runs", block.place),
    };
    if let Some(file) = block.file(".py") {
        world.write(at, file, &block.text).await;
        return None;
    }
    let text = program(&block);
    if block.has("background") {
        let begun = world.begin(at, &block.language, &text).await;
        return Some((block, at, begun));
    }
    if block.has("agent-stopped") {
        world.stop_agent().await;
    }
    run_until_exit(world, at, &block, &text).await;
    if block.has("agent-stopped") {
        world.start_agent().await;
    }
    None
}

async fn run_until_exit(world: &mut World, at: At, block: &Block, text: &str) {
    let place = &block.place;
    let deadline = Instant::now() + OUTPUT_TIMEOUT;
    loop {
        let finished = world.run(at, &block.language, text).await;
        assert_eq!(finished.code, Some(0), "{place}: {finished:?}");
        let is_shown = |word| block.shown.as_ref().is_some_and(|(_, shown)| shown.contains(word));
        let is_refused = finished.stdout.contains("(error)") && !is_shown("(error)");
        assert!(!is_refused, "{place}: redis refused: {}", finished.stdout);
        let Some((language, shown)) = &block.shown else { return };
        let shown = world.substituted(at, shown).await;
        match compare(language, &shown, &finished.stdout, true) {
            Ok(()) => return,
            Err(_) if block.has("eventually") && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(difference) => panic!("{place}:\n{difference}\n{}", finished.stderr),
        }
    }
}

async fn check_output(world: &World, (block, at, running): Background) {
    if let Some((language, shown)) = &block.shown {
        let shown = world.substituted(at, shown).await;
        eventually(&format!("the output of {}", block.place), OUTPUT_TIMEOUT, async || {
            compare(language, &shown, &running.output(), false)
        })
        .await;
    }
    running.end();
}

/// The program to run. A Rust program has to be built first, so it is in `tests/examples`.
fn program(block: &Block) -> String {
    let Some(file) = block.file(".rs") else { return block.text.clone() };
    let url = r#""redis://127.0.0.1:6379""#;
    let here = r#"std::env::var("REDIS_URL").unwrap_or_default()"#;
    let example = read(&format!("tests/examples/{file}"));
    // The file begins with a doc comment, which clippy requires.
    let (_, example) = example.split_once("\n\n").expect("the file begins with a doc comment");
    assert_eq!(block.text.replace(url, here), example, "{}: tests/examples/{file}", block.place);
    format!("examples/{}", file.trim_end_matches(".rs"))
}
