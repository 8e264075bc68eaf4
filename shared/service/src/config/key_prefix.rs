//! The setting `key_prefix`.

use super::ConfigError;

/// Operators read the keys, and a prefix costs memory in each of them.
const BYTES_MAX: usize = 64;

/// Checks the setting `key`. Braces would choose a cluster slot, and `*` and others are patterns to Redis.
///
/// # Errors
/// [`ConfigError`] with the allowed characters.
pub fn check_key_prefix(key: &str, prefix: &str) -> Result<(), ConfigError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
    if (1..=BYTES_MAX).contains(&prefix.len()) && prefix.bytes().all(is_plain) {
        return Ok(());
    }
    let problem = format!(
        "invalid prefix {prefix:?}: expected 1 to {BYTES_MAX} characters of A-Z a-z 0-9 . _ - :"
    );
    Err(ConfigError::bad(key, problem))
}
