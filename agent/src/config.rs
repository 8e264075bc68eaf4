//! The settings of the agent: flags, over `SPOKE_AGENT_…`, over `/etc/spoke/agent.toml`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use spoke_protocol::{ClientId, RetryDelay, limits::PROGRESS_TIMEOUT, sync::TrimMode};
use spoke_service::{
    ServiceConfig,
    config::{AdminHosts, ConfigError, KeySlots, LogSettings, ServiceUrl, check_key_prefix},
    preflight::check_redis_url,
    reload::Settings,
};
use spoke_store::{RedisUrl, keys::DeviceKeys};

use crate::{
    account::DeviceAccount,
    budget::{TrafficBudget, UrgentField, empty_is_none},
    dial::{Dialer, ProxySetting},
    limits::{CONNECT_RETRY, CONNECT_SOON, PROGRESS_TIMEOUT_MIN, REFUSED_RETRY},
    tls::{self, TrustError},
};

/// All settings, each with its default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentConfig {
    /// The identity of this device.
    pub client: Option<ClientId>,
    /// The device's own Redis.
    pub redis: RedisUrl,
    /// The URL of auth.
    pub auth: Option<ServiceUrl>,
    /// The URL of the hub. The `ws(s)://` URL is derived from it.
    pub hub: Option<ServiceUrl>,
    /// The file with the one-time secret, needed until the device is registered.
    pub otp_secret_file: PathBuf,
    /// The directory with the device's secret.
    pub state_dir: PathBuf,
    /// The prefix of all keys. Several agents may share one Redis.
    pub key_prefix: String,
    /// The transport to the hub.
    pub transport: TransportSetting,
    /// Whether acknowledged entries are removed from the out stream.
    pub trim: TrimSetting,
    /// With `trim = "acked"`: the approximate number of newest entries that stay, for a hub that
    /// lost its last ones.
    pub trim_slack_entries: usize,
    /// The address of health, metrics and live status; empty for none.
    pub admin_listen: String,
    /// Host names in requests to `admin_listen`, such as those of Prometheus, besides addresses and
    /// localhost.
    pub admin_hosts: AdminHosts,
    /// A CA to trust instead of the system's roots; empty for the roots.
    pub ca_file: PathBuf,
    /// The proxy of every connection that leaves the device; unset for the environment, empty for
    /// none.
    pub proxy: ProxySetting,
    /// Whether `http://` to another machine is allowed.
    pub allow_plaintext: bool,
    /// Whether batches are compressed when this saves bytes.
    pub compression: bool,
    /// The bytes that may be sent and received in a period; unset for no limit.
    #[serde(deserialize_with = "empty_is_none")]
    pub budget: Option<TrafficBudget>,
    /// The field and value of entries that may use the last part of the budget.
    #[serde(deserialize_with = "empty_is_none")]
    pub budget_urgent: Option<UrgentField>,
    /// The time without an acknowledgement, while entries are in flight, after which the agent
    /// reconnects.
    pub progress_timeout_ms: u64,
    /// The first delay before the next attempt to connect.
    pub retry_first_ms: u64,
    /// The longest delay between attempts to connect.
    pub retry_longest_ms: u64,
    /// The first delay after a refusal that an operator has to resolve.
    pub refused_retry_first_ms: u64,
    /// The longest delay after such a refusal.
    pub refused_retry_longest_ms: u64,
    /// The log level and format.
    pub log: LogSettings,
}

/// The transport to the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransportSetting {
    /// A WebSocket, or HTTP if WebSockets do not work.
    #[default]
    Auto,
    /// A WebSocket only.
    Ws,
    /// HTTP only.
    Http,
}

/// Whether acknowledged entries are removed from the out stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrimSetting {
    /// They stay.
    Keep,
    /// They are removed, except for the newest.
    #[default]
    Acked,
}

