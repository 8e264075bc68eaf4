//! The source of the one-time secret that a device registers with.

use std::{env, path::PathBuf};

use secrecy::ExposeSecret;
use spoke_service::config::{ConfigError, read_secret};

use crate::{
    config::AgentConfig,
    totp::{BadOneTimeSecret, OneTimeSecret},
};

/// The systemd credential that the unit passes on, used if no setting names a file.
const CREDENTIAL: &str = "otp-secret";

/// The source of the one-time secret.
#[derive(Debug, Clone)]
pub(crate) enum OneTimeSecretSource {
    /// There is none.
    None,
    /// The secret itself.
    Given(OneTimeSecret),
    /// This file, or the systemd credential of this name; read each time it is needed.
    File(PathBuf),
}

/// The one-time secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum OneTimeSecretError {
    /// The file cannot be read.
    #[error(transparent)]
    Unreadable(#[from] ConfigError),
    /// The file holds something else.
    #[error(transparent)]
    Malformed(#[from] BadOneTimeSecret),
}

impl OneTimeSecretSource {
    /// Returns the file of the settings, or else the systemd credential.
    pub(crate) fn from_config(config: &AgentConfig) -> Self {
        let path = &config.otp_secret_file;
        match path.as_os_str().is_empty() {
            false => Self::File(path.clone()),
            true if env::var_os("CREDENTIALS_DIRECTORY").is_some() => Self::File(CREDENTIAL.into()),
            true => Self::None,
        }
    }

    pub(super) fn read(&self) -> Result<Option<OneTimeSecret>, OneTimeSecretError> {
        match self {
            Self::None => Ok(None),
            Self::Given(secret) => Ok(Some(secret.clone())),
            Self::File(path) => Ok(Some(read_secret(path)?.expose_secret().parse()?)),
        }
    }
}
