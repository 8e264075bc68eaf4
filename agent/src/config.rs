//! Settings of the agent: `/etc/spoke/agent.toml`, over it `SPOKE_AGENT_…`, over that flags.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use spoke_protocol::{
    backoff::RetryDelay, client_id::ClientId, limits::PROGRESS_TIMEOUT, sync::sender::TrimMode,
};
use spoke_service::{
    config::{AdminHosts, ConfigError, LogSettings, ServiceUrl, check_key_prefix},
    preflight::check_redis_url,
    reload::Settings,
};
use spoke_store::{RedisUrl, keys::DeviceKeys};

use crate::{
    dial::{Dialer, ProxySetting},
    limits::{CONNECT_RETRY, CONNECT_SOON, PROGRESS_TIMEOUT_MIN, REFUSED_RETRY},
    tls::{self, TrustError},
};

/// All settings, each with its default.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The identity of this device.
    pub client: Option<ClientId>,
    /// The device's own Redis.
    pub redis: RedisUrl,
    /// Where the auth service is.
    pub auth: Option<ServiceUrl>,
    /// Where the hub is; `ws(s)://` is derived.
    pub hub: Option<ServiceUrl>,
    /// Holds the one-time secret; only needed until registered.
    pub otp_secret_file: PathBuf,
    /// Holds the device's own secret.
    pub state_dir: PathBuf,
    /// What all keys begin with; several agents may share one Redis.
    pub key_prefix: String,
    /// How the hub is reached.
    pub transport: TransportSetting,
    /// Whether acknowledged entries are taken out of the out stream.
    pub trim: TrimSetting,
    /// With `trim = "acked"`: about how many of the newest stay, for a hub that lost its tail.
    pub trim_slack_entries: usize,
    /// Health, metrics and live status; empty for none.
    pub admin_listen: String,
    /// Names under which that is called, beside addresses and localhost, by Prometheus say.
    pub admin_hosts: AdminHosts,
    /// A CA to trust instead of the system's roots; empty for those.
    pub ca_file: PathBuf,
    /// The proxy for all that leaves the device; unset for what the environment says, empty for none.
    pub proxy: ProxySetting,
    /// Whether `http://` to another machine is taken.
    pub allow_plaintext: bool,
    /// Whether batches are compressed when that pays.
    pub compression: bool,
    /// A link on which nothing was acknowledged for this long, while entries were under way, is made
    /// anew.
    pub progress_timeout_ms: u64,
    /// The first wait before another try to connect.
    pub retry_first_ms: u64,
    /// The longest such wait.
    pub retry_longest_ms: u64,
    /// The first wait after a refusal that a person has to mend.
    pub refused_retry_first_ms: u64,
    /// The longest such wait.
    pub refused_retry_longest_ms: u64,
    /// What is logged, and how.
    pub log: LogSettings,
}

/// How the hub is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransportSetting {
    /// A WebSocket, or HTTP where that cannot be had.
    #[default]
    Auto,
    /// A WebSocket only.
    Ws,
    /// HTTP only.
    Http,
}

/// Whether acknowledged entries are taken out of the out stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrimSetting {
    /// They stay.
    #[default]
    Keep,
    /// They go, but for some slack.
    Acked,
}

/// Who this device is and where it belongs: what has no default.
#[derive(Debug, Clone)]
pub struct Account {
    /// The identity of this device.
    pub client: ClientId,
    /// Where the auth service is.
    pub auth: ServiceUrl,
    /// Where the hub is.
    pub hub: ServiceUrl,
}

impl Default for Config {
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
            progress_timeout_ms: millis(PROGRESS_TIMEOUT),
            retry_first_ms: millis(CONNECT_RETRY.0),
            retry_longest_ms: millis(CONNECT_RETRY.1),
            refused_retry_first_ms: millis(REFUSED_RETRY.0),
            refused_retry_longest_ms: millis(REFUSED_RETRY.1),
            log: LogSettings::default(),
        }
    }
}

impl Config {
    /// Checks what the types alone do not, and gives what has to be there.
    ///
    /// # Errors
    /// `ConfigError` that names the key and the mend.
    pub fn validate(&self) -> Result<Account, ConfigError> {
        let account = Account {
            client: given(
                "client",
                &self.client,
                "the name that this device was provisioned with",
            )?,
            auth: given(
                "auth",
                &self.auth,
                "the auth service's URL, such as https://auth.example.com",
            )?,
            hub: given("hub", &self.hub, "the hub's URL, such as https://hub.example.com")?,
        };
        self.encrypted("auth", &account.auth)?;
        self.encrypted("hub", &account.hub)?;
        check_redis_url(&self.redis, "redis")?;
        if self.otp_secret_file == Path::new("-") {
            let problem = "standard input is read by `spoke-agent enrol` only; name a file here";
            return Err(bad("otp_secret_file", problem));
        }
        if self.state_dir.as_os_str().is_empty() {
            return Err(bad(
                "state_dir",
                "it is empty; name a directory that only the agent can read",
            ));
        }
        check_key_prefix("key_prefix", &self.key_prefix)?;
        if self.progress_timeout() < PROGRESS_TIMEOUT_MIN {
            let least = PROGRESS_TIMEOUT_MIN.as_millis();
            let problem = format!("it is {}; {least} is the least", self.progress_timeout_ms);
            return Err(bad("progress_timeout_ms", problem));
        }
        waits(
            ("retry_first_ms", self.retry_first_ms),
            ("retry_longest_ms", self.retry_longest_ms),
        )?;
        waits(
            ("refused_retry_first_ms", self.refused_retry_first_ms),
            ("refused_retry_longest_ms", self.refused_retry_longest_ms),
        )?;
        Ok(account)
    }

