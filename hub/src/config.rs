//! Settings of the hub: `/etc/spoke/hub.toml`, then `SPOKE_HUB_…`, then flags.

use crate::{
    limits::{
        BUDGET_MIB, BUDGET_MIB_MIN, CLIENT_RATE, CONNECTIONS_PER_CLIENT_MAX, IN_MAX_LEN,
        IN_MIN_AGE_SECONDS, RESERVE_ENTRIES, RESERVE_KIB, RESERVE_PERCENT,
    },
    quota::MemoryReserve,
};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use spoke_protocol::{ClientId, EntryRate};
use spoke_service::{
    ServiceConfig,
    config::{
        AdminHosts, ConfigError, KeySlots, LogSettings, TlsSettings, TrustedProxies,
        check_key_prefix,
    },
    limits::CONNECTIONS_MAX,
    preflight::check_redis_url,
    reload::Settings,
};
use spoke_store::{
    AckLevel, RedisUrl, keys::HubKeys, limits::PARTITIONS_MAX, session_tokens::session_prefix,
};

/// More memory than a machine has is a typing error.
const BUDGET_MIB_MAX: usize = 1024 * 1024;

/// All settings with their defaults.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct HubConfig {
    /// Address for agents.
    pub listen: String,
    /// Address for health, metrics and the status page; empty for none.
    pub admin_listen: String,
    /// Allowed host names of that listener besides IP addresses and localhost, for Prometheus or a
    /// proxy.
    pub admin_hosts: AdminHosts,
    /// Mode of the status page on the admin listener.
    pub page: PageMode,
    /// Redis that holds the streams.
    pub redis: RedisUrl,
    /// Redis that holds auth's sessions; empty for `redis`.
    #[serde(deserialize_with = "empty_is_none")]
    pub auth_redis: Option<RedisUrl>,
    /// Prefix of all keys of the hub; several fleets may share one Redis.
    pub key_prefix: String,
    /// Number of partitions of the fleet, a power of two, for the life of the fleet. With 1, a Redis Cluster has all
    /// keys in one slot.
    pub partitions: u16,
    /// Prefix of all keys of auth.
    pub auth_key_prefix: String,
    /// Durability required before an entry is acknowledged.
    pub ack: AckLevel,
    /// Approximate number of entries of the in stream above which it is trimmed; 0 keeps all.
    pub in_max_len: u64,
    /// The entries that may be trimmed.
    pub in_trim: InTrim,
    /// Minimum age in seconds of trimmed entries, even above `in_max_len`.
    pub in_min_age_seconds: u64,
    /// Maximum connections.
    pub connections: usize,
    /// Maximum WebSockets and waiting reads of one client.
    pub connections_per_client: usize,
    /// Maximum MiB of requests, frames and answers together.
    pub budget_mib: usize,
    /// Rate of each client for which auth has no other, such as `5000/s 10MB/s`; `none` for no limit.
    pub client_rate: EntryRate,
    /// Percent of redis's `maxmemory` in which clients are rate limited; 0 for none.
    pub reserve_percent: u64,
    /// That rate limit in entries a second.
    pub reserve_entries: u64,
    /// That rate limit in KiB a second.
    pub reserve_kib: u64,
    /// Whether batches are compressed if the agent supports it and they get smaller.
    pub compression: bool,
    /// Proxies whose `X-Forwarded-For` is trusted, such as `127.0.0.1, 10.1.0.0/16`.
    pub trusted_proxies: TrustedProxies,
    /// Certificate and key; both empty behind a proxy.
    pub tls: TlsSettings,
    /// Log settings.
    pub log: LogSettings,
}

/// The entries of the in stream that may be trimmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InTrim {
    /// Those that every consumer group has acknowledged.
    Read,
    /// All.
    All,
}

