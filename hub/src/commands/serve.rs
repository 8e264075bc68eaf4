//! `spoke-hub serve`

use spoke_shared::{
    serve::{bind, server_tls},
    shutdown::Shutdown,
};

use crate::{Listeners, config::Config};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where agents come to, such as 0.0.0.0:8443
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Health and metrics, such as 127.0.0.1:9464; "" for none
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
}

impl Args {
    pub(super) fn settings(&self) -> Vec<(String, String)> {
        let flags = [("listen", &self.listen), ("admin_listen", &self.admin_listen)];
        let given = flags.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        given.map(|(key, value)| (key.to_owned(), value.clone())).collect()
    }
}

pub(super) async fn run(config: Config) -> anyhow::Result<()> {
    // Here rather than with the other settings: who only lists clients may not read the key.
    server_tls(&config.tls)?;
    let shutdown = Shutdown::on_signals()?;
    let public = bind(&config.listen).await?;
    let admin = match config.admin_listen.as_str() {
        "" => None,
        address => Some(bind(address).await?),
    };
    crate::run(config, Listeners { public, admin }, shutdown).await
}