impl Default for AgentConfig {
    fn default() -> Self {
        let millis = |duration: Duration| duration.as_millis() as u64;
        Self {
            client: None,
            redis: RedisUrl::default(),
            auth: None,
            hub: None,
            otp_secret_file: PathBuf::new(),
            state_dir: PathBuf::from("/var/lib/spoke-agent"),
            key_prefix: "spoke-agent".to_owned(),
            transport: TransportSetting::default(),
            trim: TrimSetting::default(),
            trim_slack_entries: 1000,
            admin_listen: "127.0.0.1:9465".to_owned(),
            admin_hosts: AdminHosts::default(),
            ca_file: PathBuf::new(),
            proxy: ProxySetting::default(),
            allow_plaintext: false,
            compression: true,
            budget: None,
            budget_urgent: None,
            progress_timeout_ms: millis(PROGRESS_TIMEOUT),
            retry_first_ms: millis(CONNECT_RETRY.0),
            retry_longest_ms: millis(CONNECT_RETRY.1),
            refused_retry_first_ms: millis(REFUSED_RETRY.0),
            refused_retry_longest_ms: millis(REFUSED_RETRY.1),
            log: LogSettings::default(),
        }
    }
}

impl AgentConfig {
    /// Checks the settings beyond their types, and returns the required ones.
    ///
    /// # Errors
    /// [`ConfigError`] with the setting and the next action of the operator.
    pub fn validate(&self) -> Result<DeviceAccount, ConfigError> {
        let account = DeviceAccount {
            client: required(
                "client",
                &self.client,
                "the name that this device was provisioned with",
            )?,
            auth: required(
                "auth",
                &self.auth,
                "the auth service's URL, such as https://auth.example.com",
            )?,
            hub: required("hub", &self.hub, "the hub's URL, such as https://hub.example.com")?,
        };
        self.check_encrypted("auth", &account.auth)?;
        self.check_encrypted("hub", &account.hub)?;
        check_redis_url(&self.redis, "redis")?;
        if self.otp_secret_file == Path::new("-") {
            let problem = "only `spoke-agent enrol` reads standard input. Name a file";
            return Err(invalid("otp_secret_file", problem));
        }
        if self.state_dir.as_os_str().is_empty() {
            return Err(invalid(
                "state_dir",
                "it is empty. Name a directory that only the agent can read",
            ));
        }
        check_key_prefix("key_prefix", &self.key_prefix, KeySlots::Any)?;
        if self.redis.is_cluster() {
            let problem =
                "a device has one Redis, or one behind Sentinels; a cluster is for hub and auth";
            return Err(invalid("redis", problem));
        }
        if self.progress_timeout() < PROGRESS_TIMEOUT_MIN {
            let least = PROGRESS_TIMEOUT_MIN.as_millis();
            let problem =
                format!("{} is out of range, expected at least {least}", self.progress_timeout_ms);
            return Err(invalid("progress_timeout_ms", problem));
        }
        check_retry(
            ("retry_first_ms", self.retry_first_ms),
            ("retry_longest_ms", self.retry_longest_ms),
        )?;
        check_retry(
            ("refused_retry_first_ms", self.refused_retry_first_ms),
            ("refused_retry_longest_ms", self.refused_retry_longest_ms),
        )?;
        Ok(account)
    }

    /// Returns the keys in the device's Redis.
    pub fn keys(&self) -> DeviceKeys {
        DeviceKeys::new(&self.key_prefix)
    }

    /// Returns how the sender trims acknowledged entries.
    pub fn trim(&self) -> TrimMode {
        match self.trim {
            TrimSetting::Keep => TrimMode::Keep,
            TrimSetting::Acked => TrimMode::Acked { keep_entries: self.trim_slack_entries },
        }
    }

    /// Returns the dialer for all connections that leave this device.
    ///
    /// # Errors
    /// [`ConfigError`] if `ca_file`, or a proxy of the environment, cannot be used.
    pub fn dialer(&self, account: &DeviceAccount) -> Result<Dialer, ConfigError> {
        let tls = tls::client_config(account, &self.ca_file);
        Dialer::new(&self.proxy, tls.map_err(TrustError::into_config_error)?)
    }

    /// Returns the time limit for an acknowledgement.
    pub fn progress_timeout(&self) -> Duration {
        Duration::from_millis(self.progress_timeout_ms)
    }

    /// Returns the delays between attempts to connect: short ones at the start of an outage.
    pub fn connect_retry(&self) -> RetryDelay {
        retry(self.retry_first_ms, self.retry_longest_ms).with_initial_limit(CONNECT_SOON)
    }

    /// Returns the delays after a refusal that an operator has to resolve.
    pub fn refused_retry(&self) -> RetryDelay {
        retry(self.refused_retry_first_ms, self.refused_retry_longest_ms)
    }

