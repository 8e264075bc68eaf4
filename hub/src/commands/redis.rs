//! Opens the hub's Redis for a command.

use anyhow::Context;
use spoke_store::{Redis, keys::HubKeys};

use crate::config::HubConfig;

pub(super) fn open_redis(config: &HubConfig) -> anyhow::Result<Redis> {
    let key = HubKeys::new(&config.key_prefix).probe();
    Redis::open_writable(&config.redis, key).context("failed to use the setting `redis`")
}
