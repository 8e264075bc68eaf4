//! Which of the answers about the primary counts.

use std::io;

use redis::{RedisError, RedisResult};
use spoke_diagnostics::error_chain;

use crate::{
    compatibility::{UNFIT, unfit},
    redis_url::{DiscoveryKind, ServerAddress},
    slots::NamedPrimary,
};

/// What one server answered.
#[derive(Debug, Clone)]
pub(crate) enum DiscoveryAnswer<T> {
    /// It told this.
    Told(T),
    /// It knows no primary: not the name, or no owner of the slot.
    Unknown { server: ServerAddress },
    /// It did not answer, or cannot know it.
    Failed { server: ServerAddress, error: RedisError },
}

/// What the servers that know the primary answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimarySurvey {
    /// What they are: `Sentinels` or `nodes`.
    pub what: &'static str,
    /// How many were asked.
    pub asked: usize,
    /// The server that they name.
    pub primary: Option<String>,
    /// The address and the error of each that names none.
    pub failures: Vec<String>,
}

impl DiscoveryKind {
    /// Returns what is asked, for a person.
    fn word(&self) -> &'static str {
        match self {
            Self::Sentinel { .. } => "Sentinels",
            Self::Cluster { .. } => "nodes",
        }
    }

    fn unknown(&self) -> String {
        match self {
            Self::Sentinel { master } => format!(
                "the Sentinels know no master named {master}; correct the name at the end of the URL"
            ),
            Self::Cluster { .. } => "no node of the cluster has the slot of the keys".to_owned(),
        }
    }
}

impl<T> DiscoveryAnswer<T> {
    /// Reads the answer of a server.
    pub(super) fn read(
        kind: &DiscoveryKind,
        server: &ServerAddress,
        answer: RedisResult<Option<T>>,
    ) -> Self {
        let server = server.clone();
        let error = match answer {
            Ok(Some(told)) => return Self::Told(told),
            Ok(None) => return Self::Unknown { server },
            Err(error) => error,
        };
        let text = error_chain(&error);
        let problem = match kind {
            DiscoveryKind::Sentinel { .. } if text.contains("No such master") => {
                return Self::Unknown { server };
            }
            DiscoveryKind::Sentinel { .. } if text.contains("unknown command") => {
                "is no Sentinel; give the addresses of Sentinels, or use redis://"
            }
            DiscoveryKind::Cluster { .. }
                if text.contains("cluster support disabled")
                    || text.contains("unknown command") =>
            {
                "is no node of a cluster; use redis:// for a single server"
            }
            DiscoveryKind::Sentinel { .. } | DiscoveryKind::Cluster { .. } => {
                return Self::Failed { server, error };
            }
        };
        let error = unfit(format!("{server} {problem}"));
        Self::Failed { server, error }
    }

    /// Returns the answer about a part of what was told.
    pub(crate) fn about<U>(
        &self,
        server: &ServerAddress,
        part: impl FnOnce(&T) -> Option<U>,
    ) -> DiscoveryAnswer<U> {
        match self {
            Self::Told(told) => part(told).map_or_else(
                || DiscoveryAnswer::Unknown { server: server.clone() },
                DiscoveryAnswer::Told,
            ),
            Self::Unknown { server } => DiscoveryAnswer::Unknown { server: server.clone() },
            Self::Failed { server, error } => {
                DiscoveryAnswer::Failed { server: server.clone(), error: error.clone() }
            }
        }
    }

    /// Returns why it names no primary, with its address.
    fn failure(&self) -> Option<String> {
        match self {
            Self::Told(_) => None,
            Self::Unknown { server } => Some(format!("{server}: it knows no primary")),
            Self::Failed { server, error } => Some(format!("{server}: {}", error_chain(error))),
        }
    }
}

impl PrimarySurvey {
    /// Sums up the answers.
    pub(crate) fn of(kind: &DiscoveryKind, answers: &[DiscoveryAnswer<NamedPrimary>]) -> Self {
        let failures = answers.iter().filter_map(DiscoveryAnswer::failure);
        Self {
            what: kind.word(),
            asked: answers.len(),
            primary: believe(kind, answers, 0).ok().map(|named| named.address.to_string()),
            failures: failures.collect(),
        }
    }
}

