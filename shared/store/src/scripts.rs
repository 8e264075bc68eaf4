//! Builds the scripts from their own text and the functions that they share.

use redis::Script;

/// The first line of a script that may write while Redis is full.
pub(super) const ALLOW_OOM: &str = "#!lua flags=allow-oom\n";
/// The first line of a script that only reads.
const NO_WRITES: &str = "#!lua flags=no-writes\n";

/// No first line: while Redis is full, the script is not run.
pub(super) const DENY_OOM: &str = "";

const SEQ: &str = include_str!("scripts/seq.lua");
const COPY_STATE: &str = include_str!("scripts/copy_state.lua");
const REACH: &str = include_str!("scripts/reach.lua");
const PAGES: &str = include_str!("scripts/pages.lua");

/// Builds a script with this first line and the functions of `seq.lua`.
pub(super) fn with_seqs(first_line: &str, body: &str) -> Script {
    Script::new(&[first_line, SEQ, body].concat())
}

/// Builds a script that changes the state of a copy, with the functions of `seq.lua` and `copy_state.lua`. While Redis
/// is full, it is not run.
pub(super) fn of_copy(body: &str) -> Script {
    Script::new(&[SEQ, COPY_STATE, body].concat())
}

/// Builds a script for an origin stream, with the functions of `seq.lua` and `reach.lua`. It may write while Redis is
/// full.
pub(super) fn of_origin(body: &str) -> Script {
    Script::new(&[ALLOW_OOM, SEQ, REACH, body].concat())
}

/// Builds a script that returns entries, with the functions of `pages.lua` too.
pub(super) fn of_entries(body: &str) -> Script {
    Script::new(&[ALLOW_OOM, SEQ, REACH, PAGES, body].concat())
}

/// Builds a script that searches a stream backwards, with the functions of `pages.lua`. It only reads.
pub(super) fn looking_back(body: &str) -> Script {
    Script::new(&[NO_WRITES, PAGES, body].concat())
}
