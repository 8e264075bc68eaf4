//! Opens the store of clients for a command.

use std::time::Duration;

use anyhow::Context;
use spoke_store::Redis;

use crate::{config::AuthConfig, store::AuthStore};

pub(super) fn open_store(config: &AuthConfig) -> anyhow::Result<AuthStore> {
    let session_ttl = Duration::from_secs(config.session_ttl_seconds);
    Ok(AuthStore::new(open_redis(config)?, &config.key_prefix, session_ttl))
}

pub(super) fn open_redis(config: &AuthConfig) -> anyhow::Result<Redis> {
    let key = AuthStore::probe_key(&config.key_prefix);
    Redis::open_writable(&config.redis, key).context("failed to use `redis`")
}