    fn check_encrypted(&self, key: &'static str, url: &ServiceUrl) -> Result<(), ConfigError> {
        if url.is_plaintext() && !url.is_loopback() && !self.allow_plaintext {
            let problem = format!(
                "{url} is not encrypted, and secrets are sent over it. Use https://, or set \
                 allow_plaintext = true if you control the whole network in between"
            );
            return Err(invalid(key, problem));
        }
        Ok(())
    }
}

impl Settings for AgentConfig {
    fn redis_urls(&self) -> Vec<(&'static str, &RedisUrl)> {
        vec![("redis", &self.redis)]
    }

    fn log_level(&self) -> &str {
        &self.log.level
    }
}

impl ServiceConfig for AgentConfig {
    const SERVICE: &'static str = "agent";

    fn check(&self) -> Result<(), ConfigError> {
        self.validate().map(drop)
    }

    fn log(&self) -> &LogSettings {
        &self.log
    }
}

fn required<T: Clone>(key: &'static str, value: &Option<T>, what: &str) -> Result<T, ConfigError> {
    let name = key.to_ascii_uppercase();
    value.clone().ok_or_else(|| {
        invalid(
            key,
            format!(
                "it is not set. Set {what} in the settings file or as SPOKE_AGENT_{name}; \
                 `spoke-agent enrol` writes it"
            ),
        )
    })
}

fn check_retry(
    (first_key, first): (&'static str, u64),
    (longest_key, longest): (&'static str, u64),
) -> Result<(), ConfigError> {
    if first == 0 {
        return Err(invalid(first_key, "0 is out of range, expected at least 1 ms"));
    }
    if longest < first {
        return Err(invalid(
            longest_key,
            format!(
                "{longest} is out of range, expected at least {first_key} ({first}), not below it"
            ),
        ));
    }
    Ok(())
}

fn retry(first_ms: u64, longest_ms: u64) -> RetryDelay {
    RetryDelay::new(Duration::from_millis(first_ms), Duration::from_millis(longest_ms))
}

fn invalid(key: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::bad(key, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete() -> AgentConfig {
        AgentConfig {
            client: Some("dev1".parse().unwrap()),
            auth: Some("https://auth.example.com".parse().unwrap()),
            hub: Some("https://hub.example.com".parse().unwrap()),
            ..AgentConfig::default()
        }
    }

    #[test]
    fn a_complete_config_is_valid_and_gives_the_account() {
        let account = complete().validate().unwrap();
        assert_eq!(account.client.as_str(), "dev1");
    }

    #[test]
    fn each_invalid_setting_is_named_with_help() {
        type Change = fn(&mut AgentConfig);
        let table: [(&str, &str, Change); 12] = [
            ("client", "enrol", |config| config.client = None),
            ("auth", "SPOKE_AGENT_AUTH", |config| config.auth = None),
            ("hub", "SPOKE_AGENT_HUB", |config| config.hub = None),
            ("auth", "https://", |config| {
                config.auth = Some("http://auth.example.com".parse().unwrap());
            }),
            ("hub", "allow_plaintext", |config| {
                config.hub = Some("http://hub.example.com".parse().unwrap());
            }),
            ("otp_secret_file", "file", |config| config.otp_secret_file = "-".into()),
            ("state_dir", "directory", |config| config.state_dir = PathBuf::new()),
            ("key_prefix", "characters", |config| config.key_prefix = String::new()),
            ("key_prefix", "characters", |config| config.key_prefix = "a*".to_owned()),
            ("progress_timeout_ms", "1000", |config| config.progress_timeout_ms = 999),
            ("retry_first_ms", "1 ms", |config| config.retry_first_ms = 0),
            ("refused_retry_longest_ms", "below", |config| config.refused_retry_longest_ms = 1),
        ];
        for (key, help, change) in table {
            let mut config = complete();
            change(&mut config);
            let message = config.validate().unwrap_err().to_string();
            assert!(message.starts_with(&format!("{key}: ")), "{message}");
            assert!(message.contains(help), "{message}");
        }
    }

    #[test]
    fn plaintext_is_accepted_to_loopback_or_if_it_is_allowed() {
        let mut config = complete();
        config.auth = Some("http://127.0.0.1:8444".parse().unwrap());
        config.hub = Some("http://localhost:8443".parse().unwrap());
        config.validate().unwrap();
        config.hub = Some("http://hub.example.com".parse().unwrap());
        config.allow_plaintext = true;
        config.validate().unwrap();
    }
}
