//! The other end of a service's `NOTIFY_SOCKET`, with a watchdog, in the role of systemd.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{net::UnixDatagram, task::AbortHandle};

/// The interval in which a watched service must notify the watchdog.
pub const EVERY: Duration = Duration::from_millis(100);

/// Receives a service's notifications until it is dropped.
pub struct Systemd {
    path: PathBuf,
    heard: Arc<Mutex<Vec<String>>>,
    receiving: AbortHandle,
}

impl Systemd {
    /// Listens on a socket in this folder.
    ///
    /// # Panics
    /// If the socket cannot be made.
    pub fn listen(folder: &Path) -> Self {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket can be made in the folder");
        let heard = Arc::<Mutex<Vec<String>>>::default();
        // Always reads: a service blocks at its eleventh unread datagram.
        let receiving = tokio::spawn(receive(socket, heard.clone())).abort_handle();
        Self { path, heard, receiving }
    }

    /// Returns the variables for the service's environment.
    pub fn variables(&self) -> [(&'static str, String); 2] {
        // A service notifies twice within the watchdog's timeout.
        let watchdog = (2 * EVERY).as_micros().to_string();
        [("NOTIFY_SOCKET", self.path.display().to_string()), ("WATCHDOG_USEC", watchdog)]
    }

    /// A command that starts the service with its own process id in `WATCHDOG_PID`.
    pub const THROUGH: [&str; 3] = ["sh", "-c", "WATCHDOG_PID=$$ exec \"$0\" \"$@\""];

    /// Returns the lines received since the last call.
    pub fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns how often the watchdog was notified since the last call; takes all lines.
    pub fn watchdog_notifications(&self) -> usize {
        self.heard().iter().filter(|line| *line == "WATCHDOG=1").count()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        self.receiving.abort();
    }
}

async fn receive(socket: UnixDatagram, heard: Arc<Mutex<Vec<String>>>) {
    let mut buffer = [0; 4096];
    while let Ok(length) = socket.recv(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..length]);
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.extend(text.lines().map(str::to_owned));
    }
}
