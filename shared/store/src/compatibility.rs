//! Checks at the start of each connection whether Spoke supports the server.
//!
//! `HELLO` returns version, mode and role in one round trip, and every user may run it. It is sent on each new
//! connection, since another server may have taken the address, or the same one may have been downgraded.

use std::collections::HashMap;

use redis::{RedisError, RedisResult, Value, make_extension_error};

use crate::redis_url::ServerAddress;

/// Spoke's own error code for an unsupported server.
pub(super) const UNFIT: &str = "UNFIT";
/// The oldest Redis that counts the entries ever added to a stream.
const VERSION_MIN: (u64, u64) = (7, 0);

/// The reply of `HELLO`. A missing value passes every check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ServerGreeting {
    version: String,
    mode: String,
    pub(super) is_replica: bool,
}

impl ServerGreeting {
    pub(super) fn read(answer: Value) -> Self {
        let mut parts: HashMap<String, Value> = redis::from_redis_value(answer).unwrap_or_default();
        let mut text = |name| {
            let part = parts.remove(name).map(redis::from_redis_value);
            part.and_then(Result::ok).unwrap_or_default()
        };
        let (version, mode, role): (_, _, String) = (text("version"), text("mode"), text("role"));
        // KeyDB's "active-replica" accepts writes.
        Self { version, mode, is_replica: role == "replica" || role == "slave" }
    }

    /// Checks version and mode. `in_cluster` tells whether the URL is that of a cluster.
    ///
    /// # Errors
    /// `UNFIT` if the server is not supported, with the remedy.
    pub(super) fn check(&self, in_cluster: bool) -> RedisResult<()> {
        let (major, minor) = VERSION_MIN;
        if self.version().is_some_and(|version| version < VERSION_MIN) {
            return Err(unfit(format!(
                "the server is Redis {}, but Spoke requires {major}.{minor} or newer; upgrade it",
                self.version
            )));
        }
        match self.mode.as_str() {
            "cluster" if !in_cluster => Err(unfit(
                "the server runs in cluster mode; use redis+cluster://HOST1,HOST2,HOST3, or a server \
                 with cluster-enabled no"
                    .to_owned(),
            )),
            "sentinel" => Err(unfit(
                "the server is a Sentinel, which stores no data; use \
                 redis+sentinel://HOST1,HOST2,HOST3/NAME"
                    .to_owned(),
            )),
            _ => Ok(()),
        }
    }

    fn version(&self) -> Option<(u64, u64)> {
        let mut parts = self.version.split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    }
}

/// Returns the error for a server that Spoke does not support.
pub(super) fn unfit(problem: String) -> RedisError {
    make_extension_error(UNFIT.to_owned(), Some(problem))
}

/// Returns the error that Redis gives for a write to a replica.
pub(super) fn writable_replica() -> RedisError {
    read_only("the server is a replica, although it accepts writes (replica-read-only no)")
}

/// Returns the same error for a server that was named as the primary and is none.
pub(super) fn no_primary(address: &ServerAddress) -> RedisError {
    read_only(&format!("{address} was named as the primary, and is a replica"))
}

fn read_only(problem: &str) -> RedisError {
    make_extension_error("READONLY".to_owned(), Some(problem.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(version: &str, mode: &str, role: &str) -> ServerGreeting {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let pairs = [("server", "redis"), ("version", version), ("mode", mode), ("role", role)];
        let map = pairs.map(|(name, value)| (text(name), text(value)));
        ServerGreeting::read(Value::Map(
            [map.as_slice(), &[(text("proto"), Value::Int(3))]].concat(),
        ))
    }

    #[test]
    fn a_server_too_old_or_in_cluster_or_sentinel_mode_is_refused_with_the_reason() {
        for (version, mode, problem) in [
            ("7.0.0", "standalone", None),
            ("8.2.1", "standalone", None),
            ("255.255.255", "standalone", None),
            ("unstable", "standalone", None),
            ("6.2.14", "standalone", Some("Redis 6.2.14, but Spoke requires 7.0")),
            ("6.2.14", "cluster", Some("6.2.14")),
            ("7.0.15", "cluster", Some("cluster-enabled no")),
            ("7.0.15", "sentinel", Some("redis+sentinel://")),
        ] {
            let checked =
                greeting(version, mode, "master").check(false).map_err(|it| it.to_string());
            match problem {
                None => assert_eq!(checked, Ok(()), "{version} {mode}"),
                Some(problem) => {
                    assert!(checked.clone().unwrap_err().contains(problem), "{checked:?}")
                }
            }
        }
    }

    #[test]
    fn a_replica_is_recognised_by_its_role_and_a_server_without_details_passes() {
        assert!(greeting("7.0.0", "standalone", "replica").is_replica);
        assert!(!greeting("7.0.0", "standalone", "master").is_replica);
        assert!(!greeting("6.3.4", "standalone", "active-replica").is_replica);
        for answer in [Value::Nil, Value::Okay, Value::Map(Vec::new())] {
            assert_eq!(
                ServerGreeting::read(answer).check(false).map_err(|it| it.to_string()),
                Ok(())
            );
        }
    }
}
