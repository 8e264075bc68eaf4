//! Losses are counted, and a Redis that comes back with an older state loses nothing that either end has.

#![expect(clippy::unwrap_used, reason = "this is a test, its helpers included")]

mod rewinds;
mod trims;

use std::{
    fs,
    path::{Path, PathBuf},
};

use spoke_tests::{
    cloud::Cloud,
    entries::{Fields, Stored},
    redis::RedisServer,
    wait::eventually_is,
};
use tempfile::TempDir;

const TRANSPORTS: [&str; 2] = ["ws", "http"];

/// A copy of the append-only file as it is now: what a power cut, or a backup, leaves.
struct State(TempDir);

impl State {
    fn of(redis: &RedisServer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(&redis.directory().join("appendonlydir"), folder.path());
        Self(folder)
    }

    /// Copies of it, cut after each transaction that sent entries, from the last but one backwards.
    fn cuts(&self) -> Vec<Self> {
        let is_newest = |path: &PathBuf| path.to_string_lossy().ends_with(".incr.aof");
        let files = fs::read_dir(self.0.path()).unwrap().flatten().map(|file| file.path());
        let file = files.filter(is_newest).max().unwrap();
        let bytes = fs::read(&file).unwrap();
        let exec = b"EXEC\r\n";
        let end_of = |at: usize| {
            let found = bytes[at..].windows(exec.len()).position(|part| part == exec);
            at + found.unwrap() + exec.len()
        };
        let sends = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"out_given"));
        let mut ends: Vec<_> = sends.map(end_of).collect();
        ends.dedup();
        ends.pop();
        let cut = |end: usize| {
            let folder = tempfile::tempdir().unwrap();
            copy(self.0.path(), folder.path());
            fs::write(folder.path().join(file.file_name().unwrap()), &bytes[..end]).unwrap();
            Self(folder)
        };
        ends.into_iter().rev().map(cut).collect()
    }

    /// Restarts Redis with this state on a port that no client knows.
    async fn restore(&self, redis: &mut RedisServer) {
        redis.kill9();
        let place = redis.directory().join("appendonlydir");
        fs::remove_dir_all(&place).unwrap();
        fs::create_dir(&place).unwrap();
        copy(self.0.path(), &place);
        redis.restart_unseen().await;
    }
}

fn copy(from: &Path, to: &Path) {
    for file in fs::read_dir(from).unwrap().flatten() {
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Adds an entry with the ID `n-0` for each of these numbers.
async fn add_at(
    redis: &RedisServer,
    stream: &str,
    word: &str,
    numbers: std::ops::Range<u64>,
) -> Vec<Stored> {
    let mut added = Vec::new();
    for ms in numbers {
        let fields: Fields = vec![(b"n".to_vec(), format!("{word} {ms}").into_bytes())];
        let id = redis.add_as(stream, &format!("{ms}-0"), &fields).await;
        added.push(Stored { id, fields });
    }
    added
}

/// The direction, from, to, count and cause of all lines of a ledger.
async fn lines(redis: &RedisServer, ledger: &str) -> Vec<String> {
    let names = ["direction", "from", "to", "count", "cause"];
    let line = |loss: &Stored| names.map(|name| loss.text(name).unwrap()).join(" ");
    redis.entries(ledger).await.iter().map(line).collect()
}

async fn wait_for_copy(cloud: &Cloud, entries: usize) {
    eventually_is("the hub's copy to be complete", entries, async || {
        cloud.carried("dev1").await.len()
    })
    .await;
}
