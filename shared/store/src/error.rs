//! The errors of Redis, by what a caller can do about them.

use std::{error::Error, fmt, io};

use redis::{ErrorKind, ParsingError, RedisError, make_extension_error};

use super::compatibility::UNFIT;
use spoke_diagnostics::{error_chain, tls_error::explain};
use spoke_protocol::Seq;

pub(super) const STREAM: &str = "stream";
pub(super) const HASH: &str = "hash";
/// Spoke's own error code for a change that another party changes again and again.
const CONTENDED: &str = "CONTENDED";

/// An error of Redis, or of the connection to it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection, or no reply in time. It is not known whether the command was executed.
    #[error("failed to reach redis")]
    Unreachable {
        /// The error.
        source: RedisFault,
    },
    /// Redis rejects the command for now: it is loading, out of memory, a replica, without its disk, …
    #[error("redis rejected the command ({code})")]
    Busy {
        /// The code of Redis, such as OOM.
        code: String,
        /// The reply of Redis.
        source: RedisFault,
    },
    /// Spoke does not support the server: it is too old, or not a single server.
    #[error("unsupported redis server")]
    Unfit {
        /// What was found, with the remedy.
        source: RedisFault,
    },
    /// A key has the wrong type: another party writes to it.
    #[error("{}", wrong_type(.at.as_ref()))]
    WrongType {
        /// The key, if it was looked for.
        at: Option<WrongKey>,
        /// The reply of Redis.
        source: RedisFault,
    },
    /// A stream has generated the highest possible ID, and has no IDs left.
    #[error(
        "a stream in redis takes no more entries; XDEL its entry {MAX}, then XSETID it to its last ID",
        MAX = Seq::MAX
    )]
    Exhausted {
        /// The reply of Redis, or of the script, which names the key.
        source: RedisFault,
    },
    /// A script failed.
    #[error("a redis script failed")]
    Script {
        /// The reply of Redis.
        source: RedisFault,
    },
    /// The password is wrong, or the user has no permission.
    #[error("redis denied access; check user, password and ACL")]
    Denied {
        /// The reply of Redis.
        source: RedisFault,
    },
    /// The reply has an unexpected form.
    #[error("unexpected redis reply, expected {expected}")]
    Unexpected {
        /// The expected reply.
        expected: &'static str,
    },
    /// Any other error.
    #[error("a redis command failed")]
    Other {
        /// The error.
        source: RedisFault,
    },
}

/// A key that has the wrong type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongKey {
    /// Its name.
    pub key: String,
    /// Its type.
    pub found: String,
    /// The expected type.
    pub expected: &'static str,
}

fn wrong_type(at: Option<&WrongKey>) -> String {
    match at {
        Some(WrongKey { key, found, expected }) => {
            format!(
                "wrong type of the redis key {key}: expected a {expected}, found a {found}; RENAME or DEL it"
            )
        }
        None => "wrong type of a redis key".to_owned(),
    }
}

/// A [`RedisError`] without its source: the source repeats the text, and a chain of causes would have everything
/// twice.
#[derive(Debug)]
pub struct RedisFault(RedisError);

impl StoreError {
    /// Returns the error of a closed connection.
    pub fn connection_lost() -> Self {
        io::Error::new(io::ErrorKind::ConnectionReset, "the connection was closed").into()
    }

    /// Returns the error of a change that was repeated because another party changed the same, and too often.
    pub fn contended(problem: &str) -> Self {
        make_extension_error(CONTENDED.to_owned(), Some(problem.to_owned())).into()
    }

    /// All words of [`Self::word`].
    pub const WORDS: [&'static str; 9] = [
        "unreachable",
        "busy",
        "unfit",
        "wrong-type",
        "exhausted",
        "script",
        "denied",
        "unexpected",
        "other",
    ];

