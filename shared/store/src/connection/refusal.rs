//! The replies with which a node of a cluster refuses a command that it has not run.

use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};

use crate::redis_url::ServerAddress;

/// What a node says about a command that it has not run, so that it can be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// This node has the slot.
    Moved(ServerAddress),
    /// This node is to have the slot, and has the keys of the command already.
    Ask(ServerAddress),
    /// The slot is being moved, or a failover is on its way.
    Later,
}

impl Refusal {
    /// Returns the refusal in a reply of the node at `from`.
    pub(super) fn of(error: &RedisError, from: &ServerAddress) -> Option<Self> {
        let redirect = || error.redirect_node().and_then(|(address, _)| address_of(address, from));
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::Moved) => Some(Self::Moved(redirect()?)),
            ErrorKind::Server(ServerErrorKind::Ask) => Some(Self::Ask(redirect()?)),
            ErrorKind::Server(
                ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::BusyLoading
                | ServerErrorKind::ReadOnly,
            ) => Some(Self::Later),
            _ => None,
        }
    }

    /// Returns the refusal in the reply to a command.
    pub(super) fn of_reply(reply: &RedisResult<Value>, from: &ServerAddress) -> Option<Self> {
        match reply {
            Ok(value) => Self::of_value(value, from),
            Err(error) => Self::of(error, from),
        }
    }

    /// Returns the refusal in one of several replies.
    pub(crate) fn of_value(value: &Value, from: &ServerAddress) -> Option<Self> {
        match value {
            Value::ServerError(_) => Self::of(&value.clone().extract_error().err()?, from),
            _ => None,
        }
    }
}

/// A node that does not know its own name leaves the host out: it is that of the node that was asked.
fn address_of(text: &str, from: &ServerAddress) -> Option<ServerAddress> {
    let (host, port) = text.rsplit_once(':')?;
    let host = if host.is_empty() || host == "?" { &from.host } else { host };
    Some(ServerAddress { host: host.to_owned(), port: port.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use redis::parse_redis_value;

    use super::*;

    #[test]
    fn a_refusal_tells_where_the_slot_is_or_to_try_again() {
        let from = ServerAddress { host: "10.0.0.1".to_owned(), port: 7000 };
        let at = |host: &str, port| ServerAddress { host: host.to_owned(), port };
        for (line, expected) in [
            ("MOVED 5 10.0.0.2:7001", Some(Refusal::Moved(at("10.0.0.2", 7001)))),
            ("MOVED 5 :7001", Some(Refusal::Moved(at("10.0.0.1", 7001)))),
            ("MOVED 5 fd00::2:7001", Some(Refusal::Moved(at("fd00::2", 7001)))),
            ("ASK 5 node2:7001", Some(Refusal::Ask(at("node2", 7001)))),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Some(Refusal::Later)),
            ("CLUSTERDOWN Hash slot not served", Some(Refusal::Later)),
            ("LOADING Redis is loading the dataset in memory", Some(Refusal::Later)),
            ("MOVED", None),
            ("CROSSSLOT Keys in request don't hash to the same slot", None),
            ("OOM command not allowed", None),
            ("ERR unknown command", None),
        ] {
            let reply = parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
            assert_eq!(Refusal::of_value(&reply, &from), expected, "{line}");
            let error = Err(reply.extract_error().unwrap_err());
            assert_eq!(Refusal::of_reply(&error, &from), expected, "{line}");
        }
        assert_eq!(Refusal::of_value(&Value::Okay, &from), None);
    }
}
