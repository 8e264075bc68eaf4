//! `spoke-hub check`: checks that the hub can run with its settings.

use spoke_diagnostics::error_chain;
use spoke_service::cli::{
    Check, CheckArgs, SettingsArgs, of_hints, of_listener, of_redis, of_settings_file, of_tls,
    report,
};
use spoke_store::{
    Redis, StoreError,
    redis_settings::{ShippedConf, query_server_info},
};

use super::redis::open_redis;
use crate::config::HubConfig;

pub(super) async fn run(
    config: &HubConfig,
    given: &SettingsArgs,
    args: CheckArgs,
) -> anyhow::Result<()> {
    let mut found: Vec<_> = of_settings_file("hub", given).into_iter().collect();
    found.extend(of_tls(&config.tls));
    let own = open_redis(config)?;
    found.extend(of_redis("redis", &own, ShippedConf::Hub).await);
    found.extend(of_hints("redis", &own).await);
    if let Some(url) = &config.auth_redis {
        let auth_redis = Redis::open(url, &config.auth_key_prefix)?;
        found.extend(of_redis("auth_redis", &auth_redis, ShippedConf::Hub).await);
        found.extend(of_hints("auth_redis", &auth_redis).await);
    }
    found.push(of_level(config, &own).await);
    found.push(of_listener("listen", &config.listen, "spoke-hub").await);
    if !config.admin_listen.is_empty() {
        found.push(of_listener("admin_listen", &config.admin_listen, "spoke-hub").await);
    }
    report(&found, args)
}

async fn of_level(config: &HubConfig, redis: &Redis) -> Check {
    let level = config.ack;
    let facts = match query_server_info(&mut redis.connection()).await {
        Ok(facts) => facts,
        Err(error) => return Check::skip("ack", error_chain(&StoreError::from(error))),
    };
    match level.barrier(&facts) {
        Ok(_) => Check::ok("ack", format!("redis supports \"{level}\"")),
        Err(lack) => {
            let finding = format!("\"{level}\" is not possible: {lack}");
            Check::fail("ack", finding, "fix the Redis setup, or set a lower level")
        }
    }
}
