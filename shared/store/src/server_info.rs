//! Whether a Redis suits what Spoke keeps in it: what it says of itself, and what is wrong with that.
//!
//! `INFO` tells nearly everything and is rarely denied; only how the append-only file is synced has
//! to be asked of `CONFIG GET`, which hosted ones often deny.

use std::{collections::HashMap, fmt};

use redis::{
    Cmd, ErrorKind, RedisError, RedisResult, Value, aio::ConnectionLike, cmd, make_extension_error,
};
use tracing::debug;

use super::StoreError;
use spoke_diagnostics::error_chain::error_chain;

/// What a Redis says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerInfo {
    /// Major and minor version.
    pub version: (u64, u64),
    /// Replicas connected to it, those that still copy its data included.
    pub replicas: u64,
    /// Whether it keeps an append-only file.
    pub is_append_only: bool,
    /// Bytes it may use; 0 for all there are.
    pub max_memory: u64,
    /// What it does when it has used them.
    pub max_memory_policy: String,
    /// How it syncs its file; none if it does not show that.
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

/// Something about a Redis by which Spoke could lose what it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerWarning {
    /// When its memory is full it throws keys away.
    Evicts {
        /// `maxmemory-policy`
        policy: String,
    },
    /// What it holds is gone with its process.
    NoAppendOnly,
}

impl ServerInfo {
    /// What is wrong with it, worst first.
    pub fn warnings(&self) -> Vec<ServerWarning> {
        let evicts = self.max_memory > 0 && self.max_memory_policy != "noeviction";
        let policy = self.max_memory_policy.clone();
        let found = [
            evicts.then_some(ServerWarning::Evicts { policy }),
            (!self.is_append_only).then_some(ServerWarning::NoAppendOnly),
        ];
        found.into_iter().flatten().collect()
    }

    /// From the text of `INFO`.
    fn of_info(info: &str) -> Self {
        let lines = info.lines().filter_map(|line| line.split_once(':'));
        let values: HashMap<&str, &str> = lines.collect();
        let number = |name: &str| values.get(name).and_then(|value| value.parse().ok());
        let mut version = values.get("redis_version").unwrap_or(&"").split('.');
        let mut part = || version.next().and_then(|part| part.parse().ok()).unwrap_or(0);
        Self {
            version: (part(), part()),
            replicas: number("connected_slaves").unwrap_or(0),
            // Where it is not told, nothing is wrong that we know of.
            is_append_only: number("aof_enabled") != Some(0),
            max_memory: number("maxmemory").unwrap_or(0),
            max_memory_policy: values.get("maxmemory_policy").unwrap_or(&"noeviction").to_string(),
            aof_sync: None,
        }
    }
}

impl AofSync {
    /// Asks for it.
    pub fn command() -> Cmd {
        let names = ["appendonly", "appendfsync", "no-appendfsync-on-rewrite"];
        cmd("CONFIG").arg("GET").arg(&names).take()
    }

    /// What the answer says.
    ///
    /// # Errors
    /// It is none.
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

/// What the Redis behind this connection says of itself.
///
/// # Errors
/// `RedisError` as Redis gives it; `LOADING` while it reads its file, since it has no replicas then.
pub async fn query_server_info(connection: &mut impl ConnectionLike) -> RedisResult<ServerInfo> {
    let info: String = cmd("INFO").query_async(connection).await?;
    if info.lines().any(|line| line == "loading:1") {
        return Err(make_extension_error("LOADING".to_owned(), None));
    }
    let syncing = match AofSync::command().query_async(connection).await {
        Ok(answer) => Some(AofSync::read(answer)?),
        Err(error) if is_transient(&error) => return Err(error),
        Err(error) => {
            debug!(error = error_chain(&error), "redis does not show its settings");
            None
        }
    };
    Ok(ServerInfo { aof_sync: syncing, ..ServerInfo::of_info(&info) })
}

fn is_transient(error: &RedisError) -> bool {
    StoreError::from(error.clone()).is_transient()
}

impl ServerWarning {
    /// What mends it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Evicts { .. } => {
                "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"
            }
            Self::NoAppendOnly => "CONFIG SET appendonly yes, and the same in redis.conf",
        }
    }
}

impl fmt::Display for ServerWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Evicts { policy } if policy.starts_with("volatile-") => write!(
                f,
                "redis throws keys that expire away when its memory is full, sessions among them \
                 (maxmemory-policy {policy})"
            ),
            Self::Evicts { policy } => write!(
                f,
                "redis throws keys away when its memory is full, streams and cursors among them \
                 (maxmemory-policy {policy}): entries would be lost in silence"
            ),
            Self::NoAppendOnly => f.write_str(
                "redis keeps no append-only file (appendonly no): what it holds is gone with its \
                 process, back to its last snapshot at best",
            ),
        }
    }
}

#[cfg(test)]
mod tests;
