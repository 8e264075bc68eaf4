//! Standard output of a command.

use std::io::{self, Write};

/// Prints a text. A reader that closes the pipe early is not an error.
///
/// # Errors
/// [`io::Error`] if standard output cannot be written.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}
