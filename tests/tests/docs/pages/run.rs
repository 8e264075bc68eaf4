//! Types what a document tells, block after block.

use std::time::{Duration, Instant};

use spoke_tests::wait::eventually;

use crate::pages::{
    PROGRAMS, RUN, check_elsewhere, check_words,
    page::{Block, blocks, read},
    settings::check_settings,
    shown::compare,
    world::{At, Running, World},
};

/// What may take a moment to be shown.
const MOMENT: Duration = Duration::from_secs(15);

/// Runs all blocks of a document in their order.
pub(crate) async fn run_all(document: &str, mut world: World) {
    assert!(RUN.contains(&document));
    let mut running = Vec::new();
    for block in blocks(document) {
        check_words(&block);
        if block.has("root") {
            // What systemd does where there is one.
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
        see_output(&world, background).await;
    }
}

/// A program that goes on running, with its block and its machine.
type Background = (Block, At, Running);

async fn run_block(world: &mut World, block: Block) -> Option<Background> {
    let at = match (block.has("device"), block.has("cloud")) {
        (true, false) => At::Device,
        (false, true) => At::Cloud,
        _ => panic!("{} says not on which machine it runs", block.place),
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
    run_to_its_end(world, at, &block, &text).await;
    if block.has("agent-stopped") {
        world.start_agent().await;
    }
    None
}

async fn run_to_its_end(world: &mut World, at: At, block: &Block, text: &str) {
    let place = &block.place;
    let deadline = Instant::now() + MOMENT;
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
            Err(_) if block.has("eventually") && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(difference) => panic!("{place}:\n{difference}\n{}", finished.stderr),
        }
    }
}

async fn see_output(world: &World, (block, at, running): Background) {
    if let Some((language, shown)) = &block.shown {
        let shown = world.substituted(at, shown).await;
        eventually(&format!("the output of {}", block.place), MOMENT, async || {
            compare(language, &shown, &running.output(), false)
        })
        .await;
    }
    running.end();
}

/// What is to be run: a program in Rust has to be built before, so it is in `tests/examples`.
fn program(block: &Block) -> String {
    let Some(file) = block.file(".rs") else { return block.text.clone() };
    let url = r#""redis://127.0.0.1:6379""#;
    let here = r#"std::env::var("REDIS_URL").unwrap_or_default()"#;
    let example = read(&format!("tests/examples/{file}"));
    // Clippy wants a word on what a file of ours is.
    let (_, example) = example.split_once("\n\n").expect("it begins with what it is");
    assert_eq!(block.text.replace(url, here), example, "{}: tests/examples/{file}", block.place);
    format!("examples/{}", file.trim_end_matches(".rs"))
}
