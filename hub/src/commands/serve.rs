//! `spoke-hub serve`

use spoke_service::{
    config::ConfigError,
    reload::Reloads,
    server::{Certificate, Listeners},
    shutdown::Shutdown,
};

use crate::config::HubConfig;

pub(super) async fn run(
    config: HubConfig,
    read: impl Fn() -> Result<HubConfig, ConfigError> + Send + 'static,
) -> anyhow::Result<()> {
    // Opened here, since the other commands may run without access to the private key.
    Certificate::open(&config.tls)?;
    let shutdown = Shutdown::on_signals()?;
    let reloads = Reloads::on_sighup(&config, read)?;
    let listeners = Listeners::bind(&config.listen, &config.admin_listen).await?;
    crate::run(config, reloads, listeners, shutdown).await
}