/// Mode of the status page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PageMode {
    /// No status page.
    Off,
    /// Read only.
    Read,
    /// Read, and send entries to clients.
    Send,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            listen: "0.0.0.0:8443".to_owned(),
            admin_listen: "127.0.0.1:9464".to_owned(),
            admin_hosts: AdminHosts::default(),
            page: PageMode::Read,
            redis: RedisUrl::default(),
            auth_redis: None,
            key_prefix: "spoke-hub".to_owned(),
            partitions: 1,
            auth_key_prefix: "spoke-auth".to_owned(),
            ack: AckLevel::Memory,
            in_max_len: IN_MAX_LEN,
            in_trim: InTrim::Read,
            in_min_age_seconds: IN_MIN_AGE_SECONDS,
            connections: CONNECTIONS_MAX,
            connections_per_client: CONNECTIONS_PER_CLIENT_MAX,
            budget_mib: BUDGET_MIB,
            client_rate: CLIENT_RATE,
            reserve_percent: RESERVE_PERCENT,
            reserve_entries: RESERVE_ENTRIES,
            reserve_kib: RESERVE_KIB,
            compression: true,
            trusted_proxies: TrustedProxies::default(),
            tls: TlsSettings::default(),
            log: LogSettings::default(),
        }
    }
}

impl HubConfig {
    /// Returns the key of auth's record of a client.
    pub fn auth_client_key(&self, client: &ClientId) -> String {
        format!("{}:client:{client}:h", self.auth_key_prefix)
    }

    /// Returns the memory reserve of Redis and the rate limit of each client in it.
    pub fn reserve(&self) -> MemoryReserve {
        let bytes = self.reserve_kib.saturating_mul(1024);
        MemoryReserve { percent: self.reserve_percent, entries: self.reserve_entries, bytes }
    }

    /// Returns the Redis of auth, if it needs connections of its own: in a cluster its keys are in another slot.
    pub fn separate_auth_redis(&self) -> Option<&RedisUrl> {
        self.auth_redis.as_ref().or_else(|| Some(&self.redis).filter(|url| url.is_cluster()))
    }

    /// Validates what the types do not.
    ///
    /// # Errors
    /// [`ConfigError`] for the first invalid setting, with help.
    fn validate(&self) -> Result<(), ConfigError> {
        for (key, url) in self.redis_urls() {
            check_redis_url(url, key)?;
        }
        let one_slot = |needed: bool| if needed { KeySlots::One } else { KeySlots::Any };
        match self.partitions {
            1 => {
                let slots = one_slot(self.redis.is_cluster());
                check_key_prefix("key_prefix", &self.key_prefix, slots)?;
            }
            count if count.is_power_of_two() && count <= PARTITIONS_MAX => {
                check_key_prefix("key_prefix", &self.key_prefix, KeySlots::Many)?;
            }
            count => {
                let problem =
                    format!("it is {count}, expected a power of two from 1 to {PARTITIONS_MAX}");
                return Err(ConfigError::bad("partitions", problem));
            }
        }
        let auth_redis = self.auth_redis.as_ref().unwrap_or(&self.redis);
        let slots = one_slot(auth_redis.is_cluster());
        check_key_prefix("auth_key_prefix", &self.auth_key_prefix, slots)?;
        // Redis rejects overlapping prefixes for the tracking of one connection.
        let keys = HubKeys::new(&self.key_prefix);
        let sessions = session_prefix(&self.auth_key_prefix);
        let overlaps = |ours: String| ours.starts_with(&sessions) || sessions.starts_with(&ours);
        if self.auth_redis.is_none()
            && (overlaps(keys.out_prefix()) || overlaps(keys.bell_prefix()))
        {
            let problem = "it overlaps with key_prefix; set a separate prefix for each";
            return Err(ConfigError::bad("auth_key_prefix", problem));
        }
        for (key, count) in [
            ("connections", self.connections),
            ("connections_per_client", self.connections_per_client),
        ] {
            if count == 0 {
                return Err(ConfigError::bad(
                    key,
                    "it is 0, so no client could connect; expected 1 or more",
                ));
            }
        }
        self.validate_limits()
    }

