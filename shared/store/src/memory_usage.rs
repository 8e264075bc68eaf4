//! The memory usage of a Redis.

use redis::cmd;

use super::{Redis, StoreError};

/// The memory usage of a Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUsage {
    /// Bytes in use.
    pub used: u64,
    /// The maximum bytes (`maxmemory`); 0 for no limit.
    pub max: u64,
}

impl MemoryUsage {
    /// Queries it, which takes about 30 µs of Redis.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails.
    pub async fn query(redis: &Redis) -> Result<Self, StoreError> {
        let mut info = cmd("INFO");
        info.arg("memory");
        let text: String = info.query_async(&mut redis.connection()).await?;
        Ok(Self::of_info(&text))
    }

    /// Parses the text of `INFO memory`. A missing value is 0.
    fn of_info(info: &str) -> Self {
        let number = |name: &str| {
            let lines = info.lines().filter_map(|line| line.split_once(':'));
            let value = lines.filter(|(key, _)| *key == name).map(|(_, value)| value).next();
            value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
        };
        Self { used: number("used_memory"), max: number("maxmemory") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_usage_is_read_from_info_and_is_zero_if_missing() {
        let info = "# Memory\r\nused_memory:1048576\r\nused_memory_rss:5\r\nmaxmemory:300000000\r\n\
                    maxmemory_policy:noeviction\r\n";
        let usage = MemoryUsage { used: 1_048_576, max: 300_000_000 };
        assert_eq!(MemoryUsage::of_info(info), usage);
        assert_eq!(MemoryUsage::of_info("used_memory:x\r\n"), MemoryUsage::default());
    }
}
