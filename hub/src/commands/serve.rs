//! `spoke-hub serve`

use spoke_shared::{
    serve::{Listeners, server_tls},
    shutdown::Shutdown,
};

use crate::config::Config;

pub(super) async fn run(config: Config) -> anyhow::Result<()> {
    // Here rather than with the other settings: who only lists clients may not read the key.
    server_tls(&config.tls)?;
    let shutdown = Shutdown::on_signals()?;
    let listeners = Listeners::bind(&config.listen, &config.admin_listen).await?;
    crate::run(config, listeners, shutdown).await
}
