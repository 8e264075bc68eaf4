//! Logging: to standard error, as text or as one JSON object a line.

use std::{
    io::{self, IsTerminal},
    sync::OnceLock,
};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Registry, filter::Targets, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::config::{ConfigError, LogFormat, LogSettings};

/// By which the level of this process is changed.
static LEVEL: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Logs for the rest of the process. A second call changes nothing.
///
/// # Errors
/// `ConfigError` naming `log.level` when it is none.
pub fn init(log: &LogSettings) -> Result<(), ConfigError> {
    let (filter, level) = reload::Layer::new(filter(&log.level)?);
    let registry = tracing_subscriber::registry().with(filter);
    let by_place = if io::stdout().is_terminal() { LogFormat::Text } else { LogFormat::Json };
    // A subscriber that is there already is a test's or an embedding program's, and stays.
    let begun = match log.format.unwrap_or(by_place) {
        LogFormat::Text => {
            let ansi = io::stderr().is_terminal();
            registry.with(fmt::layer().with_writer(io::stderr).with_ansi(ansi)).try_init()
        }
        LogFormat::Json => {
            let json = fmt::layer().json().flatten_event(true).with_current_span(false);
            registry.with(json.with_writer(io::stderr)).try_init()
        }
    };
    if begun.is_ok() {
        let _ = LEVEL.set(level);
    }
    Ok(())
}

/// Logs at this level from now on.
///
/// # Errors
/// `ConfigError` naming `log.level` when it is none.
pub fn set_level(level: &str) -> Result<(), ConfigError> {
    let filter = filter(level)?;
    match LEVEL.get() {
        Some(handle) => handle.reload(filter).map_err(|error| {
            ConfigError::bad("log.level", format!("it cannot be changed ({error}); restart"))
        }),
        // The log is not ours.
        None => Ok(()),
    }
}

/// `Targets` takes a slip such as `inof` for a module's name and then logs everything of it, so that
/// each part is looked at first. Rejected: `EnvFilter`, which can do no more of what is taken here, and
/// brings an engine for regular expressions along.
fn filter(level: &str) -> Result<Targets, ConfigError> {
    let is_level = |text: &str| !text.is_empty() && text.parse::<LevelFilter>().is_ok();
    let is_part = |part: &str| match part.rsplit_once('=') {
        Some((target, level)) => is_target(target) && is_level(level),
        None => is_level(part),
    };
    let filter = level.parse::<Targets>().ok();
    filter.filter(|_| level.split(',').all(is_part)).ok_or_else(|| {
        let mend = "takes error, warn, info, debug, trace or off, also per module, such as \
                    info,spoke_hub=debug";
        ConfigError::bad("log.level", format!("it is {level:?} and {mend}"))
    })
}

/// The path of a module.
fn is_target(text: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    !text.is_empty() && text.chars().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_a_word_also_per_module_and_nothing_else() {
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
