//! What can go wrong with Redis, by what a caller can do about it.

use std::{error::Error, fmt, io};

use redis::{ErrorKind, ParsingError, RedisError};

use super::compatibility::UNFIT;
use spoke_diagnostics::{error_chain::error_chain, tls_error::explain};
use spoke_protocol::seq::Seq;

pub(super) const STREAM: &str = "stream";
pub(super) const HASH: &str = "hash";

/// A fault of Redis, or on the way to it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection, or no answer in time. Whether the command was carried out is not known.
    #[error("failed to reach redis")]
    Unreachable {
        /// What happened.
        source: RedisFault,
    },
    /// Redis says: not now. It is loading, out of memory, a replica, without its disk, …
    #[error("redis cannot do this now ({code})")]
    Busy {
        /// Redis's own word for it, such as OOM.
        code: String,
        /// Its whole answer.
        source: RedisFault,
    },
    /// It is a server that Spoke cannot work with: too old, or no single one.
    #[error("redis cannot be used")]
    Unfit {
        /// What was found, with the mend.
        source: RedisFault,
    },
    /// A key holds something else than it should: someone else writes to it.
    #[error("{}", wrong_type(.at.as_ref()))]
    WrongType {
        /// Which key, where that was looked for.
        at: Option<WrongKey>,
        /// Redis's answer.
        source: RedisFault,
    },
    /// A stream has given out the highest ID that there is, and so takes no more.
    #[error(
        "a stream in redis takes no more entries; XDEL its entry {MAX}, then XSETID it to its last ID",
        MAX = Seq::MAX
    )]
    Exhausted {
        /// Redis's answer, or the script's, which names the key.
        source: RedisFault,
    },
    /// One of our scripts failed.
    #[error("a script failed in redis")]
    Script {
        /// Redis's answer.
        source: RedisFault,
    },
    /// The password is wrong, or the user may not do this.
    #[error("redis does not let us do this; check user, password and ACL")]
    Denied {
        /// Redis's answer.
        source: RedisFault,
    },
    /// An answer that Redis does not give to what was asked.
    #[error("redis answered something else than {expected}")]
    Unexpected {
        /// What was expected.
        expected: &'static str,
    },
    /// Anything else.
    #[error("a redis command failed")]
    Other {
        /// What happened.
        source: RedisFault,
    },
}

/// A key that holds something else than it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongKey {
    /// Its name.
    pub key: String,
    /// What it is, in Redis' word.
    pub found: String,
    /// What it has to be.
    pub expected: &'static str,
}

fn wrong_type(at: Option<&WrongKey>) -> String {
    match at {
        Some(WrongKey { key, found, expected: needed }) => {
            format!(
                "the key {key} in redis is a {found} and has to be a {needed}: RENAME or DEL it"
            )
        }
        None => "a key in redis is of the wrong type".to_owned(),
    }
}

/// A `RedisError` whose text says all there is. The original repeats its text as its source, and a chain
/// of causes would say everything twice.
#[derive(Debug)]
pub struct RedisFault(RedisError);

impl StoreError {
    /// The connection is gone.
    pub fn connection_lost() -> Self {
        io::Error::new(io::ErrorKind::ConnectionReset, "the connection was closed").into()
    }

    /// All that `word` gives.
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

    /// The stable word, in figures.
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

    /// Whether the same may well work later, without a hand.
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

    /// Whether Redis as a whole does not do its part, whatever it is asked for.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Busy { .. } | Self::Unfit { .. } => true,
            // A right that is missing is missed by the commands that need it.
            Self::Denied { source } => code(&source.0).as_deref() != Some("NOPERM"),
            Self::WrongType { .. }
            | Self::Exhausted { .. }
            | Self::Script { .. }
            | Self::Unexpected { .. }
            | Self::Other { .. } => false,
        }
    }

    /// Whether its server may be the wrong one, and the name lead to another by now.
    pub fn is_wrong_server(&self) -> bool {
        const WORDS: [&str; 5] = ["READONLY", "MASTERDOWN", "LOADING", "NOREPLICAS", "CLUSTERDOWN"];
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

    /// Whether it has no memory left: what takes none, or frees some, goes on.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Busy { code, .. } if code == "OOM")
    }

    /// Whether one stream alone cannot be used as it is: what goes another way goes on.
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

    /// Whether this key holds something else than a stream.
    pub(super) fn is_fault_of(&self, stream: &str) -> bool {
        matches!(self, Self::WrongType { at: Some(at), .. } if at.key == stream)
    }

    /// What a person can do, where Redis' word tells.
    pub fn mend(&self) -> Option<&'static str> {
        match self {
            Self::Busy { code, .. } => Some(match code.as_str() {
                "OOM" => "its memory is full: raise maxmemory, or remove what is not needed",
                "READONLY" => {
                    "it is a replica: give the address of the primary, or REPLICAOF NO ONE"
                }
                "MASTERDOWN" => "it is a replica without its primary: see to the primary",
                "MISCONF" => "it cannot write its file: see to its disk, and to its log",
                "NOREPLICAS" => "it has too few replicas: see to them (INFO replication)",
                "NOFSYNC" => "see to its append-only file (INFO persistence)",
                "LOADING" => "it reads its file: wait",
                "BUSY" => "a script does not end: SCRIPT KILL",
                "MAXCLIENTS" => "it has as many clients as it takes: raise maxclients",
                _ => return None,
            }),
            Self::Denied { .. } => Some("mend the user and password of the setting, or its rights"),
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
        // It comes as a plain ERR, to any command, just before the connection is closed.
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
                    | "TRYAGAIN" | "CLUSTERDOWN" | "NOREPLICAS" | "NOFSYNC"),
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

