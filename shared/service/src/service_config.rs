//! [`ServiceConfig`]: the parts of a service's settings that every service has.

use serde::de::DeserializeOwned;

use crate::{
    config::{ConfigError, LogSettings},
    reload::Settings,
};

/// The settings of a service, as its command line and its daemon need them.
pub trait ServiceConfig: Settings + DeserializeOwned + Default + Send + 'static {
    /// The service: `agent`, `hub` or `auth`. It gives the names of the settings file and of the variables.
    const SERVICE: &'static str;

    /// Checks the values beyond their types.
    ///
    /// # Errors
    /// [`ConfigError`] that names the setting and what to do.
    fn check(&self) -> Result<(), ConfigError>;

    /// The table `[log]`.
    fn log(&self) -> &LogSettings;
}
