//! [`ConfigError`]: an invalid setting, with what to do.

use std::{fmt, io, path::PathBuf};

/// A setting that a service cannot run with. The process exits with 78.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The settings file cannot be read.
    #[error("failed to read settings file {path}; create it, run this as root or as a member of the file's group, or give another", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The settings file is not TOML.
    #[error("invalid settings file {path}{at}: {problem}; expected TOML, such as: redis = \"redis://127.0.0.1:6379\"", path = path.display(), at = at(line))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The first invalid line, from 1.
        line: Option<usize>,
        /// The error of the parser.
        problem: String,
    },
    /// The setting does not exist.
    #[error("unknown key {key}{from}; {help}", from = from(origin), help = help(nearest))]
    Unknown {
        /// The key, dotted.
        key: String,
        /// Its source.
        origin: Option<SettingSource>,
        /// The most similar known key, as it is written in that source.
        nearest: Option<String>,
    },
    /// A setting has an invalid value.
    #[error("{key}{from}: {problem}", from = from(origin))]
    Bad {
        /// The key, dotted.
        key: String,
        /// The source of the value, if known.
        origin: Option<SettingSource>,
        /// The problem and what to do. Never a secret.
        problem: String,
    },
    /// A file that a setting names cannot be used.
    #[error("{key}: failed to read {path}; {help}", path = path.display())]
    File {
        /// The setting, or what the file holds.
        key: String,
        /// The file.
        path: PathBuf,
        /// What to do.
        help: &'static str,
        /// The cause.
        source: io::Error,
    },
}

/// The source of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingSource {
    /// The settings file.
    File(PathBuf),
    /// This environment variable.
    Variable(String),
    /// The command line.
    Flag,
}

impl ConfigError {
    /// Returns an error for a value that the service itself rejects. `problem` names the problem and what to do, such as
    /// "invalid value 3: expected 4 to 16".
    pub fn bad(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Bad { key: key.into(), origin: None, problem: problem.into() }
    }
}

impl fmt::Display for SettingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag => f.write_str("the command line"),
        }
    }
}

fn from(origin: &Option<SettingSource>) -> String {
    origin.as_ref().map_or_else(String::new, |origin| format!(" (from {origin})"))
}

fn at(line: &Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(", line {line}"))
}

fn help(nearest: &Option<String>) -> String {
    match nearest {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => "remove it; the settings file in /etc/spoke lists all settings".to_owned(),
    }
}