    /// The keys in the device's Redis.
    pub fn keys(&self) -> DeviceKeys {
        DeviceKeys::new(&self.key_prefix)
    }

    /// What the sender does with acknowledged entries.
    pub fn trim(&self) -> TrimMode {
        match self.trim {
            TrimSetting::Keep => TrimMode::Keep,
            TrimSetting::Acked => TrimMode::Acked { keep_entries: self.trim_slack_entries },
        }
    }

    /// The way out of this device.
    ///
    /// # Errors
    /// `ConfigError` where `ca_file`, or a proxy of the environment, cannot be used.
    pub fn dialer(&self, account: &Account) -> Result<Dialer, ConfigError> {
        let tls = tls::client_config(account, &self.ca_file);
        Dialer::new(&self.proxy, tls.map_err(TrustError::into_config_error)?)
    }

    /// How long a link may acknowledge nothing.
    pub fn progress_timeout(&self) -> Duration {
        Duration::from_millis(self.progress_timeout_ms)
    }

    /// The waits between tries to connect: short ones while an outage is young.
    pub fn connect_retry(&self) -> RetryDelay {
        retry(self.retry_first_ms, self.retry_longest_ms).with_initial_limit(CONNECT_SOON)
    }

    /// The waits after a refusal that a person has to mend.
    pub fn refused_retry(&self) -> RetryDelay {
        retry(self.refused_retry_first_ms, self.refused_retry_longest_ms)
    }

    fn encrypted(&self, key: &'static str, url: &ServiceUrl) -> Result<(), ConfigError> {
        if url.is_plaintext() && !url.is_loopback() && !self.allow_plaintext {
            let problem = format!(
                "{url} is not encrypted, and secrets travel over it; use https://, or set \
                 allow_plaintext = true if the network in between is yours alone"
            );
            return Err(bad(key, problem));
        }
        Ok(())
    }
}

impl Settings for Config {
    fn redis_urls(&self) -> Vec<(&'static str, &RedisUrl)> {
        vec![("redis", &self.redis)]
    }

    fn log_level(&self) -> &str {
        &self.log.level
    }
}

fn given<T: Clone>(key: &'static str, value: &Option<T>, what: &str) -> Result<T, ConfigError> {
    let name = key.to_ascii_uppercase();
    value.clone().ok_or_else(|| {
        bad(
            key,
            format!(
                "it is not set; give {what}, in the settings file or as SPOKE_AGENT_{name}; \
                 `spoke-agent enrol` writes it"
            ),
        )
    })
}

fn waits(
    (first_key, first): (&'static str, u64),
    (longest_key, longest): (&'static str, u64),
) -> Result<(), ConfigError> {
    if first == 0 {
        return Err(bad(first_key, "it is 0; a wait takes 1 ms at least"));
    }
    if longest < first {
        return Err(bad(
            longest_key,
            format!("it is {longest}, which is below {first_key} ({first})"),
        ));
    }
    Ok(())
}

fn retry(first_ms: u64, longest_ms: u64) -> RetryDelay {
    RetryDelay::new(Duration::from_millis(first_ms), Duration::from_millis(longest_ms))
}

fn bad(key: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::bad(key, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete() -> Config {
        Config {
            client: Some("dev1".parse().unwrap()),
            auth: Some("https://auth.example.com".parse().unwrap()),
            hub: Some("https://hub.example.com".parse().unwrap()),
            ..Config::default()
        }
    }

    #[test]
    fn a_complete_config_is_good_and_says_who_and_where() {
        let account = complete().validate().unwrap();
        assert_eq!(account.client.as_str(), "dev1");
    }

    #[test]
    fn each_bad_setting_is_named_with_its_mend() {
        type Change = fn(&mut Config);
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
        for (key, mend, change) in table {
            let mut config = complete();
            change(&mut config);
            let message = config.validate().unwrap_err().to_string();
            assert!(message.starts_with(&format!("{key}: ")), "{message}");
            assert!(message.contains(mend), "{message}");
        }
    }

    #[test]
    fn plaintext_is_taken_to_loopback_and_where_it_is_allowed() {
        let mut config = complete();
        config.auth = Some("http://127.0.0.1:8444".parse().unwrap());
        config.hub = Some("http://localhost:8443".parse().unwrap());
        config.validate().unwrap();
        config.hub = Some("http://hub.example.com".parse().unwrap());
        config.allow_plaintext = true;
        config.validate().unwrap();
    }
}
