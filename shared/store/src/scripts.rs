//! What the scripts are made of beside their own text.

use redis::Script;

/// The first line of a script that may write where Redis is full.
pub(super) const ALLOW_OOM: &str = "#!lua flags=allow-oom\n";
/// The first line of a script that only reads.
const NO_WRITES: &str = "#!lua flags=no-writes\n";
/// No first line: where Redis is full, the script does not begin.
pub(super) const DENY_OOM: &str = "";

const SEQ: &str = include_str!("scripts/seq.lua");
const REACH: &str = include_str!("scripts/reach.lua");
const PAGES: &str = include_str!("scripts/pages.lua");

/// A script behind this first line, with the functions of `seq.lua` before it.
pub(super) fn with_seqs(first_line: &str, body: &str) -> Script {
    Script::new(&[first_line, SEQ, body].concat())
}

/// The same of an origin stream, with those of `reach.lua` too; it may write where Redis is full.
pub(super) fn of_origin(body: &str) -> Script {
    Script::new(&[ALLOW_OOM, SEQ, REACH, body].concat())
}

/// The same of one that gives entries, with those of `pages.lua` too.
pub(super) fn of_entries(body: &str) -> Script {
    Script::new(&[ALLOW_OOM, SEQ, REACH, PAGES, body].concat())
}

/// One that looks back through a stream, with the functions of `pages.lua` before it.
pub(super) fn looking_back(body: &str) -> Script {
    Script::new(&[NO_WRITES, PAGES, body].concat())
}
