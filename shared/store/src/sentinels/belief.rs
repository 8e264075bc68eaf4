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
    Unknown { sentinel: ServerAddress },
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

/// The replies to `SENTINEL MASTER` and `SENTINEL GET-MASTER-ADDR-BY-NAME`.
pub(super) type SentinelReply = (HashMap<String, String>, Option<(String, u16)>);

impl SentinelAnswer {
    /// Reads the reply of a Sentinel.
    pub(super) fn read(sentinel: &ServerAddress, answer: RedisResult<SentinelReply>) -> Self {
        let failed = |error| Self::Failed { sentinel: sentinel.clone(), error };
        let (master, address) = match answer {
            Ok(replies) => replies,
            Err(error) if error.to_string().contains("No such master") => {
                return Self::Unknown { sentinel: sentinel.clone() };
            }
            Err(error) if error.to_string().contains("unknown command") => {
                let problem = "is no Sentinel; give the addresses of Sentinels, or use redis://";
                return failed(unfit(format!("{sentinel} {problem}")));
            }
            Err(error) => return failed(error),
        };
        let epoch = master.get("config-epoch").and_then(|epoch| epoch.parse().ok());
        match (address, epoch) {
            (Some((host, port)), Some(epoch)) => {
                Self::Named(NamedPrimary { address: ServerAddress { host, port }, epoch })
            }
            _ => failed(io::Error::other("unexpected answer to SENTINEL MASTER").into()),
        }
    }
}

impl SentinelAnswer {
    /// Returns why it names no primary, with its address.
    pub(super) fn failure(&self) -> Option<String> {
        match self {
            Self::Named(_) => None,
            Self::Unknown { sentinel } => Some(format!("{sentinel}: it does not know the name")),
            Self::Failed { sentinel, error } => Some(format!("{sentinel}: {error}")),
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
        SentinelAnswer::Unknown { .. } | SentinelAnswer::Failed { .. } => None,
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
    let errors = answers.iter().filter_map(|answer| match answer {
        SentinelAnswer::Failed { error, .. } => Some(error),
        SentinelAnswer::Named(_) | SentinelAnswer::Unknown { .. } => None,
    });
    if let Some(error) = errors.clone().find(|error| error.code() == Some(UNFIT)) {
        return Err(error.clone());
    }
    if errors.count() == 0 {
        return Err(unfit(format!(
            "the Sentinels know no master named {master}; correct the name at the end of the URL"
        )));
    }
    let failures: Vec<_> = answers.iter().filter_map(SentinelAnswer::failure).collect();
    let problem = format!("no Sentinel names the primary of {master} ({})", failures.join("; "));
    Err(io::Error::other(problem).into())
}

#[cfg(test)]
mod tests {
    use redis::{Value, parse_redis_value};

    use super::*;

    fn address(port: u16) -> ServerAddress {
        ServerAddress { host: "10.0.0.1".to_owned(), port }
    }

    fn named(port: u16, epoch: u64) -> SentinelAnswer {
        SentinelAnswer::Named(NamedPrimary { address: address(port), epoch })
    }

    fn refused(line: &str) -> SentinelAnswer {
        let reply = parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        SentinelAnswer::read(&address(26379), Err(reply.extract_error().unwrap_err()))
    }

    fn silent() -> SentinelAnswer {
        let error = io::Error::from(io::ErrorKind::TimedOut).into();
        SentinelAnswer::read(&address(26379), Err(error))
    }

    fn port(answers: &[SentinelAnswer], believed: u64) -> Result<u16, RedisError> {
        believe("mymaster", answers, believed).map(|named| named.address.port)
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
            vec![SentinelAnswer::read(&address(26379), Ok((HashMap::new(), None)))],
        ] {
            let error = port(&answers, 0).unwrap_err();
            assert!(error.is_io_error(), "{error:?}");
            assert!(error.to_string().contains("10.0.0.1:26379: "), "{error}");
        }
    }

    #[test]
    fn the_reply_of_redis_is_read_in_both_of_its_forms() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let named = Value::Array(vec![text("10.0.0.1"), text("7000")]);
        let fields = [("ip", "10.0.0.9"), ("config-epoch", "3")];
        let list = fields.iter().flat_map(|(name, value)| [text(name), text(value)]).collect();
        let map = fields.iter().map(|(name, value)| (text(name), text(value))).collect();
        for master in [Value::Array(list), Value::Map(map)] {
            let reply = Value::Array(vec![master, named.clone()]);
            let reply: SentinelReply = redis::from_redis_value(reply).unwrap();
            let answer = SentinelAnswer::read(&address(1), Ok(reply));
            assert_eq!(port(&[answer], 0), Ok(7000));
        }
    }
}
