//! A process under test: started with settings of its own, its words kept, ended with the test.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{PATIENCE, eventually};

/// What is shown of a process's words when a test fails.
const TAIL_LINES: usize = 40;

/// A process that runs until it is told otherwise. When a test fails, the tail of its log is printed.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// A command that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// How a program is to be started.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment, beside `PATH`; nothing else is handed down.
    pub environment: Vec<(String, String)>,
    /// What it reads from standard input.
    pub input: Vec<u8>,
    /// A command that makes itself into the program: that and its arguments come behind these words.
    pub through: Vec<String>,
}

impl Start {
    /// With these arguments.
    pub fn with(arguments: &[&str]) -> Self {
        Self { arguments: arguments.iter().map(ToString::to_string).collect(), ..Self::default() }
    }

    /// And this variable.
    pub fn variable(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    /// And this on standard input.
    pub fn input(mut self, bytes: &[u8]) -> Self {
        self.input = bytes.to_vec();
        self
    }

    fn command(&self, program: &Path) -> Command {
        let mut words = self.through.iter().map(OsStr::new).chain([program.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).args(&self.arguments).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        // A later one of the same name wins.
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Process {
    /// Starts a program whose standard output and error go to the end of the file `log`.
    ///
    /// # Panics
    /// When it cannot be started.
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

    /// All that it wrote so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it has.
    pub fn exit(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked for its status")
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// When it has not within `PATIENCE`.
    pub async fn exited(&mut self) -> ExitStatus {
        let awaited = format!("the end of {}", self.name);
        eventually(&awaited, PATIENCE, async || self.exit().ok_or("it runs")).await
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Panics
    /// When it has not ended within `PATIENCE`.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.exited().await
    }

    /// SIGTERM, without waiting.
    pub fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGHUP: it reads its settings again.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// SIGINT, as of Ctrl-C, without waiting.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// SIGKILL: at once, with nothing finished.
    pub fn kill9(&mut self) {
        // One that has ended by itself is as dead.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGSTOP: it is there and does nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
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
            let ended = ended.map_or("it ran until now".to_owned(), |status| status.to_string());
            eprintln!("{}({ended})", self.tail());
        }
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started or does not end within `PATIENCE`.
pub async fn run(program: &Path, start: &Start) -> Finished {
    run_within(program, start, PATIENCE).await
}

/// Runs a command to its end, for no longer than `limit`.
///
/// # Panics
/// When it cannot be started or does not end in time.
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
        // One that does not read its input ends with the pipe broken.
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
    /// When it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("standard output is no JSON ({error}): {self:?}"))
    }

    /// Itself, if it did what it was told.
    ///
    /// # Panics
    /// When its code is not 0.
    pub fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }
}

/// Writes a file that only its owner may read.
///
/// # Panics
/// When it cannot be written.
pub fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt;
    let file = File::options().create(true).write(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("the file can be written");
}
