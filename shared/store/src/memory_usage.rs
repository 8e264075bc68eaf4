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

    /// Returns the one of two that has less room, in proportion.
    pub(super) fn fuller(self, other: Self) -> Self {
        let (ours, theirs) = (
            u128::from(self.used) * u128::from(other.max),
            u128::from(other.used) * u128::from(self.max),
        );
        if other.max == 0 || (self.max > 0 && ours >= theirs) { self } else { other }
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

    #[test]
    fn the_fuller_of_two_has_less_room_in_proportion_and_no_limit_is_room_enough() {
        let usage = |used, max| MemoryUsage { used, max };
        for (one, other, fuller) in [
            (usage(90, 100), usage(100, 1000), usage(90, 100)),
            (usage(u64::MAX, 0), usage(1, 1000), usage(1, 1000)),
            (usage(5, 0), usage(0, 0), usage(5, 0)),
        ] {
            assert_eq!(one.fuller(other), fuller);
            if other.max > 0 {
                assert_eq!(other.fuller(one), fuller);
            }
        }
    }
}
