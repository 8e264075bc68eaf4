//! Commands of our own programs `in the line` of any document: there are such, with such options.

use std::collections::BTreeMap;

use spoke_tests::{
    binaries::path_of,
    process::{Start, run},
};

use crate::page::{guides, inline_code};

/// More documents that name commands.
const MORE: [&str; 3] = ["ARCHITECTURE.md", "BENCHMARKS.md", "GUARANTEES.md"];

#[tokio::test]
async fn each_command_of_ours_that_a_document_names_is_there_with_its_options() {
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
    assert!(helps.len() > 8, "{} commands are too few to be all", helps.len());
}
