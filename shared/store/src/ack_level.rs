//! Acknowledgement levels: what an entry must have come to before it is acknowledged, and how a
//! Redis is held to it.
//!
//! A level is proved once a batch, by a `Barrier` sent behind the writes on their own connection.
//! `WAIT` and `WAITAOF` are such; before 7.2 Redis has no word for "synced", so there the barrier
//! asks whether it still syncs each write before it answers any. Rejected: to look at the
//! settings at start only, since they can change, and so can the Redis behind an address.

use std::{fmt, str::FromStr};

use redis::{Cmd, RedisError, RedisResult, Value, cmd, make_extension_error};
use serde::{Deserialize, Serialize};

use super::{
    StoreError, decode,
    server_info::{AofSync, ServerInfo},
};
use crate::limits::{LEVEL_TIMEOUT, REPLICAS_MAX};
use spoke_diagnostics::error_chain::error_chain;

/// What an entry must have come to before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AckLevel {
    /// Redis has applied it.
    #[default]
    Memory,
    /// It is on Redis's disk. With `appendfsync everysec` that takes one to two seconds a wait.
    Fsync,
    /// That many replicas have applied it, too.
    Replicas(u64),
}

/// The text is no level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is {0:?}; give memory, fsync, or replicas:N with N from 1 to {REPLICAS_MAX}")]
pub struct BadAckLevel(String);

/// What proves on a connection that all its writes so far are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barrier {
    /// `WAIT` for that many replicas.
    Replicas(u64),
    /// `WAITAOF`, from Redis 7.2 on.
    Synced,
    /// Redis syncs each write before it answers, if its settings say so now.
    SyncsAlways,
}

/// Why a Redis cannot give a level, with the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnmetLevel {
    /// Too few are connected to it.
    #[error(
        "redis has {found} connected replicas; connect as many as asked for (REPLICAOF), or ask for fewer"
    )]
    Replicas {
        /// As many as there are.
        found: u64,
    },
    /// Nothing is ever on its disk in time.
    #[error(
        "redis keeps no append-only file; let it: CONFIG SET appendonly yes, and the same in redis.conf"
    )]
    NoAppendOnly,
    /// Its answers come before the sync, and there is no way to wait for that.
    #[error(
        "redis does not sync before it answers (appendfsync {appendfsync}), and one before 7.2 cannot be waited for; let it: CONFIG SET appendfsync always, and the same in redis.conf"
    )]
    AnswersFirst {
        /// Its setting.
        appendfsync: String,
    },
    /// It leaves syncing to the operating system.
    #[error(
        "redis never syncs by itself (appendfsync no); let it: CONFIG SET appendfsync everysec, or always, and the same in redis.conf"
    )]
    NeverSyncs,
    /// It stops syncing at times.
    #[error(
        "redis does not sync while it rewrites its file (no-appendfsync-on-rewrite yes); let it: CONFIG SET no-appendfsync-on-rewrite no, and the same in redis.conf"
    )]
    PausesSyncing,
    /// It does not show how it syncs.
    #[error(
        "redis does not show whether it syncs (CONFIG GET is denied); let this user see: ACL SETUSER … +config|get"
    )]
    Hidden,
}

impl AckLevel {
    /// What proves this level on that Redis; nothing has to for `memory`.
    ///
    /// # Errors
    /// Why that Redis cannot give it.
    pub fn barrier(self, facts: &ServerInfo) -> Result<Option<Barrier>, UnmetLevel> {
        match self {
            Self::Memory => Ok(None),
            Self::Replicas(wanted) if facts.replicas >= wanted => {
                Ok(Some(Barrier::Replicas(wanted)))
            }
            Self::Replicas(_) => Err(UnmetLevel::Replicas { found: facts.replicas }),
            Self::Fsync => {
                let syncing = facts.aof_sync.as_ref().ok_or(UnmetLevel::Hidden)?;
                if facts.version < (7, 2) {
                    return syncs_always(syncing).map(|()| Some(Barrier::SyncsAlways));
                }
                match (syncing.is_append_only, syncing.appendfsync.as_str()) {
                    (false, _) => Err(UnmetLevel::NoAppendOnly),
                    (true, "no") => Err(UnmetLevel::NeverSyncs),
                    (true, _) => Ok(Some(Barrier::Synced)),
                }
            }
        }
    }
}

fn syncs_always(syncing: &AofSync) -> Result<(), UnmetLevel> {
    if !syncing.is_append_only {
        Err(UnmetLevel::NoAppendOnly)
    } else if syncing.appendfsync != "always" {
        Err(UnmetLevel::AnswersFirst { appendfsync: syncing.appendfsync.clone() })
    } else if syncing.pauses_for_rewrite {
        Err(UnmetLevel::PausesSyncing)
    } else {
        Ok(())
    }
}

impl Barrier {
    /// The command to send behind the writes.
    pub fn command(self) -> Cmd {
        let timeout_ms = LEVEL_TIMEOUT.as_millis() as u64;
        match self {
            Self::Replicas(count) => cmd("WAIT").arg(count).arg(timeout_ms).take(),
            Self::Synced => cmd("WAITAOF").arg(1).arg(0).arg(timeout_ms).take(),
            Self::SyncsAlways => AofSync::command(),
        }
    }

    /// What its answer says of the writes before it.
    ///
    /// # Errors
    /// They are not kept at the level, or not yet: `NOREPLICAS` or `NOFSYNC`.
    pub fn check(self, answer: Value) -> RedisResult<()> {
        let unproved = |error: StoreError| self.unproved(error_chain(&error));
        let answer = answer.extract_error().map_err(|error| self.unproved(error_chain(&error)))?;
        match self {
            Self::Replicas(wanted) => match decode::count(answer).map_err(unproved)? {
                reached if reached >= wanted => Ok(()),
                reached => Err(self.unproved(format!("{reached} of {wanted} replicas have it"))),
            },
            Self::Synced => {
                let local = decode::list(answer).map_err(unproved)?.into_iter().next();
                match local.map_or(Ok(0), decode::count).map_err(unproved)? {
                    0 => Err(self.unproved("it is not synced to disk yet".to_owned())),
                    _ => Ok(()),
                }
            }
            Self::SyncsAlways => {
                let syncing =
                    AofSync::read(answer).map_err(|error| self.unproved(error_chain(&error)))?;
                Ok(syncs_always(&syncing)?)
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

/// As Redis would say it: not now.
impl From<UnmetLevel> for RedisError {
    fn from(lack: UnmetLevel) -> Self {
        let code = match lack {
            UnmetLevel::Replicas { .. } => "NOREPLICAS",
            UnmetLevel::NoAppendOnly
            | UnmetLevel::AnswersFirst { .. }
            | UnmetLevel::NeverSyncs
            | UnmetLevel::PausesSyncing
            | UnmetLevel::Hidden => "NOFSYNC",
        };
        make_extension_error(code.to_owned(), Some(lack.to_string()))
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
