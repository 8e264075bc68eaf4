//! The tables of settings that several services share.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[tls]`: certificate chain and key, in PEM. Both empty: no TLS, behind a proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TlsSettings {
    /// The service's certificate, followed by the chain up to the root.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSettings {
    /// error, warn, info, debug or trace, for the lines of Spoke; also per module or library, such as
    /// `info,spoke_hub=debug,h2=warn`. Libraries that are not named log errors only.
    pub level: String,
    /// `None`: text on a terminal, else JSON.
    pub format: Option<LogFormat>,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text per event.
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: None }
    }
}
