//! The settings of auth: `/etc/spoke/auth.toml`, overridden by `SPOKE_AUTH_…`, overridden by flags.

use std::{num::NonZero, ops::RangeInclusive, thread::available_parallelism};

use serde::{Deserialize, Serialize};
use spoke_service::{
    ServiceConfig,
    config::{
        AdminHosts, ConfigError, KeySlots, LogSettings, ServiceUrl, TlsSettings, TrustedProxies,
        check_key_prefix,
    },
    preflight::check_redis_url,
    reload::Settings,
};
use spoke_store::RedisUrl;

use crate::{limits::SESSION_TTL_SECONDS_MIN, validity::Validity};

/// The settings of auth.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    /// Address for devices.
    pub listen: String,
    /// Address for health and metrics; empty for none.
    pub admin_listen: String,
    /// Names under which the admin listener answers, beside addresses and localhost; for Prometheus, for example.
    pub admin_hosts: AdminHosts,
    /// The Redis of clients and sessions.
    pub redis: RedisUrl,
    /// Prefix of all keys; several fleets may share one Redis.
    pub key_prefix: String,
    /// The logarithm of bcrypt's rounds, 4 to 16.
    pub bcrypt_cost: u32,
    /// Threads that run bcrypt at a time; by default one per core.
    pub bcrypt_workers: usize,
    /// Requests that wait for such a thread: this many that passed the precheck, and as many that failed it. One more
    /// is answered 503, or evicts one of the client or address that has the most.
    pub bcrypt_queue: usize,
    /// Life of a session without a refresh.
    pub session_ttl_seconds: u64,
    /// Time to register after `provision` and `extend`, such as "7d" or "12h".
    pub register_valid: Validity,
    /// URL of auth for devices, for the command that `provision` prints.
    pub auth_url: Option<ServiceUrl>,
    /// URL of the hub for devices, for the same.
    pub hub_url: Option<ServiceUrl>,
    /// Rate limits of clients and addresses.
    pub throttle: RateLimitSettings,
    /// Proxies whose `X-Forwarded-For` is trusted, such as `127.0.0.1, 10.1.0.0/16`.
    pub trusted_proxies: TrustedProxies,
    /// Certificate and key; both empty behind a proxy.
    pub tls: TlsSettings,
    /// Level and format of the log.
    pub log: LogSettings,
}

/// `[throttle]`: rate limits per client and per address. Each auth process counts for itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct RateLimitSettings {
    /// Logins of one client from one address at once.
    pub login_burst: u32,
    /// Logins of one client per minute, on average.
    pub login_per_minute: u32,
    /// Registrations of one client at once.
    pub register_burst: u32,
    /// Registrations of one client per minute, on average. [`WRONG_CODES_MAX`](crate::limits::WRONG_CODES_MAX)
    /// bounds the wrong codes in all.
    pub register_per_minute: u32,
    /// Registrations and logins that failed the precheck, from one address at once; ten invalid tokens count as one.
    /// Behind a proxy that `trusted_proxies` does not list, all devices have one address.
    pub address_burst: u32,
    /// The same per minute, on average.
    pub address_per_minute: u32,
    /// Wrong codes or secrets for one client from one address without a wait. The next one waits 1 s, each further
    /// one twice as long.
    pub failures_free: u32,
    /// The longest wait, and the time until one failure is forgiven.
    pub failure_wait_seconds_max: u64,
    /// Wrong codes or secrets from one address without a wait, which is a minute at most.
    pub address_failures_free: u32,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            listen: "0.0.0.0:8444".to_owned(),
            admin_listen: "127.0.0.1:9466".to_owned(),
            admin_hosts: AdminHosts::default(),
            redis: RedisUrl::default(),
            key_prefix: "spoke-auth".to_owned(),
            bcrypt_cost: 12,
            bcrypt_workers: available_parallelism().map_or(1, NonZero::get),
            bcrypt_queue: 64,
            session_ttl_seconds: 24 * 60 * 60,
            register_valid: Validity::WEEK,
            auth_url: None,
            hub_url: None,
            throttle: RateLimitSettings::default(),
            trusted_proxies: TrustedProxies::default(),
            tls: TlsSettings::default(),
            log: LogSettings::default(),
        }
    }
}

