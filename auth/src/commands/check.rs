//! `spoke-auth check`: whether auth can do what its settings say.

use spoke_service::cli::{
    CheckArgs, SettingsArgs, of_listener, of_redis, of_settings_file, of_tls, report,
};

use super::redis;
use crate::config::Config;

pub(super) async fn run(
    config: &Config,
    given: &SettingsArgs,
    args: CheckArgs,
) -> anyhow::Result<()> {
    let mut found: Vec<_> = of_settings_file("auth", given).into_iter().collect();
    found.extend(of_tls(&config.tls));
    found.extend(of_redis("redis", &redis(config)?).await);
    found.push(of_listener("listen", &config.listen, "spoke-auth").await);
    if !config.admin_listen.is_empty() {
        found.push(of_listener("admin_listen", &config.admin_listen, "spoke-auth").await);
    }
    report(&found, args)
}