/// Returns the primary of the highest configuration epoch. One below `believed`, the highest that was believed before,
/// counts only if more than half of the servers answer: the others may have been cut off since.
///
/// # Errors
/// `UNFIT` if all Sentinels answer and none knows the name, or if a server is of another kind; an I/O error if too few
/// answer, or if no node of a cluster has the slot.
pub(crate) fn believe(
    kind: &DiscoveryKind,
    answers: &[DiscoveryAnswer<NamedPrimary>],
    believed: u64,
) -> RedisResult<NamedPrimary> {
    let named = answers.iter().filter_map(|answer| match answer {
        DiscoveryAnswer::Told(named) => Some(named),
        DiscoveryAnswer::Unknown { .. } | DiscoveryAnswer::Failed { .. } => None,
    });
    let what = kind.word();
    let is_majority = 2 * named.clone().count() > answers.len();
    if let Some(named) = named.max_by_key(|named| named.epoch) {
        if named.epoch >= believed || is_majority {
            return Ok(named.clone());
        }
        let problem = format!(
            "only {what} with an old configuration answer: epoch {}, after {believed}",
            named.epoch
        );
        return Err(io::Error::other(problem).into());
    }
    let errors = answers.iter().filter_map(|answer| match answer {
        DiscoveryAnswer::Failed { error, .. } => Some(error),
        DiscoveryAnswer::Told(_) | DiscoveryAnswer::Unknown { .. } => None,
    });
    if let Some(error) = errors.clone().find(|error| error.code() == Some(UNFIT)) {
        return Err(error.clone());
    }
    if errors.count() == 0 {
        return Err(match kind {
            DiscoveryKind::Sentinel { .. } => unfit(kind.unknown()),
            // Its slots may be given out later.
            DiscoveryKind::Cluster { .. } => io::Error::other(kind.unknown()).into(),
        });
    }
    let failures: Vec<_> = answers.iter().filter_map(DiscoveryAnswer::failure).collect();
    let problem = format!("none of the {what} names the primary ({})", failures.join("; "));
    Err(io::Error::other(problem).into())
}

#[cfg(test)]
mod tests {
    use redis::parse_redis_value;

    use super::*;

    fn address(port: u16) -> ServerAddress {
        ServerAddress { host: "10.0.0.1".to_owned(), port }
    }

    fn sentinel() -> DiscoveryKind {
        DiscoveryKind::Sentinel { master: "mymaster".to_owned() }
    }

    fn named(port: u16, epoch: u64) -> DiscoveryAnswer<NamedPrimary> {
        DiscoveryAnswer::Told(NamedPrimary { address: address(port), epoch })
    }

    fn refused(line: &str) -> DiscoveryAnswer<NamedPrimary> {
        let reply = parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        DiscoveryAnswer::read(&sentinel(), &address(26379), Err(reply.extract_error().unwrap_err()))
    }

    fn silent() -> DiscoveryAnswer<NamedPrimary> {
        let error = io::Error::from(io::ErrorKind::TimedOut).into();
        DiscoveryAnswer::read(&sentinel(), &address(26379), Err(error))
    }

    fn port(answers: &[DiscoveryAnswer<NamedPrimary>], believed: u64) -> Result<u16, RedisError> {
        believe(&sentinel(), answers, believed).map(|named| named.address.port)
    }

    #[test]
    fn the_highest_configuration_epoch_counts_whoever_answers_first() {
        for (answers, expected) in [
            (vec![named(1, 4), named(2, 5), named(1, 4)], 2),
            (vec![named(2, 5), named(1, 4)], 2),
            (vec![silent(), silent(), named(1, 4)], 1),
            (vec![refused("ERR No such master with that name"), named(1, 0)], 1),
        ] {
            assert_eq!(port(&answers, 0), Ok(expected), "{answers:?}");
        }
    }

    #[test]
    fn an_older_epoch_than_before_is_believed_of_a_majority_only() {
        let minority = [named(1, 4), silent(), silent()];
        let error = port(&minority, 5).unwrap_err().to_string();
        assert!(error.contains("epoch 4, after 5"), "{error}");
        assert_eq!(port(&minority, 4), Ok(1));
        assert_eq!(port(&[named(1, 0), named(1, 0), silent()], 5), Ok(1), "they were set up again");
    }

    #[test]
    fn a_wrong_name_and_a_server_that_is_no_sentinel_are_refused_with_the_mend() {
        let unknown = || refused("ERR No such master with that name");
        for (answers, expected) in [
            (vec![unknown(), unknown()], "know no master named mymaster; correct the name"),
            (
                vec![silent(), refused("ERR unknown command 'SENTINEL', with args")],
                "10.0.0.1:26379 is no Sentinel; give",
            ),
        ] {
            let error = port(&answers, 0).unwrap_err();
            assert_eq!(error.code(), Some(UNFIT), "{answers:?}");
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn without_an_answer_each_failure_is_named_and_may_end() {
        for answers in [
            vec![silent(), refused("NOAUTH Authentication required.")],
            vec![silent(), refused("ERR No such master with that name")],
        ] {
            let error = port(&answers, 0).unwrap_err();
            assert!(error.is_io_error(), "{error:?}");
            assert!(error.to_string().contains("10.0.0.1:26379: "), "{error}");
        }
    }

    #[test]
    fn a_cluster_without_an_owner_of_the_slot_is_waited_for_and_a_single_server_refused() {
        let cluster = DiscoveryKind::Cluster { by_name: false };
        let believed = |answer| {
            let answer = DiscoveryAnswer::read(&cluster, &address(7000), answer);
            believe(&cluster, &[answer], 0).unwrap_err()
        };
        let error = believed(Ok(None));
        assert!(error.is_io_error() && error.to_string().contains("has the slot"), "{error:?}");
        let reply = "-ERR This instance has cluster support disabled\r\n";
        let reply = parse_redis_value(reply.as_bytes()).unwrap();
        let error = believed(Err(reply.extract_error().unwrap_err()));
        assert_eq!(error.code(), Some(UNFIT));
        assert!(error.to_string().contains("is no node of a cluster; use redis://"), "{error}");
    }
}