    fn validate_limits(&self) -> Result<(), ConfigError> {
        if !(BUDGET_MIB_MIN..=BUDGET_MIB_MAX).contains(&self.budget_mib) {
            let problem =
                format!("it is {}, expected {BUDGET_MIB_MIN} to {BUDGET_MIB_MAX}", self.budget_mib);
            return Err(ConfigError::bad("budget_mib", problem));
        }
        if self.reserve_percent > 50 {
            let problem = format!("it is {}, expected 0 to 50", self.reserve_percent);
            return Err(ConfigError::bad("reserve_percent", problem));
        }
        for (key, rate) in
            [("reserve_entries", self.reserve_entries), ("reserve_kib", self.reserve_kib)]
        {
            if rate == 0 {
                let problem = "it is 0, so no client could send entries; expected 1 or more";
                return Err(ConfigError::bad(key, problem));
            }
        }
        Ok(())
    }
}

impl Settings for HubConfig {
    fn redis_urls(&self) -> Vec<(&'static str, &RedisUrl)> {
        let auth_redis = self.auth_redis.as_ref().map(|url| ("auth_redis", url));
        [Some(("redis", &self.redis)), auth_redis].into_iter().flatten().collect()
    }

    fn log_level(&self) -> &str {
        &self.log.level
    }
}

impl ServiceConfig for HubConfig {
    const SERVICE: &'static str = "hub";

    fn check(&self) -> Result<(), ConfigError> {
        self.validate()
    }

    fn log(&self) -> &LogSettings {
        &self.log
    }
}

fn empty_is_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RedisUrl>, D::Error> {
    match Option::<String>::deserialize(deserializer)?.as_deref() {
        None | Some("") => Ok(None),
        Some(url) => url.parse().map(Some).map_err(D::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_prefix_that_is_a_redis_pattern_is_refused_and_one_slot_needs_braces_at_its_start() {
        for key_prefix in ["", "a{b}", "{}a", "{a", "{a}{b}", "{a*}", "a*", "a b", "a\u{1f600}"] {
            let config = HubConfig { key_prefix: key_prefix.to_owned(), ..HubConfig::default() };
            let message = config.validate().unwrap_err().to_string();
            assert!(message.starts_with("key_prefix: "), "{key_prefix:?}: {message}");
        }
        let redis: RedisUrl = "redis+cluster://h1,h2".parse().unwrap();
        let config = |key_prefix: &str, auth_key_prefix: &str| HubConfig {
            redis: redis.clone(),
            key_prefix: key_prefix.to_owned(),
            auth_key_prefix: auth_key_prefix.to_owned(),
            ..HubConfig::default()
        };
        for (prefixes, expected) in [
            (("spoke-hub", "{spoke-auth}"), "key_prefix: in a Redis Cluster"),
            (("{spoke-hub}", "spoke-auth"), "set it to \"{spoke-auth}\""),
        ] {
            let message = config(prefixes.0, prefixes.1).validate().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert!(config("{spoke-hub}", "{spoke}-auth").validate().is_ok());
    }

    #[test]
    fn an_auth_key_prefix_that_overlaps_the_hubs_keys_is_refused() {
        for auth_key_prefix in ["spoke-hub:out", "spoke-hub:bell"] {
            let auth_key_prefix = auth_key_prefix.to_owned();
            let config = HubConfig { auth_key_prefix, ..HubConfig::default() };
            let message = config.validate().unwrap_err().to_string();
            assert!(message.starts_with("auth_key_prefix"), "{message}");
        }
    }

    #[test]
    fn memory_settings_out_of_range_are_refused_and_the_error_names_the_key() {
        let checked = |change: fn(&mut HubConfig)| {
            let mut config = HubConfig::default();
            change(&mut config);
            config.validate().map_err(|error| error.to_string())
        };
        for (key, result) in [
            ("budget_mib", checked(|config| config.budget_mib = BUDGET_MIB_MIN - 1)),
            ("budget_mib", checked(|config| config.budget_mib = usize::MAX)),
            ("reserve_percent", checked(|config| config.reserve_percent = 51)),
            ("reserve_entries", checked(|config| config.reserve_entries = 0)),
            ("reserve_kib", checked(|config| config.reserve_kib = 0)),
        ] {
            assert!(result.unwrap_err().starts_with(key), "{key}");
        }
        assert_eq!(
            checked(|config| (config.budget_mib, config.reserve_percent) = (BUDGET_MIB_MIN, 0)),
            Ok(())
        );
    }
}