    /// Returns the stable word for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Busy { .. } => "busy",
            Self::Unfit { .. } => "unfit",
            Self::WrongType { .. } => "wrong-type",
            Self::Exhausted { .. } => "exhausted",
            Self::Script { .. } => "script",
            Self::Denied { .. } => "denied",
            Self::Unexpected { .. } => "unexpected",
            Self::Other { .. } => "other",
        }
    }

    /// Returns whether a retry may succeed without a change by an operator.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Busy { .. } => true,
            Self::Unfit { .. }
            | Self::WrongType { .. }
            | Self::Exhausted { .. }
            | Self::Script { .. }
            | Self::Denied { .. }
            | Self::Unexpected { .. }
            | Self::Other { .. } => false,
        }
    }

    /// Returns whether Redis as a whole fails, whatever the command.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Busy { .. } | Self::Unfit { .. } => true,
            // A missing permission fails only the commands that need it.
            Self::Denied { source } => code(&source.0).as_deref() != Some("NOPERM"),
            Self::WrongType { .. }
            | Self::Exhausted { .. }
            | Self::Script { .. }
            | Self::Unexpected { .. }
            | Self::Other { .. } => false,
        }
    }

    /// Returns whether this may be the wrong server, and its name may resolve to another by now.
    pub fn is_wrong_server(&self) -> bool {
        const WORDS: [&str; 6] =
            ["READONLY", "MASTERDOWN", "LOADING", "NOREPLICAS", "CLUSTERDOWN", "MOVED"];
        match self {
            Self::Busy { code, .. } => WORDS.contains(&code.as_str()),
            Self::Unreachable { .. }
            | Self::Unfit { .. }
            | Self::WrongType { .. }
            | Self::Exhausted { .. }
            | Self::Script { .. }
            | Self::Denied { .. }
            | Self::Unexpected { .. }
            | Self::Other { .. } => false,
        }
    }

    /// Returns whether its memory is full. Commands that take no memory, or free some, still work.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Busy { code, .. } if code == "OOM")
    }

    /// Returns whether only one stream cannot be used, so that other streams still work.
    pub fn is_stream_fault(&self) -> bool {
        match self {
            Self::Exhausted { .. } => true,
            Self::WrongType { at, .. } => at.as_ref().is_some_and(|at| at.expected == STREAM),
            Self::Unreachable { .. }
            | Self::Busy { .. }
            | Self::Unfit { .. }
            | Self::Script { .. }
            | Self::Denied { .. }
            | Self::Unexpected { .. }
            | Self::Other { .. } => false,
        }
    }

    /// Returns whether this key has the wrong type.
    pub(super) fn is_fault_of(&self, stream: &str) -> bool {
        matches!(self, Self::WrongType { at: Some(at), .. } if at.key == stream)
    }

    /// Returns what an operator can do, if the code of Redis tells.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Busy { code, .. } => Some(match code.as_str() {
                "OOM" => "its memory is full: raise maxmemory, or remove data",
                "READONLY" => {
                    "it is a replica: use the address of the primary, or run REPLICAOF NO ONE"
                }
                "MASTERDOWN" => "it is a replica without its primary: check the primary",
                "MISCONF" => "it cannot write its file: check its disk and its log",
                "NOREPLICAS" => "it has too few replicas: check them (INFO replication)",
                "NOFSYNC" => "check its append-only file (INFO persistence)",
                "LOADING" => "it is loading its file: wait",
                "MOVED" => "another node of the cluster has the keys by now: it is looked for",
                "ASK" | "TRYAGAIN" => "the cluster is moving the slot of the keys: wait",
                "CLUSTERDOWN" => "a part of the cluster is down: check its nodes (CLUSTER INFO)",
                "BUSY" => "a script does not end: run SCRIPT KILL",
                "MAXCLIENTS" => "it has too many clients: raise maxclients",
                _ => return None,
            }),
            Self::Denied { .. } => {
                Some("correct the user and password of the setting, or the permissions of the user")
            }
            Self::Unreachable { .. }
            | Self::Unfit { .. }
            | Self::WrongType { .. }
            | Self::Exhausted { .. }
            | Self::Script { .. }
            | Self::Unexpected { .. }
            | Self::Other { .. } => None,
        }
    }
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        let code = code(&error);
        let text = error_chain(&error);
        let kind = error.kind();
        let source = RedisFault(error);
        // Redis sends this as a plain ERR, to any command, before it closes the connection.
        if text.contains("max number of clients reached") {
            return Self::Busy { code: "MAXCLIENTS".to_owned(), source };
        }
        match (kind, code.as_deref()) {
            (ErrorKind::Io, _) => Self::Unreachable { source },
            (_, Some(UNFIT)) => Self::Unfit { source },
            (
                _,
                Some(
                    word @ ("LOADING" | "BUSY" | "READONLY" | "MISCONF" | "OOM" | "MASTERDOWN"
                    | "TRYAGAIN" | "CLUSTERDOWN" | "MOVED" | "ASK" | "UNBLOCKED"
                    | "NOREPLICAS" | "NOFSYNC" | CONTENDED),
                ),
            ) => Self::Busy { code: word.to_owned(), source },
            (_, Some("NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED")) => Self::Denied { source },
            (ErrorKind::AuthenticationFailed, _) => Self::Denied { source },
            (_, Some("WRONGTYPE")) => Self::WrongType { at: None, source },
            (_, Some("EXHAUSTED")) => Self::Exhausted { source },
            _ if text.contains("exhausted the last possible ID") => Self::Exhausted { source },
            (_, Some("NOSCRIPT")) => Self::Script { source },
            (_, Some("ERR")) if text.contains("user_script") => Self::Script { source },
            _ => Self::Other { source },
        }
    }
}

impl From<ParsingError> for StoreError {
    fn from(error: ParsingError) -> Self {
        RedisError::from(error).into()
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        RedisError::from(error).into()
    }
}

/// Returns the code of Redis. The code of a pipeline is that of its first failure, which [`RedisError::code`] only
/// returns for the codes that the crate knows.
fn code(error: &RedisError) -> Option<String> {
    let in_pipeline = || {
        let errors = error.clone().into_server_errors()?;
        errors.first().map(|(_, error)| error.code().to_owned())
    };
    in_pipeline().or_else(|| error.code().map(str::to_owned))
}

/// Returns whether Redis does not have a script.
pub(super) fn is_no_script(error: &RedisError) -> bool {
    error.code() == Some("NOSCRIPT") || error.to_string().contains("NOSCRIPT")
}

/// Returns whether the connection is broken. After a reply that cannot be parsed, no later one can be; a reply that is
/// missing would block all later ones.
pub(super) fn is_lost(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
        || error.is_io_error()
        || error.is_unrecoverable_error()
}

impl fmt::Display for RedisFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match explain(&self.0) {
            Some(why) => write!(f, "failed to set up TLS: {why}"),
            // A code of our own, which no Redis gives.
            None if self.0.code() == Some(UNFIT) => {
                f.write_str(self.0.detail().unwrap_or_default())
            }
            None => fmt::Display::fmt(&self.0, f),
        }
    }
}

impl Error for RedisFault {}

#[cfg(test)]
mod tests;
