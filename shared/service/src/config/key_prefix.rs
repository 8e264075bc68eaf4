//! The setting `key_prefix`.

use super::ConfigError;

/// Operators read the keys, and a prefix costs memory in each of them.
const BYTES_MAX: usize = 64;

/// Where the keys with a prefix have to be in a Redis Cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySlots {
    /// It is no cluster.
    Any,
    /// All in one slot.
    One,
    /// In the slots of partitions, which have names of their own.
    Many,
}

/// Checks the setting `key`, a prefix of keys. It may begin with a name in braces, which puts all keys into one slot of a
/// Redis Cluster. `*` and others are patterns to Redis.
///
/// # Errors
/// [`ConfigError`] with the allowed characters.
pub fn check_key_prefix(key: &str, prefix: &str, slots: KeySlots) -> Result<(), ConfigError> {
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
    let problem = match (slots, tagged) {
        (KeySlots::One, None) => format!(
            "in a Redis Cluster it has to begin with a name in braces, which keeps the keys in one slot: set it to \
             \"{{{prefix}}}\""
        ),
        (KeySlots::Many, Some(_)) => {
            "the braces keep all keys in one slot, but partitions have a slot each: leave the braces out".to_owned()
        }
        (KeySlots::Any | KeySlots::One, Some(_)) | (KeySlots::Any | KeySlots::Many, None) => return Ok(()),
    };
    Err(ConfigError::bad(key, problem))
}
