//! A process under test: started with its own settings, its output kept, ended with the test.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::wait::{PATIENCE, eventually};

/// The lines of a process's log that are printed if a test fails.
const TAIL_LINES: usize = 40;

/// A process. It is killed when dropped; if the test fails, the tail of its log is printed.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// A command that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// How to start a program.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment, in addition to `PATH`; nothing else is inherited.
    pub environment: Vec<(String, String)>,
    /// Its standard input.
    pub input: Vec<u8>,
    /// A command that executes the program: the program and its arguments follow these words.
    pub through: Vec<String>,
}

impl Start {
    /// A start with these arguments.
    pub fn with(arguments: &[&str]) -> Self {
        Self { arguments: arguments.iter().map(ToString::to_string).collect(), ..Self::default() }
    }

    /// Adds an environment variable.
    pub fn variable(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    /// Sets the standard input.
    pub fn input(mut self, bytes: &[u8]) -> Self {
        self.input = bytes.to_vec();
        self
    }

    fn command(&self, program: &Path) -> Command {
        let mut words = self.through.iter().map(OsStr::new).chain([program.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).args(&self.arguments).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        // A later variable of the same name wins.
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Process {
    /// Starts a program whose standard output and error are appended to the file `log`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(program: &Path, start: &Start, log: &Path) -> Self {
        let name = program.file_name().map(OsStr::to_string_lossy).unwrap_or_default().into_owned();
        let output = File::options().create(true).append(true).open(log);
        let output = output.expect("the log file can be written");
        let errors = output.try_clone().expect("a file handle can be duplicated");
        let mut command = start.command(program);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child =
            command.spawn().unwrap_or_else(|error| panic!("failed to start {name}: {error}"));
        Self { name, child, log: log.to_owned() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its output so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its exit status, if it has ended.
    pub fn exit(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked for its status")
    }

    /// Waits for its exit.
    ///
    /// # Panics
    /// If that takes longer than `PATIENCE`.
    pub async fn exited(&mut self) -> ExitStatus {
        let awaited = format!("the end of {}", self.name);
        eventually(&awaited, PATIENCE, async || self.exit().ok_or("it is still running")).await
    }

    /// Sends SIGTERM, and waits for its exit.
    ///
    /// # Panics
    /// If it does not end within `PATIENCE`.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.exited().await
    }

    /// Sends SIGTERM, without waiting.
    pub fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGHUP, at which it reloads its settings.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Sends SIGINT, like Ctrl-C, without waiting.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Sends SIGKILL, and waits for its exit.
    pub fn kill9(&mut self) {
        // It fails if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends SIGKILL, without a wait.
    pub fn send_kill9(&self) {
        self.signal(Signal::KILL);
    }

    /// Sends SIGSTOP: the process exists and does nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Sends SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.expect("a child has an id");
        kill_process(pid, signal).unwrap_or_else(|error| {
            panic!("failed to send {signal:?} to {}: {error}", self.name);
        });
    }

    /// The end of its log, under its name.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        format!("--- {} (process {}) ---\n{}\n", self.name, self.pid(), tail.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.child.try_wait().ok().flatten();
        self.kill9();
        if std::thread::panicking() {
            let ended = ended.map_or("still running".to_owned(), |status| status.to_string());
            eprintln!("{}({ended})", self.tail());
        }
    }
}

/// Runs a command until it ends.
///
/// # Panics
/// If it cannot be started or does not end within `PATIENCE`.
pub async fn run(program: &Path, start: &Start) -> Finished {
    run_within(program, start, PATIENCE).await
}

/// Runs a command until it ends, for at most `limit`.
///
/// # Panics
/// If it cannot be started or does not end in time.
pub async fn run_within(program: &Path, start: &Start, limit: Duration) -> Finished {
    let mut command = start.command(program);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let name = program.display();
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("failed to start {name}: {error}"));
    let mut stdin = child.stdin.take().expect("standard input is a pipe");
    let input = async {
        // The pipe breaks if the command does not read its input.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stdin, &start.input).await;
        drop(stdin);
    };
    let ended = async { tokio::join!(input, child.wait_with_output()).1 };
    let output = tokio::time::timeout(limit, ended)
        .await
        .unwrap_or_else(|_| panic!("{name} {:?} did not end within {limit:?}", start.arguments))
        .expect("a child's output can be read");
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Finished {
    /// Its standard output as JSON.
    ///
    /// # Panics
    /// If it is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("standard output is not JSON ({error}): {self:?}"))
    }

    /// Returns itself if its exit code is 0.
    ///
    /// # Panics
    /// If its exit code is not 0.
    pub fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }
}

/// Writes a file that only its owner may read.
///
/// # Panics
/// If it cannot be written.
pub fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt;
    let file = File::options().create(true).write(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("the file can be written");
}

/// Raises the limit of open files to its maximum, for this process and those that it starts.
///
/// # Panics
/// If the system refuses.
pub fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    raised.expect("the limit may be raised to its maximum");
}
