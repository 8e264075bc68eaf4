//! Comparable programs, as installed on this machine, with the same work.

pub(crate) mod mosquitto;
pub(crate) mod nats;

use std::{
    env,
    io::{self, Read},
    net::TcpStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use spoke_tests::{process::Process, wait::PATIENCE};

/// The programs to find.
pub(crate) const PROGRAMS: [&str; 2] = ["nats-server", "mosquitto"];
/// The interval at which a peer's progress is polled: long, since each answer costs it something.
const LOOK: Duration = Duration::from_millis(10);
/// Longer than any of their work here.
const LIMIT: Duration = Duration::from_secs(300);

/// Bytes of one read.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// Bytes that were received and not parsed yet.
#[derive(Debug, Default)]
pub(crate) struct ReadBuffer {
    bytes: Vec<u8>,
    /// Those before this position have been parsed.
    parsed: usize,
}

impl ReadBuffer {
    /// The bytes to parse.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.parsed..]
    }

    /// Removes this many bytes.
    pub(crate) fn consume(&mut self, length: usize) {
        self.parsed += length;
        if self.parsed == self.bytes.len() {
            self.bytes.clear();
            self.parsed = 0;
        }
    }

    /// Reads once, through a `scratch` that many buffers may share.
    ///
    /// # Errors
    /// Those of the read; `UnexpectedEof` at the end.
    pub(crate) fn fill(&mut self, from: &mut impl Read, scratch: &mut [u8]) -> io::Result<usize> {
        let length = loop {
            match from.read(scratch) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.bytes.drain(..std::mem::take(&mut self.parsed));
        self.bytes.extend_from_slice(&scratch[..length]);
        Ok(length)
    }
}

/// The program of this name: on the path, where Debian keeps servers, or in `target/tools`.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let fetched = env::current_exe().ok()?.ancestors().nth(2)?.join("tools/bin");
    let mut folders = env::split_paths(&path).chain(["/usr/sbin".into(), fetched]);
    folders.find_map(|folder| Some(folder.join(name)).filter(|program| program.is_file()))
}

/// Waits until a process that was just started listens on its port.
async fn wait_for_port(process: &mut Process, port: u16) {
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let ended = process.exit().is_some() || begun.elapsed() > PATIENCE;
        assert!(!ended, "nothing listens on port {port}:\n{}", process.tail());
        tokio::time::sleep(LOOK).await;
    }
}

/// The number that a message begins with.
fn number(message: &[u8]) -> u64 {
    let text = std::str::from_utf8(message).ok();
    let number = text.and_then(|text| text.split(' ').next()?.parse().ok());
    number.expect("each message begins with its number")
}
