//! `--watch`: the same answer over and over, in place where a terminal shows it.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use super::output::print;
use spoke_diagnostics::error_chain::error_chain;

/// From one look to the next.
const INTERVAL: Duration = Duration::from_secs(2);

/// Prints what `look` gives, every two seconds, until Ctrl-C. A look that fails is shown in its place: what
/// is watched may come back.
///
/// # Errors
/// Standard output cannot be written, or there is no handler for Ctrl-C.
pub async fn watch(mut look: impl AsyncFnMut() -> anyhow::Result<String>) -> anyhow::Result<()> {
    let is_terminal = io::stdout().is_terminal();
    loop {
        let text = tokio::select! {
            text = look() => text.unwrap_or_else(|error| format!("{}\n", error_chain(error.as_ref()))),
            ended = tokio::signal::ctrl_c() => return Ok(ended?),
        };
        print(&if is_terminal { in_place(&text) } else { format!("{text}\n") })?;
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            ended = tokio::signal::ctrl_c() => return Ok(ended?),
        }
    }
}

/// Over what stands there: from the top, each line to its end, and nothing below. It does not flicker, as
/// clearing the screen first would.
fn in_place(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}
