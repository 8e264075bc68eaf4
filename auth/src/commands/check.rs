//! `spoke-auth check`: whether auth can run with its settings.

use spoke_service::cli::{
    CheckArgs, SettingsArgs, of_listener, of_redis_or_cluster, of_settings_file, of_tls, report,
};

use spoke_store::redis_settings::ShippedConf;

use super::open_store::open_redis;
use crate::config::AuthConfig;

pub(super) async fn run(
    config: &AuthConfig,
    settings: &SettingsArgs,
    args: CheckArgs,
) -> anyhow::Result<()> {
    let mut checks: Vec<_> = of_settings_file("auth", settings).into_iter().collect();
    checks.extend(of_tls(&config.tls));
    checks.extend(of_redis_or_cluster("redis", &open_redis(config)?, ShippedConf::Hub).await);
    checks.push(of_listener("listen", &config.listen, "spoke-auth").await);
    if !config.admin_listen.is_empty() {
        checks.push(of_listener("admin_listen", &config.admin_listen, "spoke-auth").await);
    }
    report(&checks, args)
}
