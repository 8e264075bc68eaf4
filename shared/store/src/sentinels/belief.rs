//! Which of the Sentinels' answers counts.

use std::{collections::HashMap, io};

use redis::{RedisError, RedisResult};

use crate::{
    compatibility::{UNFIT, unfit},
    redis_url::ServerAddress,
};

/// What one Sentinel answered.
#[derive(Debug)]
pub(super) enum SentinelAnswer {
    /// It names a primary.
    Named(NamedPrimary),
    /// It does not know the name.
    Unknown,
    /// It did not answer, or is no Sentinel.
    Failed { sentinel: ServerAddress, error: RedisError },
}

/// A primary, as a Sentinel names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedPrimary {
    pub(super) address: ServerAddress,
    /// The configuration epoch: each failover has a higher one.
    pub(super) epoch: u64,
}

impl SentinelAnswer {
    /// Reads the answer to `SENTINEL MASTER`.
    pub(super) fn read(
        sentinel: &ServerAddress,
        answer: RedisResult<HashMap<String, String>>,
    ) -> Self {
        let failed = |error| Self::Failed { sentinel: sentinel.clone(), error };
        let fields = match answer {
            Ok(fields) => fields,
            Err(error) if error.to_string().contains("No such master") => return Self::Unknown,
            Err(error) if error.to_string().contains("unknown command") => {
                let problem = "is no Sentinel; give the addresses of Sentinels, or use redis://";
                return failed(unfit(format!("{sentinel} {problem}")));
            }
            Err(error) => return failed(error),
        };
        let field = |name| fields.get(name).map(String::as_str);
        let named = || {
            let host = field("ip").filter(|host| !host.is_empty())?.to_owned();
            let port = field("port")?.parse().ok()?;
            let epoch = field("config-epoch")?.parse().ok()?;
            Some(NamedPrimary { address: ServerAddress { host, port }, epoch })
        };
        match named() {
            Some(named) => Self::Named(named),
            None => failed(io::Error::other("unexpected answer to SENTINEL MASTER").into()),
        }
    }
}

/// Returns the primary of the highest configuration epoch. One below `believed`, the highest that was believed before,
/// counts only if more than half of the Sentinels answer: the others may have been cut off since.
///
/// # Errors
/// `UNFIT` if all answer and none knows the name, or if one is no Sentinel; an I/O error if too few answer.
pub(super) fn believe(
    master: &str,
    answers: &[SentinelAnswer],
    believed: u64,
) -> RedisResult<NamedPrimary> {
    let named = answers.iter().filter_map(|answer| match answer {
        SentinelAnswer::Named(named) => Some(named),
        SentinelAnswer::Unknown | SentinelAnswer::Failed { .. } => None,
    });
    let failures = answers.iter().filter_map(|answer| match answer {
        SentinelAnswer::Failed { sentinel, error } => Some((sentinel, error)),
        SentinelAnswer::Named(_) | SentinelAnswer::Unknown => None,
    });
    let is_majority = 2 * named.clone().count() > answers.len();
    if let Some(named) = named.max_by_key(|named| named.epoch) {
        if named.epoch >= believed || is_majority {
            return Ok(named.clone());
        }
        return Err(io::Error::other(format!(
            "only Sentinels with an old configuration answer for {master}: epoch {}, after {believed}",
            named.epoch
        ))
        .into());
    }
    if let Some((_, error)) = failures.clone().find(|(_, error)| error.code() == Some(UNFIT)) {
        return Err(error.clone());
    }
    let failures: Vec<_> = failures.map(|(at, error)| format!("{at}: {error}")).collect();
    if failures.is_empty() {
        return Err(unfit(format!(
            "the Sentinels know no master named {master}; correct the name at the end of the URL"
        )));
    }
    let problem = format!("no Sentinel names the primary of {master} ({})", failures.join("; "));
    Err(io::Error::other(problem).into())
}
