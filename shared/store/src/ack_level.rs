//! Acknowledgement levels: how durable an entry must be before it is acknowledged, and how that is proved.
//!
//! A level is proved once per batch, by a [`Barrier`] after the writes on their own connection. `WAIT` and `WAITAOF`
//! are barriers. Redis before 7.2 has no `WAITAOF`, so there the barrier asks whether Redis still syncs each write
//! before it replies. Rejected: checking the settings at start only, since they can change, and so can the server at
//! an address.

use std::{fmt, str::FromStr};

use redis::{Cmd, RedisError, RedisResult, Value, cmd, make_extension_error};
use serde::{Deserialize, Serialize};

use super::{
    StoreError, decode,
    redis_settings::{AofSync, ServerInfo},
};
use crate::limits::{LEVEL_TIMEOUT, REPLICAS_MAX};
use spoke_diagnostics::error_chain;

/// How durable an entry must be before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AckLevel {
    /// Applied in memory.
    #[default]
    Memory,
    /// Synced to the disk of Redis. With `appendfsync everysec` each wait takes one to two seconds.
    Fsync,
    /// Applied by this number of replicas, too.
    Replicas(u64),
}

/// A text that is not an acknowledgement level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid acknowledgement level {0:?}: expected memory, fsync, or replicas:N with N from 1 to \
     {REPLICAS_MAX}"
)]
pub struct BadAckLevel(String);

/// A command that proves on a connection that all its writes so far have reached a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barrier {
    /// `WAIT` for this number of replicas.
    Replicas(u64),
    /// `WAITAOF`, from Redis 7.2 on.
    Synced,
    /// `CONFIG GET`, which shows that Redis syncs each write before it replies.
    SyncsAlways,
}

/// Why a Redis cannot give a level, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnmetLevel {
    /// Too few replicas are connected.
    #[error("redis has {found} connected replicas; connect more (REPLICAOF), or require fewer")]
    Replicas {
        /// The number of connected replicas.
        found: u64,
    },
    /// It has no append-only file.
    #[error(
        "redis keeps no append-only file; run CONFIG SET appendonly yes, and set the same in redis.conf"
    )]
    NoAppendOnly,
    /// It replies before the sync, and is too old to wait for it.
    #[error(
        "redis does not sync before it replies (appendfsync {appendfsync}), and versions before 7.2 cannot wait for it; run CONFIG SET appendfsync always, and set the same in redis.conf"
    )]
    AnswersFirst {
        /// The setting `appendfsync`.
        appendfsync: String,
    },
    /// It leaves syncing to the operating system.
    #[error(
        "redis leaves syncing to the operating system (appendfsync no); run CONFIG SET appendfsync everysec, or always, and set the same in redis.conf"
    )]
    NeverSyncs,
    /// It does not sync while it rewrites its file.
    #[error(
        "redis does not sync while it rewrites its file (no-appendfsync-on-rewrite yes); run CONFIG SET no-appendfsync-on-rewrite no, and set the same in redis.conf"
    )]
    PausesSyncing,
    /// It does not show its settings.
    #[error(
        "redis does not show whether it syncs (CONFIG GET is denied); allow it for this user: ACL SETUSER … +config|get"
    )]
    Hidden,
}

impl AckLevel {
    /// Returns the barrier that proves this level on a server; none for `memory`.
    ///
    /// # Errors
    /// [`UnmetLevel`] if the server cannot give the level.
    pub fn barrier(self, info: &ServerInfo) -> Result<Option<Barrier>, UnmetLevel> {
        match self {
            Self::Memory => Ok(None),
            Self::Replicas(wanted) if info.replicas >= wanted => {
                Ok(Some(Barrier::Replicas(wanted)))
            }
            Self::Replicas(_) => Err(UnmetLevel::Replicas { found: info.replicas }),
            Self::Fsync => {
                let Some(aof_sync) = &info.aof_sync else {
                    // A hosted one hides its settings, and WAITAOF proves the sync by itself.
                    return match info.version >= (7, 2) && info.is_append_only {
                        true => Ok(Some(Barrier::Synced)),
                        false => Err(UnmetLevel::Hidden),
                    };
                };
                if info.version < (7, 2) {
                    return syncs_always(aof_sync).map(|()| Some(Barrier::SyncsAlways));
                }
                match (aof_sync.is_append_only, aof_sync.appendfsync.as_str()) {
                    (false, _) => Err(UnmetLevel::NoAppendOnly),
                    (true, "no") => Err(UnmetLevel::NeverSyncs),
                    (true, _) => Ok(Some(Barrier::Synced)),
                }
            }
        }
    }
}

