//! The setting `key_prefix`.

use spoke_store::RedisUrl;

use super::ConfigError;

/// Operators read the keys, and a prefix costs memory in each of them.
const BYTES_MAX: usize = 64;

/// Checks the setting `key`, a prefix of keys in the Redis `url`. It may begin with a name in braces, which puts all keys
/// into one slot of a Redis Cluster, and has to in a cluster. `*` and others are patterns to Redis.
///
/// # Errors
/// [`ConfigError`] with the allowed characters.
pub fn check_key_prefix(key: &str, prefix: &str, url: &RedisUrl) -> Result<(), ConfigError> {
    let is_plain = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte))
    };
    let tagged = prefix.strip_prefix('{').and_then(|rest| rest.split_once('}'));
    let is_valid = match tagged {
        Some((tag, rest)) => !tag.is_empty() && is_plain(tag) && is_plain(rest),
        None => is_plain(prefix),
    };
    if !is_valid || !(1..=BYTES_MAX).contains(&prefix.len()) {
        let problem = format!(
            "invalid prefix {prefix:?}: expected 1 to {BYTES_MAX} characters of A-Z a-z 0-9 . _ - :, which may begin \
             with a name in braces"
        );
        return Err(ConfigError::bad(key, problem));
    }
    if url.is_cluster() && tagged.is_none() {
        let problem = format!(
            "in a Redis Cluster it has to begin with a name in braces, which keeps the keys in one slot: set it to \
             \"{{{prefix}}}\""
        );
        return Err(ConfigError::bad(key, problem));
    }
    Ok(())
}
