//! Notifies systemd of the state of a service (`Type=notify`). Does nothing without systemd.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{info, warn};

use crate::shutdown::Shutdown;
use spoke_diagnostics::{Outage, error_chain};

/// Notifies that the service is up.
pub fn ready() {
    send(NotifyState::Ready);
}

/// Notifies that the service reloads its settings; [`ready`] ends that.
pub fn reloading() {
    // Both in one message: systemd tells reloads apart by the time.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send_all(&[NotifyState::Reloading, now]),
        Err(error) => {
            warn!(error = error_chain(&error), "failed to read the monotonic clock")
        }
    }
}

/// Notifies that the service is shutting down.
pub fn stopping() {
    send(NotifyState::Stopping);
}

/// Sets the status line of `systemctl status`.
pub fn status(line: &str) {
    // A newline would begin another assignment of the protocol.
    let line = line.replace(['\n', '\r'], " ");
    send(NotifyState::Status(&line));
}

/// Returns how often to call [`watchdog`]: twice within the time after which systemd kills. `None` without a
/// watchdog.
pub fn watchdog_interval() -> Option<Duration> {
    let mut limit_micros = 0;
    let is_wanted = sd_notify::watchdog_enabled(false, &mut limit_micros) && limit_micros > 0;
    is_wanted.then(|| Duration::from_micros(limit_micros / 2))
}

/// Notifies the watchdog that the service works.
pub fn watchdog() {
    send(NotifyState::Watchdog);
}

/// Notifies the watchdog for as long as the runtime runs tasks, until the shutdown begins.
pub async fn feed_watchdog(shutdown: Shutdown) {
    let Some(interval) = watchdog_interval() else { return };
    let mut ticks = tokio::time::interval(interval);
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            _ = ticks.tick() => watchdog(),
        }
    }
}

fn send(state: NotifyState<'_>) {
    send_all(std::slice::from_ref(&state));
}

fn send_all(states: &[NotifyState<'_>]) {
    static FAULTS: Outage = Outage::new();
    match sd_notify::notify(false, states) {
        Ok(()) => {
            if let Some(count) = FAULTS.handle_success() {
                info!(count, "systemd notification recovered");
            }
        }
        Err(error) if FAULTS.handle_fault() => {
            warn!(error = error_chain(&error), ?states, "failed to notify systemd");
        }
        Err(_) => {}
    }
}
