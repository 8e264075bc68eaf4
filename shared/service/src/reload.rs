//! Reloads the settings at SIGHUP, and applies those that can change while a service runs.
//!
//! Each reload warns of the other settings that differ from the running ones. Invalid settings change nothing. systemd
//! is notified when the reload begins and ends, so that `systemctl reload` waits for it.

use std::{collections::BTreeSet, io};

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::{config::ConfigError, logging, shutdown::Shutdown, systemd};
use spoke_diagnostics::error_chain;
use spoke_store::RedisUrl;

/// Settings that can be compared key by key.
pub trait Settings: Serialize {
    /// The settings that serialise without their passwords.
    fn redis_urls(&self) -> Vec<(&'static str, &RedisUrl)>;
    /// The setting `log.level`.
    fn log_level(&self) -> &str;
}

/// Reloads settings at each SIGHUP.
pub struct Reloads<T> {
    hangups: Signal,
    read: Box<dyn Fn() -> Result<T, ConfigError> + Send>,
    running: Value,
}

impl<T: Settings> Reloads<T> {
    /// Catches SIGHUP from this call on, for a service that runs with `running`. `read` returns checked settings.
    ///
    /// # Errors
    /// [`io::Error`] if the operating system gives no signal handler.
    pub fn on_sighup(
        running: &T,
        read: impl Fn() -> Result<T, ConfigError> + Send + 'static,
    ) -> io::Result<Self> {
        let hangups = signal(SignalKind::hangup())?;
        Ok(Self { hangups, read: Box::new(read), running: flat(running) })
    }

    /// Serves reloads until the shutdown begins. `apply` changes the settings that `live` names: keys, or the names of
    /// tables. `log.level` changes here.
    pub async fn serve(
        mut self,
        live: &'static [&'static str],
        mut apply: impl FnMut(&T) -> Result<(), ConfigError> + Send,
        shutdown: Shutdown,
    ) {
        loop {
            let hung_up = tokio::select! {
                () = shutdown.begun() => return,
                hung_up = self.hangups.recv() => hung_up,
            };
            if hung_up.is_none() {
                return;
            }
            systemd::reloading();
            if let Err(error) = self.reload(live, &mut apply) {
                let error = error_chain(&error);
                error!(error, "invalid settings; keeping the current ones");
            }
            systemd::ready();
        }
    }

    fn reload(
        &mut self,
        live: &[&str],
        apply: &mut impl FnMut(&T) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        let settings = (self.read)()?;
        apply(&settings)?;
        logging::set_level(settings.log_level())?;
        let new = flat(&settings);
        let is_live = |key: &str| {
            let is_of = |live: &str| {
                key.strip_prefix(live).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            key == "log.level" || live.iter().copied().any(is_of)
        };
        let (changed, at_restart): (Vec<_>, Vec<_>) =
            changed_keys(&self.running, &new).into_iter().partition(|key| is_live(key));
        for setting in &at_restart {
            warn!(setting, "setting changed, but takes effect only after a restart");
        }
        for key in &changed {
            self.running[key.as_str()] = new[key.as_str()].clone();
        }
        info!(changed = changed.join(" "), "settings reloaded");
        Ok(())
    }
}

/// Returns the values by dotted key; a Redis URL as its digest, since it may hold a password.
fn flat(settings: &impl Settings) -> Value {
    let mut flat = serde_json::Map::new();
    flatten(&serde_json::to_value(settings).expect("settings serialise"), "", &mut flat);
    for (key, url) in settings.redis_urls() {
        flat.insert(key.to_owned(), hex::encode(Sha256::digest(url.as_str())).into());
    }
    Value::Object(flat)
}

fn flatten(value: &Value, prefix: &str, flat: &mut serde_json::Map<String, Value>) {
    let Value::Object(table) = value else {
        flat.insert(prefix.to_owned(), value.clone());
        return;
    };
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        flatten(value, &key, flat);
    }
}

fn changed_keys(old: &Value, new: &Value) -> Vec<String> {
    let keys = |value: &Value| -> BTreeSet<String> {
        value.as_object().map(|table| table.keys().cloned().collect()).unwrap_or_default()
    };
    let all = &keys(old) | &keys(new);
    all.into_iter().filter(|key| old.get(key) != new.get(key)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Clone)]
    struct TestSettings {
        redis: RedisUrl,
        listen: &'static str,
        throttle: Throttle,
    }

    #[derive(Serialize, Clone)]
    struct Throttle {
        burst: u32,
    }

    impl Settings for TestSettings {
        fn redis_urls(&self) -> Vec<(&'static str, &RedisUrl)> {
            vec![("redis", &self.redis)]
        }

        fn log_level(&self) -> &str {
            "info"
        }
    }

    #[test]
    fn a_changed_password_is_reported_by_its_key_and_never_shown() {
        let url = |text: &str| text.parse::<RedisUrl>().unwrap();
        let old = TestSettings {
            redis: url("redis://:hunter2@h"),
            listen: "a",
            throttle: Throttle { burst: 1 },
        };
        let new = TestSettings {
            redis: url("redis://:hunter3@h"),
            throttle: Throttle { burst: 2 },
            ..old.clone()
        };
        assert!(changed_keys(&flat(&old), &flat(&old)).is_empty());
        assert_eq!(changed_keys(&flat(&old), &flat(&new)), ["redis", "throttle.burst"]);
        assert!(!flat(&new).to_string().contains("hunter"));
    }
}
