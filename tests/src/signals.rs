//! The signals that end a program of this crate.

use tokio::signal::unix::{SignalKind, signal};

/// Resolves at Ctrl-C or SIGTERM.
///
/// # Panics
/// If signals cannot be listened for.
pub async fn signals() {
    let stream = |kind| signal(kind).expect("signals can be listened for");
    let (mut interrupt, mut terminate) =
        (stream(SignalKind::interrupt()), stream(SignalKind::terminate()));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