/// Redis's own word. The one of a pipeline is that of its first failure, which `RedisError::code` only
/// gives for the words that the crate knows.
fn code(error: &RedisError) -> Option<String> {
    let in_pipeline = || {
        let errors = error.clone().into_server_errors()?;
        errors.first().map(|(_, error)| error.code().to_owned())
    };
    in_pipeline().or_else(|| error.code().map(str::to_owned))
}

impl fmt::Display for RedisFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match explain(&self.0) {
            Some(why) => write!(f, "failed to set up TLS with it: {why}"),
            None => fmt::Display::fmt(&self.0, f),
        }
    }
}

impl Error for RedisFault {}

#[cfg(test)]
mod tests {
    use redis::{Value, parse_redis_value};

    use super::*;

    fn answered(line: &str) -> StoreError {
        let value = parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        value.extract_error().unwrap_err().into()
    }

    #[test]
    fn each_answer_of_redis_falls_to_what_a_caller_can_do() {
        for (line, name) in [
            ("LOADING Redis is loading the dataset in memory", "Busy"),
            ("BUSY Redis is busy running a script.", "Busy"),
            ("READONLY You can't write against a read only replica.", "Busy"),
            ("MISCONF Errors writing to the AOF file: No space left on device", "Busy"),
            (
                "OOM command not allowed when used memory > 'maxmemory'. script: 4b, on @user_script:3.",
                "Busy",
            ),
            ("NOREPLICAS Not enough good replicas to write.", "Busy"),
            ("NOFSYNC ours, for an acknowledgement level that is not reached", "Busy"),
            ("ERR max number of clients reached", "Busy"),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", "WrongType"),
            (
                "ERR user_script:7: attempt to index a nil value script: 4b, on @user_script:7.",
                "Script",
            ),
            ("EXHAUSTED spoke-hub:in:x has given out the highest ID that there is", "Exhausted"),
            (
                "ERR The stream has exhausted the last possible ID, unable to add more items",
                "Exhausted",
            ),
            ("NOSCRIPT No matching script. Please use EVAL.", "Script"),
            ("NOAUTH Authentication required.", "Denied"),
            ("WRONGPASS invalid username-password pair or user is disabled.", "Denied"),
            ("NOPERM this user has no permissions to run the 'xadd' command", "Denied"),
            ("ERR unknown command 'XADD'", "Other"),
        ] {
            let error = answered(line);
            assert!(format!("{error:?}").starts_with(name), "{line}: {error:?}");
            assert_eq!(error.is_transient(), name == "Busy", "{line}");
            assert!(StoreError::WORDS.contains(&error.word()), "{line}: {}", error.word());
        }
    }

    #[test]
    fn the_word_of_redis_is_kept_and_its_answer_is_the_source_once() {
        let error = answered("OOM command not allowed when used memory > 'maxmemory'.");
        assert_eq!(error.to_string(), "redis cannot do this now (OOM)");
        let source = error.source().unwrap();
        assert!(source.to_string().contains("maxmemory"), "{source}");
        assert!(source.source().is_none());
    }

    #[test]
    fn a_lost_connection_is_transient() {
        let timeout = StoreError::from(io::Error::from(io::ErrorKind::TimedOut));
        for error in [StoreError::connection_lost(), timeout] {
            assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
            assert!(error.is_transient());
        }
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_not_transient() {
        let parsed = redis::from_redis_value::<u64>(Value::Array(Vec::new()));
        assert!(!StoreError::from(parsed.unwrap_err()).is_transient());
    }
}
