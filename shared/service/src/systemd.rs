//! Telling systemd how a service is (`Type=notify`). Without systemd nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{info, warn};

use crate::shutdown::Shutdown;
use spoke_diagnostics::{error_chain::error_chain, log_limit::Outage};

/// The service is up.
pub fn ready() {
    send(NotifyState::Ready);
}

/// The service reads its settings again; `ready` ends that.
pub fn reloading() {
    // Both in one message, by which systemd tells this reload from one before.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send_all(&[NotifyState::Reloading, now]),
        Err(error) => {
            warn!(error = error_chain(&error), "failed to read the clock that systemd goes by")
        }
    }
}

/// The service is shutting down.
pub fn stopping() {
    send(NotifyState::Stopping);
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    // A newline would begin another assignment.
    let line = line.replace(['\n', '\r'], " ");
    send(NotifyState::Status(&line));
}

/// How often to call `watchdog`: twice in the time after which systemd kills. None without a watchdog.
pub fn watchdog_interval() -> Option<Duration> {
    let mut limit_micros = 0;
    let is_wanted = sd_notify::watchdog_enabled(false, &mut limit_micros) && limit_micros > 0;
    is_wanted.then(|| Duration::from_micros(limit_micros / 2))
}

/// The service is alive and does its work.
pub fn watchdog() {
    send(NotifyState::Watchdog);
}

/// Says so as often as systemd wants to hear it, as long as this runtime turns.
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
                info!(count, "systemd is notified again");
            }
        }
        Err(error) if FAULTS.handle_fault() => {
            warn!(error = error_chain(&error), ?states, "failed to notify systemd");
        }
        Err(_) => {}
    }
}
