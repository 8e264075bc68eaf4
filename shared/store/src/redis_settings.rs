//! The settings and state of a Redis server that matter to Spoke, and warnings about them.
//!
//! `INFO` has nearly everything and is rarely denied. Only how the append-only file is synced, and the comparison with
//! the shipped settings, need `CONFIG GET`, which hosted services often deny.

mod shipped;

use std::{collections::HashMap, fmt};

use redis::{
    Cmd, ErrorKind, RedisError, RedisResult, Value, aio::ConnectionLike, cmd, make_extension_error,
};
use tracing::debug;

pub use self::shipped::{SettingMismatch, ShippedConf, query_settings};
use super::StoreError;
use spoke_diagnostics::error_chain;

/// The settings and state of a Redis server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerInfo {
    /// Major and minor version.
    pub version: (u64, u64),
    /// The number of connected replicas, including those that are still synchronising.
    pub replicas: u64,
    /// Whether it has an append-only file.
    pub is_append_only: bool,
    /// Whether the last rewrite of that file failed.
    pub has_failed_rewrite: bool,
    /// The maximum bytes of memory; 0 for no limit.
    pub max_memory: u64,
    /// The eviction policy at that limit.
    pub max_memory_policy: String,
    /// How it syncs its file; none if it denies `CONFIG GET`.
    pub aof_sync: Option<AofSync>,
}

/// How a Redis syncs its append-only file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AofSync {
    /// `appendonly`
    pub is_append_only: bool,
    /// `appendfsync`: `always`, `everysec` or `no`.
    pub appendfsync: String,
    /// `no-appendfsync-on-rewrite`
    pub pauses_for_rewrite: bool,
}

/// A setting or state of a Redis that could make Spoke lose data or stop it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerWarning {
    /// It evicts keys when its memory is full.
    Evicts {
        /// `maxmemory-policy`
        policy: String,
    },
    /// It has no append-only file.
    NoAppendOnly,
    /// It failed to rewrite its append-only file.
    FailedRewrite,
}

impl ServerInfo {
    /// Returns the warnings about it, worst first.
    pub fn warnings(&self) -> Vec<ServerWarning> {
        let evicts = self.max_memory > 0 && self.max_memory_policy != "noeviction";
        let policy = self.max_memory_policy.clone();
        let found = [
            evicts.then_some(ServerWarning::Evicts { policy }),
            (!self.is_append_only).then_some(ServerWarning::NoAppendOnly),
            self.has_failed_rewrite.then_some(ServerWarning::FailedRewrite),
        ];
        found.into_iter().flatten().collect()
    }

    /// Parses the text of `INFO`.
    fn of_info(info: &str) -> Self {
        let lines = info.lines().filter_map(|line| line.split_once(':'));
        let values: HashMap<&str, &str> = lines.collect();
        let number = |name: &str| values.get(name).and_then(|value| value.parse().ok());
        let mut version = values.get("redis_version").unwrap_or(&"").split('.');
        let mut part = || version.next().and_then(|part| part.parse().ok()).unwrap_or(0);
        Self {
            version: (part(), part()),
            replicas: number("connected_slaves").unwrap_or(0),
            // Without this line nothing is known to be wrong.
            is_append_only: number("aof_enabled") != Some(0),
            has_failed_rewrite: values.get("aof_last_bgrewrite_status") == Some(&"err"),
            max_memory: number("maxmemory").unwrap_or(0),
            max_memory_policy: values.get("maxmemory_policy").unwrap_or(&"noeviction").to_string(),
            aof_sync: None,
        }
    }
}

impl AofSync {
    /// Returns the command that queries it.
    pub fn command() -> Cmd {
        let names = ["appendonly", "appendfsync", "no-appendfsync-on-rewrite"];
        cmd("CONFIG").arg("GET").arg(&names).take()
    }

    /// Decodes the reply.
    ///
    /// # Errors
    /// [`RedisError`] if a setting is missing.
    pub fn read(answer: Value) -> RedisResult<Self> {
        let mut values: HashMap<String, String> = redis::from_redis_value(answer)?;
        let missing = (ErrorKind::UnexpectedReturnType, "CONFIG GET leaves a setting out");
        let mut value = |name| values.remove(name).ok_or(RedisError::from(missing));
        Ok(Self {
            is_append_only: value("appendonly")? == "yes",
            appendfsync: value("appendfsync")?,
            pauses_for_rewrite: value("no-appendfsync-on-rewrite")? == "yes",
        })
    }
}

/// Queries the server behind this connection.
///
/// # Errors
/// [`RedisError`] if Redis fails; `LOADING` while it loads its file, since it has no replicas then.
pub async fn query_server_info(connection: &mut impl ConnectionLike) -> RedisResult<ServerInfo> {
    let info: String = cmd("INFO").query_async(connection).await?;
    if info.lines().any(|line| line == "loading:1") {
        return Err(make_extension_error("LOADING".to_owned(), None));
    }
    let syncing = match AofSync::command().query_async(connection).await {
        Ok(answer) => Some(AofSync::read(answer)?),
        Err(error) if is_transient(&error) => return Err(error),
        Err(error) => {
            debug!(error = error_chain(&error), "redis denied CONFIG GET");
            None
        }
    };
    Ok(ServerInfo { aof_sync: syncing, ..ServerInfo::of_info(&info) })
}

fn is_transient(error: &RedisError) -> bool {
    StoreError::from(error.clone()).is_transient()
}

impl ServerWarning {
    /// Returns the remedy.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Evicts { .. } => {
                "run CONFIG SET maxmemory-policy noeviction, and set the same in redis.conf"
            }
            Self::NoAppendOnly => "run CONFIG SET appendonly yes, and set the same in redis.conf",
            Self::FailedRewrite => {
                "see the log of Redis; free space on the disk, or set vm.overcommit_memory = 1"
            }
        }
    }
}

impl fmt::Display for ServerWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Evicts { policy } if policy.starts_with("volatile-") => write!(
                f,
                "redis evicts keys that expire when its memory is full, sessions among them \
                 (maxmemory-policy {policy})"
            ),
            Self::Evicts { policy } => write!(
                f,
                "redis evicts keys when its memory is full, streams and cursors among them \
                 (maxmemory-policy {policy}); entries would be lost without notice"
            ),
            Self::NoAppendOnly => f.write_str(
                "redis keeps no append-only file (appendonly no); after a crash it goes back to its \
                 last snapshot",
            ),
            Self::FailedRewrite => f.write_str(
                "redis failed to rewrite its append-only file; the file grows until the disk is \
                 full, and redis then refuses writes",
            ),
        }
    }
}

#[cfg(test)]
mod tests;
