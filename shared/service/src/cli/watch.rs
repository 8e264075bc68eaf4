//! `--watch`: repeats a report, in place on a terminal.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use super::output::print;
use spoke_diagnostics::error_chain;

/// Between two reports.
const INTERVAL: Duration = Duration::from_secs(2);

/// Prints the text of `report` every two seconds until Ctrl-C. An error is printed in its place: the watched service
/// may recover.
///
/// # Errors
/// If standard output cannot be written, or there is no handler for Ctrl-C.
pub async fn watch(mut report: impl AsyncFnMut() -> anyhow::Result<String>) -> anyhow::Result<()> {
    let is_terminal = io::stdout().is_terminal();
    loop {
        let text = tokio::select! {
            text = report() => text.unwrap_or_else(|error| format!("{}\n", error_chain(error.as_ref()))),
            ended = tokio::signal::ctrl_c() => return Ok(ended?),
        };
        print(&if is_terminal { in_place(&text) } else { format!("{text}\n") })?;
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            ended = tokio::signal::ctrl_c() => return Ok(ended?),
        }
    }
}

/// Overwrites the screen from the top, line by line, and clears the rest. Clearing the screen first would flicker.
fn in_place(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}
