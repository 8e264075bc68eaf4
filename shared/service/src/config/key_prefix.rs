//! What all keys of a service begin with.

use super::ConfigError;

/// Keys are read by people; longer ones cost memory in each of a fleet's keys.
const BYTES_MAX: usize = 64;

/// Checks the setting `key`. Braces choose a cluster's slot, and `*` and the like are patterns to Redis.
///
/// # Errors
/// `ConfigError` with what it takes.
pub fn check_key_prefix(key: &str, prefix: &str) -> Result<(), ConfigError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
    if (1..=BYTES_MAX).contains(&prefix.len()) && prefix.bytes().all(is_plain) {
        return Ok(());
    }
    let problem =
        format!("it is {prefix:?}; use 1 to {BYTES_MAX} characters out of A-Z a-z 0-9 . _ - :");
    Err(ConfigError::bad(key, problem))
}