fn syncs_always(aof_sync: &AofSync) -> Result<(), UnmetLevel> {
    if !aof_sync.is_append_only {
        Err(UnmetLevel::NoAppendOnly)
    } else if aof_sync.appendfsync != "always" {
        Err(UnmetLevel::AnswersFirst { appendfsync: aof_sync.appendfsync.clone() })
    } else if aof_sync.pauses_for_rewrite {
        Err(UnmetLevel::PausesSyncing)
    } else {
        Ok(())
    }
}

impl Barrier {
    /// Returns the command to send after the writes.
    pub fn command(self) -> Cmd {
        let timeout_ms = LEVEL_TIMEOUT.as_millis() as u64;
        match self {
            Self::Replicas(count) => cmd("WAIT").arg(count).arg(timeout_ms).take(),
            Self::Synced => cmd("WAITAOF").arg(1).arg(0).arg(timeout_ms).take(),
            Self::SyncsAlways => AofSync::command(),
        }
    }

    /// Checks the reply for the writes before the barrier.
    ///
    /// # Errors
    /// `NOREPLICAS` or `NOFSYNC` if they have not reached the level.
    pub fn check(self, answer: Value) -> RedisResult<()> {
        let unproved = |error: StoreError| self.unproved(error_chain(&error));
        let answer = answer.extract_error().map_err(|error| self.unproved(error_chain(&error)))?;
        match self {
            Self::Replicas(wanted) => match decode::count(answer).map_err(unproved)? {
                reached if reached >= wanted => Ok(()),
                reached => {
                    Err(self.unproved(format!("{reached} of {wanted} replicas have the write")))
                }
            },
            Self::Synced => {
                let local = decode::list(answer).map_err(unproved)?.into_iter().next();
                match local.map_or(Ok(0), decode::count).map_err(unproved)? {
                    0 => Err(self.unproved("the write is not synced to disk yet".to_owned())),
                    _ => Ok(()),
                }
            }
            Self::SyncsAlways => {
                let aof_sync =
                    AofSync::read(answer).map_err(|error| self.unproved(error_chain(&error)))?;
                Ok(syncs_always(&aof_sync)?)
            }
        }
    }

    fn unproved(self, what: String) -> RedisError {
        let code = match self {
            Self::Replicas(_) => "NOREPLICAS",
            Self::Synced | Self::SyncsAlways => "NOFSYNC",
        };
        make_extension_error(code.to_owned(), Some(what))
    }
}

/// Converts to the error that Redis gives if it rejects writes for now.
impl From<UnmetLevel> for RedisError {
    fn from(unmet: UnmetLevel) -> Self {
        let code = match unmet {
            UnmetLevel::Replicas { .. } => "NOREPLICAS",
            UnmetLevel::NoAppendOnly
            | UnmetLevel::AnswersFirst { .. }
            | UnmetLevel::NeverSyncs
            | UnmetLevel::PausesSyncing
            | UnmetLevel::Hidden => "NOFSYNC",
        };
        make_extension_error(code.to_owned(), Some(unmet.to_string()))
    }
}

impl FromStr for AckLevel {
    type Err = BadAckLevel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let count = text.strip_prefix("replicas:").and_then(|count| count.parse().ok());
        match (text, count) {
            ("memory", _) => Ok(Self::Memory),
            ("fsync", _) => Ok(Self::Fsync),
            (_, Some(count @ 1..=REPLICAS_MAX)) => Ok(Self::Replicas(count)),
            _ => Err(BadAckLevel(text.to_owned())),
        }
    }
}

impl fmt::Display for AckLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Fsync => f.write_str("fsync"),
            Self::Replicas(count) => write!(f, "replicas:{count}"),
        }
    }
}

impl TryFrom<String> for AckLevel {
    type Error = BadAckLevel;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AckLevel> for String {
    fn from(level: AckLevel) -> Self {
        level.to_string()
    }
}

#[cfg(test)]
mod tests;
