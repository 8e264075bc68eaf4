//! Logging: to standard error, as text or as one JSON object per line. In the journal, the priority stands in front of
//! each line, and journald removes it (sd-daemon(3)).
//!
//! A level without a name is the level of our own crates. Libraries log errors only, unless they are named: a peer can
//! make a library warn as often as it likes.
//!
//! An event is one line, and none of its characters controls a terminal, whatever text a peer sent.
//!
//! Rejected: journald's own protocol with one field for each of ours. The lines in a file, in a container and in the
//! journal would differ, and `journalctl -o cat | jq` reads the fields too.

use std::{
    borrow::Cow,
    env,
    fmt::Write as _,
    fs::File,
    io::{self, IsTerminal, Write},
    os::{fd::AsFd, unix::fs::MetadataExt},
    sync::OnceLock,
};

use tracing::{Level, Metadata, level_filters::LevelFilter};
use tracing_subscriber::{
    Registry,
    filter::Targets,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use crate::config::{ConfigError, LogFormat, LogSettings};
use spoke_diagnostics::error_chain;

/// Our own crates: the first part of the paths of their modules.
const OURS: [&str; 8] = [
    "spoke_agent",
    "spoke_auth",
    "spoke_diagnostics",
    "spoke_hub",
    "spoke_protocol",
    "spoke_service",
    "spoke_store",
    "spoke_tests",
];
/// The maximum level of other crates, unless they are named.
const OTHERS: LevelFilter = LevelFilter::ERROR;

/// Changes the level of this process.
static LEVEL: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Starts logging for the rest of the process. A second call changes nothing.
///
/// # Errors
/// [`ConfigError`] if `log.level` is not a valid level.
pub fn init(log: &LogSettings) -> Result<(), ConfigError> {
    let (filter, level) = reload::Layer::new(filter(&log.level)?);
    let registry = tracing_subscriber::registry().with(filter);
    let default = if io::stdout().is_terminal() { LogFormat::Text } else { LogFormat::Json };
    let format = log.format.unwrap_or(default);
    let has_colours = format == LogFormat::Text && io::stderr().is_terminal();
    let lines = StderrLines { is_journal: is_journal(), has_colours };
    // A subscriber that is set already belongs to a test or an embedding program, and stays.
    let begun = match format {
        LogFormat::Text => {
            registry.with(fmt::layer().with_writer(lines).with_ansi(has_colours)).try_init()
        }
        LogFormat::Json => {
            let json = fmt::layer().json().flatten_event(true).with_current_span(false);
            registry.with(json.with_writer(lines)).try_init()
        }
    };
    if begun.is_ok() {
        let _ = LEVEL.set(level);
    }
    Ok(())
}

/// Changes the level.
///
/// # Errors
/// [`ConfigError`] if `log.level` is not a valid level.
pub fn set_level(level: &str) -> Result<(), ConfigError> {
    let filter = filter(level)?;
    match LEVEL.get() {
        Some(handle) => handle.reload(filter).map_err(|error| {
            ConfigError::bad(
                "log.level",
                format!("failed to change the level ({}); restart", error_chain(&error)),
            )
        }),
        // The subscriber is not ours.
        None => Ok(()),
    }
}

/// Returns whether standard error is the journal: systemd names its file (systemd.exec(5)).
fn is_journal() -> bool {
    let Ok(named) = env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() else { return false };
    let metadata = File::from(stderr).metadata();
    metadata.is_ok_and(|file| named == format!("{}:{}", file.dev(), file.ino()))
}

/// Writes events to standard error.
#[derive(Debug, Clone, Copy)]
struct StderrLines {
    is_journal: bool,
    /// Escape characters come from the formatter, which removes them from its input.
    has_colours: bool,
}

/// One event for standard error.
struct LogEvent {
    priority: Option<u8>,
    has_colours: bool,
}

impl<'a> MakeWriter<'a> for StderrLines {
    type Writer = LogEvent;

    fn make_writer(&'a self) -> LogEvent {
        LogEvent { priority: None, has_colours: self.has_colours }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> LogEvent {
        let priority = self.is_journal.then(|| priority(*event.level()));
        LogEvent { priority, has_colours: self.has_colours }
    }
}

impl Write for LogEvent {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let line = one_line(text, self.has_colours);
        match self.priority {
            Some(priority) => io::stderr().write_all(&prefixed(priority, &line))?,
            None => io::stderr().write_all(&line)?,
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Returns whether a character neither controls a terminal, nor changes the direction of its neighbours, nor begins a
/// line.
pub fn is_printable(char: char) -> bool {
    let is_bidi_control =
        matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !char.is_control() && !is_bidi_control && !matches!(char, '\u{2028}' | '\u{2029}')
}

/// Escapes all characters that are not printable as JSON does, except the newline at the end.
fn one_line(text: &[u8], has_colours: bool) -> Cow<'_, [u8]> {
    let Ok(words) = str::from_utf8(text) else { return text.into() };
    let (words, end) = match words.strip_suffix('\n') {
        Some(words) => (words, "\n"),
        None => (words, ""),
    };
    let is_kept = |char| is_printable(char) || (has_colours && char == '\u{1b}');
    if words.chars().all(is_kept) {
        return text.into();
    }
    let mut line = String::with_capacity(text.len() + 16);
    for char in words.chars() {
        match is_kept(char) {
            true => line.push(char),
            false => drop(write!(line, "\\u{:04x}", u32::from(char))),
        }
    }
    line.push_str(end);
    line.into_bytes().into()
}

/// Returns the priority of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Prefixes every line: a line that a peer's text begins could otherwise set its own priority.
fn prefixed(priority: u8, text: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(text.len() + 3);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        lines.extend_from_slice(&[b'<', b'0' + priority, b'>']);
        lines.extend_from_slice(line);
    }
    lines
}

/// Checks each part first: `Targets` takes a typing error such as `inof` for the name of a module. Rejected:
/// `EnvFilter`, whose further features are not used here, and which needs a regular expression engine.
fn filter(level: &str) -> Result<Targets, ConfigError> {
    let is_level = |text: &str| !text.is_empty() && text.parse::<LevelFilter>().is_ok();
    let is_part = |part: &str| match part.rsplit_once('=') {
        Some((target, level)) => is_target(target) && is_level(level),
        None => is_level(part),
    };
    let asked = level.parse::<Targets>().ok().filter(|_| level.split(',').all(is_part));
    asked.map(|asked| for_ours(&asked)).ok_or_else(|| {
        let expected = "error, warn, info, debug, trace or off, also per module, such as \
                        info,spoke_hub=debug";
        ConfigError::bad("log.level", format!("invalid level {level:?}: expected {expected}"))
    })
}

/// Applies the level without a name to our own crates alone.
fn for_ours(asked: &Targets) -> Targets {
    let all = asked.default_level().unwrap_or(LevelFilter::OFF);
    let ours = OURS.map(|name| (name, all));
    // Of a crate that is named more than once, the last level counts.
    let named = asked.iter().collect::<Vec<_>>();
    Targets::new().with_default(all.min(OTHERS)).with_targets(ours).with_targets(named)
}

/// Returns whether this is the path of a module.
fn is_target(text: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    !text.is_empty() && text.chars().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_an_event_has_its_priority_whatever_its_text() {
        let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
        assert_eq!(levels.map(priority), [3, 4, 6, 7, 7]);
        let lines = prefixed(6, b"one\n<0>forged priority\n");
        assert_eq!(lines, b"<6>one\n<6><0>forged priority\n");
    }

    #[test]
    fn an_event_is_one_line_without_terminal_control_characters() {
        let cases = [
            ("said é\n", false, "said é\n"),
            ("a\nERROR b\r\n", false, "a\\u000aERROR b\\u000d\n"),
            ("\u{1b}[2J\u{9b}31m\u{202e}\u{2028}\n", false, "\\u001b[2J\\u009b31m\\u202e\\u2028\n"),
            ("\u{1b}[2mINFO\u{9b}\n", true, "\u{1b}[2mINFO\\u009b\n"),
        ];
        for (text, has_colours, line) in cases {
            assert_eq!(one_line(text.as_bytes(), has_colours), line.as_bytes());
        }
    }

    #[test]
    fn a_level_applies_to_our_own_crates_and_to_a_library_only_if_named() {
        let table = [
            ("info", "spoke_hub::session", Level::INFO, true),
            ("info", "spoke_hub::session", Level::DEBUG, false),
            ("info", "h2::proto::streams", Level::WARN, false),
            ("info", "h2::proto::streams", Level::ERROR, true),
            ("trace", "h2", Level::WARN, false),
            ("trace", "spoke_store", Level::TRACE, true),
            ("off", "h2", Level::ERROR, false),
            ("off", "spoke_auth", Level::ERROR, false),
            ("info,h2=debug", "h2::codec", Level::DEBUG, true),
            ("info,h2=debug", "hyper", Level::WARN, false),
            ("info,spoke_hub=debug", "spoke_hub::live", Level::DEBUG, true),
            ("info,spoke_hub=debug", "crate::server", Level::DEBUG, false),
            ("info,spoke_hub=error", "spoke_hub", Level::INFO, false),
            ("spoke_hub=debug", "spoke_hub", Level::DEBUG, true),
            ("spoke_hub=debug", "spoke_agent", Level::ERROR, false),
        ];
        for (level, target, of, is_logged) in table {
            let filter = filter(level).unwrap();
            assert_eq!(filter.would_enable(target, &of), is_logged, "{level}: {of} of {target}");
        }
    }

    #[test]
    fn only_level_names_are_accepted_globally_and_per_module() {
        for good in ["info", "DEBUG", "off", "info,spoke_hub=debug", "warn,a::b=trace"] {
            filter(good).unwrap();
        }
        for bad in [
            "",
            "warn, a::b=trace",
            "inof",
            "info,",
            "info,spoke_hub",
            "spoke_hub=",
            "=info",
            "a=b=c",
        ] {
            let message = filter(bad).unwrap_err().to_string();
            assert!(message.starts_with("log.level: "), "{bad}: {message}");
        }
    }
}
