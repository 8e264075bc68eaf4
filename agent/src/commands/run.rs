//! `spoke-agent run`: the daemon.

use anyhow::Context;
use spoke_service::{
    config::ConfigError, logging, reload::Reloads, server::bind, shutdown::Shutdown,
};

use crate::{AgentListeners, config::AgentConfig, tls};

pub(super) async fn run(
    read: impl Fn() -> Result<AgentConfig, ConfigError> + Send + 'static,
) -> anyhow::Result<()> {
    let config = read()?;
    logging::init(&config.log)?;
    let account = config.validate()?;
    // Before any listener is bound: an invalid CA is a settings error.
    tls::client_config(&account, &config.ca_file).map_err(tls::TrustError::into_config_error)?;
    let admin = match config.admin_listen.as_str() {
        "" => None,
        listen => Some(bind(listen).await.context("failed to open admin_listen")?),
    };
    let shutdown = Shutdown::on_signals().context("failed to listen for signals")?;
    let reloads = Reloads::on_sighup(&config, read).context("failed to listen for signals")?;
    crate::run(config, reloads, AgentListeners { admin }, shutdown).await
}
