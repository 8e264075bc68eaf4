//! What systemd hears of a service: the other end of its `NOTIFY_SOCKET`, with a watchdog.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{net::UnixDatagram, task::AbortHandle};

/// How often a watched service says that it is alive.
pub const EVERY: Duration = Duration::from_millis(100);

/// Hears a service out, until it is dropped.
pub struct Systemd {
    path: PathBuf,
    heard: Arc<Mutex<Vec<String>>>,
    hearing: AbortHandle,
}

impl Systemd {
    /// Listens in this folder.
    ///
    /// # Panics
    /// When it cannot.
    pub fn listen(folder: &Path) -> Self {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket can be made in the folder");
        let heard = Arc::<Mutex<Vec<String>>>::default();
        // At all times: a service that is not heard stops at its eleventh word.
        let hearing = tokio::spawn(hear(socket, heard.clone())).abort_handle();
        Self { path, heard, hearing }
    }

    /// What the service finds in its environment.
    pub fn variables(&self) -> [(&'static str, String); 2] {
        // A service speaks twice in the time after which it is killed.
        let watchdog = (2 * EVERY).as_micros().to_string();
        [("NOTIFY_SOCKET", self.path.display().to_string()), ("WATCHDOG_USEC", watchdog)]
    }

    /// A command through which the service finds its own id there, too.
    pub const THROUGH: [&str; 3] = ["sh", "-c", "WATCHDOG_PID=$$ exec \"$0\" \"$@\""];

    /// All that was said since the last call, a line each.
    pub fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How often the watchdog was fed since the last call.
    pub fn feeds(&self) -> usize {
        self.heard().iter().filter(|line| *line == "WATCHDOG=1").count()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        self.hearing.abort();
    }
}

async fn hear(socket: UnixDatagram, heard: Arc<Mutex<Vec<String>>>) {
    let mut buffer = [0; 4096];
    while let Ok(length) = socket.recv(&mut buffer).await {
        let said = String::from_utf8_lossy(&buffer[..length]);
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.extend(said.lines().map(str::to_owned));
    }
}
