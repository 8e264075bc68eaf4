//! The shared parts of the three command lines.
//!
//! A program's `Cli` has [`SettingsArgs`] flattened into it, and the text of [`after_help!`](crate::after_help)
//! behind its help. Its `run` takes a [`SettingsReader`] from the arguments, reads the settings by
//! [`SettingsReader::read_and_log`], and passes both to the command; the one that runs the service passes the
//! reader on to [`Daemon::start`](crate::daemon::Daemon::start). `main` calls [`process`]:
//!
//! ```ignore
//! pub async fn run(self) -> anyhow::Result<()> {
//!     let flags = match &self.command {
//!         HubCommand::Serve(args) => args.settings(),
//!         _ => Vec::new(),
//!     };
//!     let reader = self.settings.reader::<HubConfig>(flags);
//!     let config = reader.read_and_log()?;
//!     match self.command {
//!         HubCommand::Serve(_) => crate::run(Daemon::start(config, reader)?).await,
//!         HubCommand::Check(args) => check::run(&config, &self.settings, args).await,
//!     }
//! }
//! ```

mod output;
mod settings_args;
mod check;
mod check_cluster;
mod health;
mod settings_file;
mod watch;

use std::{future::Future, process::ExitCode};

pub use self::{
    check::{
        Check, CheckArgs, Severity, of_hints, of_listener, of_redis, of_secret, of_secret_file,
        of_tls, report,
    },
    check_cluster::{of_cluster, of_redis_or_cluster, of_writes},
    health::{health, local_address},
    output::print,
    settings_args::{ListenArgs, SettingsArgs, SettingsReader},
    settings_file::of_settings_file,
    watch::watch,
};
use crate::config::{ConfigError, EXIT_BAD_SETTINGS};
use spoke_diagnostics::error_chain;

/// The text behind the help of a program, with examples of its environment variables.
#[macro_export]
macro_rules! after_help {
    ($variables:literal) => {
        concat!(
            "Every setting can also come from the environment: ",
            $variables,
            ", …\n\nExit codes: 0 done, 1 failed, 2 bad usage, 78 bad settings."
        )
    };
}

/// Runs a program and returns its exit code: 0 done, 1 failed, 78 bad settings. Installs the TLS provider of the
/// process first.
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
