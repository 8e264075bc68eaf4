//! SIGHUP: the settings are read again, and what can change while a service runs is changed.
//!
//! The rest is said in a warning, each time anew, as long as it differs from what the service runs
//! with. Settings that cannot be used change nothing. systemd is told when it begins and when it is
//! over, so that `systemctl reload` waits for it.

use std::{collections::BTreeSet, io};

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::{config::ConfigError, logging, shutdown::Shutdown, systemd};
use spoke_diagnostics::error_chain::error_chain;
use spoke_store::RedisUrl;

/// Settings that can be compared, key by key.
pub trait Settings: Serialize {
    /// Those that serialise without their passwords.
    fn redis_urls(&self) -> Vec<(&'static str, &RedisUrl)>;
    /// `log.level`
    fn log_level(&self) -> &str;
}

/// Reads settings again at each SIGHUP.
pub struct Reloads<T> {
    hangups: Signal,
    read: Box<dyn Fn() -> Result<T, ConfigError> + Send>,
    running: Value,
}

impl<T: Settings> Reloads<T> {
    /// For a service that runs with `running`; `read` gives settings that were checked. SIGHUP is caught
    /// from this moment on.
    ///
    /// # Errors
    /// When the operating system gives no signal handler.
    pub fn on_sighup(
        running: &T,
        read: impl Fn() -> Result<T, ConfigError> + Send + 'static,
    ) -> io::Result<Self> {
        let hangups = signal(SignalKind::hangup())?;
        Ok(Self { hangups, read: Box::new(read), running: flat(running) })
    }

    /// Until the shutdown begins. `log.level` is changed here, and `apply` changes the settings that
    /// `live` names: keys, or the names of tables.
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
                error!(error, "the settings cannot be used; all stays as it was");
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
        let (now, later): (Vec<_>, Vec<_>) =
            changed(&self.running, &new).into_iter().partition(|key| is_live(key));
        for key in &later {
            warn!(key, "this setting has changed, and takes effect at the next start only");
        }
        for key in &now {
            self.running[key.as_str()] = new[key.as_str()].clone();
        }
        info!(changed = now.join(" "), "the settings are read again");
        Ok(())
    }
}

/// Values by dotted key; of Redis with a password its digest.
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

fn changed(old: &Value, new: &Value) -> Vec<String> {
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
    struct Some {
        redis: RedisUrl,
        listen: &'static str,
        throttle: Throttle,
    }

    #[derive(Serialize, Clone)]
    struct Throttle {
        burst: u32,
    }

    impl Settings for Some {
        fn redis_urls(&self) -> Vec<(&'static str, &RedisUrl)> {
            vec![("redis", &self.redis)]
        }

        fn log_level(&self) -> &str {
            "info"
        }
    }

    #[test]
    fn what_has_changed_is_told_by_its_key_passwords_too_and_never_their_text() {
        let url = |text: &str| text.parse::<RedisUrl>().unwrap();
        let old =
            Some { redis: url("redis://:hunter2@h"), listen: "a", throttle: Throttle { burst: 1 } };
        let new = Some {
            redis: url("redis://:hunter3@h"),
            throttle: Throttle { burst: 2 },
            ..old.clone()
        };
        assert!(changed(&flat(&old), &flat(&old)).is_empty());
        assert_eq!(changed(&flat(&old), &flat(&new)), ["redis", "throttle.burst"]);
        assert!(!flat(&new).to_string().contains("hunter"));
    }
}
