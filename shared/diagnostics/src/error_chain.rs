//! The text of an error with all its causes, for the log, for commands and for the status. Everything uses it, so
//! that the message of the operating system, which is the last cause, is always included.
//!
//! Rejected: passing errors to the log as they are. `%error` is the outermost text only; an error as a value has
//! its causes in the text format and loses them in the JSON format.

use std::error::Error;

/// Returns an error with all its causes in one line, `a: b: c`. A cause whose text is included already is left
/// out: some libraries repeat in their text what they also give as the source.
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Nested {
        #[error("failed to start")]
        Outer(#[source] Box<Self>),
        #[error("failed to read /x: {0}")]
        Repeats(#[source] io::Error),
        #[error("failed to read /x")]
        Plain(#[source] io::Error),
    }

    #[test]
    fn the_error_chain_has_each_cause_once_down_to_the_operating_systems() {
        let missing = || io::Error::from_raw_os_error(2);
        let expected = "failed to start: failed to read /x: No such file or directory (os error 2)";
        for inner in [Nested::Repeats(missing()), Nested::Plain(missing())] {
            assert_eq!(error_chain(&Nested::Outer(Box::new(inner))), expected);
        }
        let wrapped = anyhow::Error::from(Nested::Plain(missing())).context("failed to start");
        assert_eq!(error_chain(wrapped.as_ref()), expected);
        assert_eq!(error_chain(&missing()), "No such file or directory (os error 2)");
    }
}
