//! The other end of `bench play`.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::play::{Play, State};

/// The longest time for an answer on a machine at its limit.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A process that simulates clients. It ends when dropped, or with this process.
pub(super) struct Player {
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Player {
    /// Starts the process.
    ///
    /// # Panics
    /// If it cannot be started.
    pub(super) fn start(part: &Play) -> Self {
        let own = std::env::current_exe().expect("a process knows its executable");
        let mut command = Command::new(own);
        command.arg("play").args(["--hub", &part.hub.to_string()]);
        command.args(["--redis", part.redis.as_str()]);
        if let Some(ca_file) = &part.ca_file {
            command.arg("--ca-file").arg(ca_file);
        }
        command.args(["--seed", &part.seed.to_string()]);
        command.args(["--first", &part.first.to_string(), "--count", &part.count.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the benchmark can start itself");
        let stdin = child.stdin.take().expect("standard input is a pipe");
        let stdout = child.stdout.take().expect("standard output is a pipe");
        Self { stdin, stdout: BufReader::new(stdout).lines(), _child: child }
    }

    /// The state of its clients.
    ///
    /// # Panics
    /// If it does not answer.
    pub(super) async fn state(&mut self) -> State {
        self.stdin.write_all(b"\n").await.expect("a player runs until it is dropped");
        let line = timeout(ANSWER_WITHIN, self.stdout.next_line()).await;
        let line = line.expect("a player answers in time").expect("a pipe can be read");
        let line = line.expect("a player runs until it is dropped");
        serde_json::from_str(&line).expect("a player answers with its state")
    }
}
