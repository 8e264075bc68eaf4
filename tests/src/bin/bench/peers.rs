//! Comparable programs, as installed on this machine, with the same work.

pub(crate) mod mosquitto;
pub(crate) mod nats;

use std::{
    env,
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
