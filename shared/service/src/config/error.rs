//! What can be wrong with settings, said so that a person can mend it.

use std::{fmt, io, path::PathBuf};

/// Settings that a service cannot run with. The process ends with 78, whichever it is.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The settings file cannot be read.
    #[error("failed to read settings file {path}; create it, run this as root or as one of the file's group, or name another", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The settings file is not TOML.
    #[error("{path}{at}: {problem}; the file has to be TOML, such as: redis = \"redis://127.0.0.1:6379\"", path = path.display(), at = at(line))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The first line that is wrong, from 1.
        line: Option<usize>,
        /// What the parser says.
        problem: String,
    },
    /// There is no such setting.
    #[error("unknown key {key}{from}; {mend}", from = from(origin), mend = mend(nearest))]
    Unknown {
        /// The key, dotted.
        key: String,
        /// Where it came from.
        origin: Option<SettingSource>,
        /// The known one that looks most like it, as it is written there.
        nearest: Option<String>,
    },
    /// A setting has a value that it cannot have.
    #[error("{key}{from}: {problem}", from = from(origin))]
    Bad {
        /// The key, dotted.
        key: String,
        /// Where the value came from, if that is known.
        origin: Option<SettingSource>,
        /// What is wrong, and the mend. Never a secret.
        problem: String,
    },
    /// A file that a setting names cannot be used.
    #[error("{key}: failed to read {path}; {mend}", path = path.display())]
    File {
        /// The setting, or what the file holds.
        key: String,
        /// The file.
        path: PathBuf,
        /// The mend.
        mend: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Where a setting came from.
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
    /// A value that only the service itself finds wrong. `problem` says what and the mend, such as
    /// "it is 3 and takes 4 to 16".
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

fn mend(nearest: &Option<String>) -> String {
    match nearest {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => "remove it, or see the list of settings in the README".to_owned(),
    }
}
