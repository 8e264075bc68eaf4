//! `spoke-hub check`: checks that the hub can run with its settings.

use spoke_diagnostics::error_chain;
use spoke_service::cli::{
    Check, CheckArgs, SettingsArgs, of_cluster, of_hints, of_listener, of_redis,
    of_redis_or_cluster, of_settings_file, of_tls, of_writes, report,
};
use spoke_store::{
    Redis, StoreError,
    partitions::{OtherPartitions, Partitions},
    redis_settings::{ShippedConf, query_server_info},
};

use crate::{config::HubConfig, partitions};

pub(super) async fn run(
    config: &HubConfig,
    given: &SettingsArgs,
    args: CheckArgs,
) -> anyhow::Result<()> {
    let mut found: Vec<_> = of_settings_file("hub", given).into_iter().collect();
    found.extend(of_tls(&config.tls));
    let partitions = partitions::open(config)?;
    let _ = partitions.find_servers().await;
    for here in partitions.by_server() {
        let redis = &partitions.all()[here[0]].redis;
        // The settings of a cluster are checked on each node.
        if redis.is_clustered() {
            found.extend(of_writes("redis", redis, here.len()).await);
        } else {
            found.extend(of_redis("redis", redis, ShippedConf::Hub).await);
        }
        found.extend(of_hints("redis", redis).await);
    }
    found.extend(of_cluster("redis", &partitions.all()[0].redis, config.ack).await);
    if let Some(url) = &config.auth_redis {
        let auth_redis = Redis::open(url, &config.auth_key_prefix)?;
        found.extend(of_redis_or_cluster("auth_redis", &auth_redis, ShippedConf::Hub).await);
        found.extend(of_hints("auth_redis", &auth_redis).await);
    }
    found.extend(of_partitions(&partitions).await);
    for partition in partitions.one_per_server() {
        found.push(of_level(config, &partition.redis).await);
    }
    found.push(of_listener("listen", &config.listen, "spoke-hub").await);
    if !config.admin_listen.is_empty() {
        found.push(of_listener("admin_listen", &config.admin_listen, "spoke-hub").await);
    }
    report(&found, args)
}

/// Checks that the fleet has the number of partitions of the settings.
async fn of_partitions(partitions: &Partitions) -> Option<Check> {
    let count = partitions.all().len();
    match partitions.check_record().await {
        Ok(Ok(())) if count == 1 => None,
        Ok(Ok(())) => Some(Check::ok("partitions", format!("the fleet has {count}"))),
        Ok(Err(OtherPartitions(other))) => {
            let finding = format!("it is {count}, but the fleet has {other}");
            let help = format!("set it to {other}, or use another key_prefix for a new fleet");
            Some(Check::fail("partitions", finding, help))
        }
        Err(error) => Some(Check::skip("partitions", error_chain(&error))),
    }
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
