//! The flags that settings come from, and [`SettingsReader`], which reads them.

use std::{marker::PhantomData, path::PathBuf};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    config::{ConfigError, SettingSources, environment, load},
    logging,
    service_config::ServiceConfig,
};

/// The flags that settings come from, beside the environment.
#[derive(Debug, Clone, clap::Args)]
pub struct SettingsArgs {
    /// Settings file [default: the service's own in /etc/spoke, if it exists]
    #[arg(long, global = true, value_name = "FILE", display_order = 100)]
    pub config: Option<PathBuf>,
    /// One setting, over file and environment; `--set log.level=debug` for a nested one.
    /// Not for passwords: every user of the machine can see it
    #[arg(
        long = "set",
        global = true,
        value_name = "KEY=VALUE",
        value_parser = pair,
        display_order = 101
    )]
    pub settings: Vec<(String, String)>,
}

/// The addresses that a service listens on, as flags of its `serve`.
#[derive(Debug, clap::Args)]
pub struct ListenArgs {
    /// Address for devices, such as 0.0.0.0:8443
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Address for health and metrics, such as 127.0.0.1:9464; "" for none
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
}

/// Reads the settings of a service: at the start, and again at each reload.
#[derive(Debug, Clone)]
pub struct SettingsReader<T> {
    args: SettingsArgs,
    flags: Vec<(String, String)>,
    config: PhantomData<fn() -> T>,
}

impl SettingsArgs {
    /// Loads the settings of a service, with `flags` of its command over all others.
    ///
    /// # Errors
    /// [`ConfigError`] for the first invalid setting.
    pub fn load<T>(&self, service: &str, flags: Vec<(String, String)>) -> Result<T, ConfigError>
    where
        T: Serialize + DeserializeOwned + Default,
    {
        load(&SettingSources {
            service,
            file: self.config.as_deref(),
            environment: environment(service)?,
            flags: self.settings.iter().cloned().chain(flags).collect(),
        })
    }

    /// Returns a reader of the settings, with `flags` of the command over all others.
    pub fn reader<T: ServiceConfig>(&self, flags: Vec<(String, String)>) -> SettingsReader<T> {
        SettingsReader { args: self.clone(), flags, config: PhantomData }
    }
}

impl<T: ServiceConfig> SettingsReader<T> {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// [`ConfigError`] for the first invalid setting.
    pub fn read(&self) -> Result<T, ConfigError> {
        let config: T = self.args.load(T::SERVICE, self.flags.clone())?;
        config.check()?;
        Ok(config)
    }

    /// Reads and checks the settings, and starts logging as they say.
    ///
    /// # Errors
    /// [`ConfigError`] for the first invalid setting.
    pub fn read_and_log(&self) -> Result<T, ConfigError> {
        let config = self.read()?;
        logging::init(config.log())?;
        Ok(config)
    }
}

impl ListenArgs {
    /// Returns the given flags as settings.
    pub fn settings(&self) -> Vec<(String, String)> {
        let flags = [("listen", &self.listen), ("admin_listen", &self.admin_listen)];
        let given = flags.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        given.map(|(key, value)| (key.to_owned(), value.clone())).collect()
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
