//! Checks of a Redis before a service uses it.

use std::time::Duration;

use tracing::{debug, warn};

use crate::{config::ConfigError, shutdown::Shutdown};
use spoke_diagnostics::error_chain;
use spoke_protocol::RetryDelay;
use spoke_store::{
    Redis, RedisUrl, StoreError,
    limits::PROBE_TIMEOUT,
    redis_settings::{ServerWarning, query_server_info},
};

/// Checks the files that a URL names.
///
/// # Errors
/// [`ConfigError`] for the setting `key` that names the unusable file.
pub fn check_redis_url(url: &RedisUrl, key: &str) -> Result<(), ConfigError> {
    url.check_files().map_err(|error| {
        let help =
            "give files in PEM form that this user may read, and certificate and key of one pair";
        ConfigError::bad(key, format!("{}; {help}", error_chain(&error)))
    })
}

/// Refuses a Redis that Spoke cannot work with. One that does not answer now is not refused.
///
/// # Errors
/// [`ConfigError`] for the setting `key`, with the problem and what to do.
pub async fn require_supported(redis: &Redis, key: &str) -> Result<(), ConfigError> {
    match tokio::time::timeout(PROBE_TIMEOUT, redis.ping()).await {
        Ok(Err(error @ StoreError::Unfit { .. })) => {
            Err(ConfigError::bad(key, error_chain(&error)))
        }
        Ok(Ok(()) | Err(_)) | Err(_) => Ok(()),
    }
}

/// Waits until a Redis answers, and warns once if it may lose data. `setting` names it.
pub async fn warn_once(redis: Redis, setting: &'static str, shutdown: Shutdown) {
    let mut retry = RetryDelay::new(Duration::from_millis(500), Duration::from_secs(60));
    loop {
        match query_server_info(&mut redis.connection()).await {
            Ok(info) => {
                let loses_data = |found: &ServerWarning| *found != ServerWarning::FailedRewrite;
                for finding in info.warnings().into_iter().filter(loses_data) {
                    let (error, help) = (finding.to_string(), finding.help());
                    warn!(setting, error, %help, "redis may lose data");
                }
                return;
            }
            Err(error) if StoreError::from(error.clone()).is_transient() => {}
            Err(error) => {
                return debug!(setting, error = error_chain(&error), "redis INFO failed");
            }
        }
        tokio::select! {
            () = shutdown.begun() => return,
            () = tokio::time::sleep(retry.next(None, rand::random())) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_with_a_missing_file_is_refused_and_the_error_names_the_setting() {
        let url: RedisUrl = "rediss://h?ca_file=/nowhere/ca.pem".parse().unwrap();
        let message = check_redis_url(&url, "auth_redis").unwrap_err().to_string();
        assert!(message.starts_with("auth_redis: "), "{message}");
        assert!(message.contains("/nowhere/ca.pem") && message.contains("PEM form"), "{message}");
    }
}
