//! What the command lines of all services have in common.

mod check;
mod settings_file;
mod watch;

use std::{
    future::Future,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use serde::{Serialize, de::DeserializeOwned};

pub use self::{
    check::{
        Check, CheckArgs, Severity, of_hints, of_listener, of_redis, of_secret, of_secret_file,
        of_tls, report,
    },
    settings_file::of_settings_file,
    watch::watch,
};
use crate::config::{ConfigError, EXIT_BAD_SETTINGS, SettingSources, environment, load};
use spoke_diagnostics::error_chain::error_chain;

/// Where settings come from beside the environment.
#[derive(Debug, Clone, clap::Args)]
pub struct SettingsArgs {
    /// Settings file [default: the service's own in /etc/spoke, if it is there]
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

/// Where a service listens, as flags of its `serve`.
#[derive(Debug, clap::Args)]
pub struct ListenArgs {
    /// Where devices come to, such as 0.0.0.0:8443
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Health and metrics, such as 127.0.0.1:9464; "" for none
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
}

impl SettingsArgs {
    /// The settings of a service, with `flags` of its command over all others.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
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
}

impl ListenArgs {
    /// As settings.
    pub fn settings(&self) -> Vec<(String, String)> {
        let flags = [("listen", &self.listen), ("admin_listen", &self.admin_listen)];
        let given = flags.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        given.map(|(key, value)| (key.to_owned(), value.clone())).collect()
    }
}

/// Runs a program to its exit code: 0 done, 1 failed, 78 bad settings. The one TLS provider of the
/// process is installed before.
///
/// # Panics
/// If another TLS provider was installed already.
pub async fn process(program: &str, command: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let provider = rustls::crypto::ring::default_provider();
    provider.install_default().expect("no other provider is installed before this one");
    let Err(error) = command.await else { return ExitCode::SUCCESS };
    eprintln!("{program}: {}", error_chain(error.as_ref()));
    if error.chain().any(|cause| cause.is::<ConfigError>()) {
        ExitCode::from(EXIT_BAD_SETTINGS)
    } else {
        ExitCode::FAILURE
    }
}

/// Prints an answer. Who reads only the first lines of it is no failure.
///
/// # Errors
/// Standard output cannot be written.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
