//! Finds the primary that Sentinels name.
//!
//! The answer of the highest configuration epoch counts. The library's own client believes the first answer of a Sentinel,
//! which led it back to the old primary for 11 s where this takes 2. The connection then checks that the server is a
//! primary.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use redis::{RedisResult, pipe};

use super::{
    ask::Discovery,
    belief::{DiscoveryAnswer, PrimarySurvey, believe},
};
use crate::{
    RedisUrl,
    redis_url::{DiscoveryKind, ServerAddress},
    slots::NamedPrimary,
};

/// The Sentinels of a primary.
pub(crate) struct Sentinels {
    discovery: Discovery,
    /// The name by which they know it.
    master: String,
    /// The highest configuration epoch that was believed.
    believed: Mutex<u64>,
}

/// The replies to `SENTINEL MASTER` and `SENTINEL GET-MASTER-ADDR-BY-NAME`.
type SentinelReply = (HashMap<String, String>, Option<(String, u16)>);

impl Sentinels {
    /// Returns the Sentinels of this URL, if it names some.
    pub(crate) fn of(url: &RedisUrl) -> Option<Self> {
        let asked = url.discovery()?;
        let DiscoveryKind::Sentinel { master } = &asked.kind else { return None };
        let discovery = Discovery::new(url, asked);
        Some(Self { discovery, master: master.clone(), believed: Mutex::default() })
    }

    /// Resolves when one announces a new primary, for one task.
    pub(crate) async fn announced(&self) {
        self.discovery.announced().await;
    }

    /// Asks all Sentinels for the primary.
    ///
    /// # Errors
    /// `UNFIT` if none of them can know it; another [`RedisError`](redis::RedisError) if too few of them answer.
    pub(crate) async fn find_primary(&self) -> RedisResult<ServerAddress> {
        let answers = self.ask_all().await;
        let mut believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        let NamedPrimary { address, epoch } = believe(self.discovery.kind(), &answers, *believed)?;
        *believed = epoch;
        Ok(address)
    }

    /// Asks all Sentinels for the primary, for an operator.
    pub(crate) async fn survey(&self) -> PrimarySurvey {
        PrimarySurvey::of(self.discovery.kind(), &self.ask_all().await)
    }

    async fn ask_all(&self) -> Vec<DiscoveryAnswer<NamedPrimary>> {
        let mut question = pipe();
        question.cmd("SENTINEL").arg("MASTER").arg(&self.master);
        // A Sentinel that has promoted a server names it here first.
        question.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master);
        let read = |reply, _: &_| Ok(named(redis::from_redis_value(reply)?));
        self.discovery.ask_all(self.discovery.named(), &question, read).await
    }
}

/// Reads the reply of a Sentinel.
fn named((master, address): SentinelReply) -> Option<NamedPrimary> {
    let (host, port) = address?;
    let epoch = master.get("config-epoch")?.parse().ok()?;
    Some(NamedPrimary { address: ServerAddress { host, port }, epoch })
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    #[test]
    fn the_reply_of_redis_is_read_in_both_of_its_forms() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let address = Value::Array(vec![text("10.0.0.1"), text("7000")]);
        let fields = [("ip", "10.0.0.9"), ("config-epoch", "3")];
        let list = fields.iter().flat_map(|(name, value)| [text(name), text(value)]).collect();
        let map = fields.iter().map(|(name, value)| (text(name), text(value))).collect();
        for master in [Value::Array(list), Value::Map(map)] {
            let reply = Value::Array(vec![master, address.clone()]);
            let reply: SentinelReply = redis::from_redis_value(reply).unwrap();
            let address = ServerAddress { host: "10.0.0.1".to_owned(), port: 7000 };
            assert_eq!(named(reply), Some(NamedPrimary { address, epoch: 3 }));
        }
        assert_eq!(named((HashMap::new(), None)), None);
    }
}
