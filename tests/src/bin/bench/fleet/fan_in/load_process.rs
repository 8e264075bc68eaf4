//! The other end of `bench load`.

use std::{process::Stdio, time::Duration};

use clap::ValueEnum;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::loader::{BEGUN, Load, LoadResult, READY};

/// Longer than connecting, or a run, takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// The loader. It ends when dropped, or with this process.
pub(super) struct LoadProcess {
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl LoadProcess {
    /// Starts it and waits until its clients are connected.
    ///
    /// # Panics
    /// If they do not connect.
    pub(super) async fn start(load: &Load) -> Self {
        let own = std::env::current_exe().expect("a process knows its executable");
        let protocol = load.protocol.to_possible_value().expect("each protocol has a name");
        let mut command = Command::new(own);
        command.arg("load").args(["--protocol", protocol.get_name()]);
        for (name, value) in [
            ("--port", u64::from(load.port)),
            ("--seed", load.seed),
            ("--clients", load.clients as u64),
            ("--first-client", load.first_client as u64),
            ("--per-second", load.per_second),
            ("--warm-up-ms", load.warm_up_ms),
            ("--measured-ms", load.measured_ms),
        ] {
            command.args([name, &value.to_string()]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the benchmark can start itself");
        let stdin = child.stdin.take().expect("standard input is a pipe");
        let stdout = child.stdout.take().expect("standard output is a pipe");
        let mut process = Self { stdin, stdout: BufReader::new(stdout).lines(), child };
        assert_eq!(process.line().await, READY, "the loader connects");
        process
    }

    /// Starts the load, and waits until its measured part begins.
    ///
    /// # Panics
    /// If it ends before.
    pub(super) async fn begin(&mut self) {
        self.stdin.write_all(b"\n").await.expect("the loader runs until it is dropped");
        assert_eq!(self.line().await, BEGUN, "the measured part begins");
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// Why the system refused the load.
    pub(super) async fn result(&mut self) -> Result<LoadResult, String> {
        let line = self.line().await;
        serde_json::from_str(&line).map_err(|_| line)
    }

    /// The id of its process.
    ///
    /// # Panics
    /// If it has ended.
    pub(super) fn pid(&self) -> u32 {
        self.child.id().expect("the loader runs until it is dropped")
    }

    async fn line(&mut self) -> String {
        let line = timeout(PATIENCE, self.stdout.next_line()).await;
        let line = line.expect("the loader answers in time").expect("a pipe can be read");
        line.expect("the loader runs until it is dropped")
    }
}