impl Default for RateLimitSettings {
    fn default() -> Self {
        Self {
            login_burst: 30,
            login_per_minute: 12,
            register_burst: 30,
            register_per_minute: 3,
            address_burst: 300,
            address_per_minute: 600,
            failures_free: 10,
            failure_wait_seconds_max: 15 * 60,
            address_failures_free: 100,
        }
    }
}

/// A year: a longer life would make a session a password.
const SESSION_TTL_SECONDS_MAX: u64 = 366 * 24 * 60 * 60;

impl Settings for AuthConfig {
    fn redis_urls(&self) -> Vec<(&'static str, &RedisUrl)> {
        vec![("redis", &self.redis)]
    }

    fn log_level(&self) -> &str {
        &self.log.level
    }
}

impl ServiceConfig for AuthConfig {
    const SERVICE: &'static str = "auth";

    fn check(&self) -> Result<(), ConfigError> {
        check_redis_url(&self.redis, "redis")?;
        let slots = if self.redis.is_cluster() { KeySlots::One } else { KeySlots::Any };
        check_key_prefix("key_prefix", &self.key_prefix, slots)?;
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        within("bcrypt_cost", self.bcrypt_cost.into(), 4..=16)?;
        within("bcrypt_workers", count(self.bcrypt_workers), 1..=1024)?;
        within("bcrypt_queue", count(self.bcrypt_queue), 0..=100_000)?;
        within(
            "session_ttl_seconds",
            self.session_ttl_seconds,
            SESSION_TTL_SECONDS_MIN..=SESSION_TTL_SECONDS_MAX,
        )?;
        self.throttle.check()
    }

    fn log(&self) -> &LogSettings {
        &self.log
    }
}

impl RateLimitSettings {
    fn check(&self) -> Result<(), ConfigError> {
        for (key, count, least) in [
            ("throttle.login_burst", self.login_burst, 1),
            ("throttle.login_per_minute", self.login_per_minute, 1),
            ("throttle.register_burst", self.register_burst, 1),
            ("throttle.register_per_minute", self.register_per_minute, 1),
            ("throttle.address_burst", self.address_burst, 1),
            ("throttle.address_per_minute", self.address_per_minute, 1),
            ("throttle.failures_free", self.failures_free, 0),
            ("throttle.address_failures_free", self.address_failures_free, 0),
        ] {
            within(key, count.into(), least..=1_000_000)?;
        }
        let longest = self.failure_wait_seconds_max;
        within("throttle.failure_wait_seconds_max", longest, 1..=24 * 60 * 60)
    }
}

fn within(key: &str, value: u64, range: RangeInclusive<u64>) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    let (least, most) = (range.start(), range.end());
    let problem = format!("invalid value {value}: expected {least} to {most}");
    Err(ConfigError::bad(key, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_each_error_names_its_key() {
        AuthConfig::default().check().unwrap();
        let with = |change: fn(&mut AuthConfig)| {
            let mut config = AuthConfig::default();
            change(&mut config);
            config.check().map_err(|error| error.to_string())
        };
        with(|config| config.bcrypt_cost = 4).unwrap();
        with(|config| config.bcrypt_cost = 16).unwrap();
        for (key, change) in [
            ("bcrypt_cost", (|config| config.bcrypt_cost = 3) as fn(&mut AuthConfig)),
            ("bcrypt_cost", |config| config.bcrypt_cost = 17),
            ("bcrypt_workers", |config| config.bcrypt_workers = 0),
            ("session_ttl_seconds", |config| config.session_ttl_seconds = 59),
            ("key_prefix", |config| config.key_prefix.clear()),
            ("key_prefix", |config| config.key_prefix = "a*".into()),
            ("throttle.login_burst", |config| config.throttle.login_burst = 0),
            ("throttle.address_per_minute", |config| config.throttle.address_per_minute = 0),
            ("throttle.failure_wait_seconds_max", |config| {
                config.throttle.failure_wait_seconds_max = 0;
            }),
        ] {
            let message = with(change).unwrap_err();
            assert!(message.contains(key), "{key} is not in {message:?}");
        }
    }
}
