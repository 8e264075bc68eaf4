//! The tables of settings that several services have.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[tls]`: certificate chain and key, PEM. Both empty: plain, behind a proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TlsSettings {
    /// The service's certificate, then those up to the root.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSettings {
    /// error, warn, info, debug or trace, of our own lines; also per module or library, such as
    /// `info,spoke_hub=debug,h2=warn`. Of libraries that are not named only errors are logged.
    pub level: String,
    /// None: text on a terminal, else JSON.
    pub format: Option<LogFormat>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs: an object a line.
    Json,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: None }
    }
}
