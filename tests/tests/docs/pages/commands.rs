//! Inline commands of the documents: Spoke's programs have these commands and options, Redis accepts its
//! commands, and the Makefile has the targets.

use std::collections::BTreeMap;

use spoke_tests::{
    binaries::path_of,
    process::{Start, run},
    redis::RedisServer,
};

use crate::pages::page::{guides, inline_code, read};

/// Further documents that name commands.
const MORE: [&str; 3] = ["ARCHITECTURE.md", "BENCHMARKS.md", "GUARANTEES.md"];

#[tokio::test]
async fn every_spoke_command_in_the_documents_exists_with_its_options() {
    let mut helps: BTreeMap<(String, String), String> = BTreeMap::new();
    let documents = guides().into_iter().chain(MORE.map(str::to_owned));
    for (document, code) in documents
        .flat_map(|path| inline_code(&path).into_iter().map(move |code| (path.clone(), code)))
    {
        let mut words = code.split_whitespace();
        let Some(program) =
            words.next().filter(|word| ["spoke-agent", "spoke-auth", "spoke-hub"].contains(word))
        else {
            continue;
        };
        let Some(command) = words.next() else { continue };
        let key = (program.to_owned(), command.to_owned());
        if !helps.contains_key(&key) {
            let help = run(&path_of(program), &Start::with(&[command, "--help"])).await;
            assert_eq!(help.code, Some(0), "{document}: there is no `{program} {command}`");
            helps.insert(key.clone(), help.stdout);
        }
        let help = &helps[&key];
        for option in words.filter(|word| word.starts_with("--")) {
            assert!(help.contains(option), "{document}: `{program} {command}` has no {option}");
        }
    }
    assert!(helps.len() >= 8, "{} commands are too few to be all", helps.len());
}

/// First words of Redis commands.
const REDIS: [&str; 5] = ["CONFIG", "XADD", "XRANGE", "XREVRANGE", "XTRIM"];

#[tokio::test]
async fn redis_accepts_every_command_in_the_documents() {
    let redis = RedisServer::start().await;
    let mut count = 0;
    for document in guides() {
        for code in inline_code(&document) {
            let words: Vec<_> = code.split_whitespace().collect();
            if words.len() > 2 && REDIS.contains(&words[0]) {
                let finished = redis.cli(&words).await.done();
                assert!(!finished.stdout.contains("ERR"), "{document}: `{code}`: {finished:?}");
                count += 1;
            }
        }
    }
    assert!(count >= 4, "{count} commands are too few to be all");
}

#[test]
fn the_makefile_has_every_target_in_the_documents() {
    let makefile = read("Makefile");
    let documents = guides().into_iter().chain(MORE.map(str::to_owned));
    for document in documents {
        for code in inline_code(&document) {
            let Some(("make", words)) = code.split_once(' ') else { continue };
            let target = words.split_whitespace().next().unwrap_or_default();
            let is_there = makefile.contains(&format!("\n{target}: "));
            assert!(is_there, "{document}: there is no `make {target}`");
        }
    }
}
