//! Finds the primary: the one that Sentinels name, or in a cluster the one that has a slot.
//!
//! All servers of the URL are asked, and the answer of the highest configuration epoch counts: in the middle of a failover
//! some still name the old primary. The library's own client believes the first answer of a Sentinel, which led it back to
//! the old primary for 11 s where this takes 2. The connection then checks that the server is a primary.
//!
//! The connections stay open, and Sentinels announce each new primary on them.

mod belief;
mod slots;

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use redis::{
    AsyncConnectionConfig, PushInfo, PushKind, RedisError, RedisResult, aio::MultiplexedConnection,
    cmd, pipe,
};
use tokio::{
    sync::{Mutex as AsyncMutex, Notify},
    time::{Instant, timeout_at},
};

use self::{
    belief::{DiscoveryAnswer, NamedPrimary, SentinelReply, believe},
    slots::{hash_tag, primary_of, slot_of},
};
use crate::{
    RedisUrl,
    compatibility::unfit,
    error::is_lost,
    limits::{DISCOVERY_GRACE, DISCOVERY_TIMEOUT},
    redis_url::{DiscoveryKind, DiscoveryUrl, ServerAddress},
};

/// The servers that know the primary of a Redis.
pub(super) struct Discovery {
    url: RedisUrl,
    asked: DiscoveryUrl,
    /// Of a cluster: the slot of all keys.
    slot: u16,
    /// To each server, while it answers.
    connections: Vec<AsyncMutex<Option<MultiplexedConnection>>>,
    /// The highest configuration epoch that was believed.
    believed: Mutex<u64>,
    announced: Arc<Notify>,
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

impl Discovery {
    /// Returns the servers of this URL that know the primary, if it names some: in a cluster, that of the slot of `key`.
    ///
    /// # Errors
    /// `UNFIT` if the keys of a cluster would not be in one slot.
    pub(super) fn of(url: &RedisUrl, key: &str) -> RedisResult<Option<Self>> {
        let Some(asked) = url.discovery().cloned() else { return Ok(None) };
        if url.is_cluster() && hash_tag(key).is_none() {
            return Err(unfit(
                "a Redis Cluster needs a prefix of the keys that begins with a name in braces, such as \
                 {spoke-hub}, which keeps them in one slot"
                    .to_owned(),
            ));
        }
        let connections = asked.servers.iter().map(|_| AsyncMutex::default()).collect();
        let (believed, announced) = (Mutex::default(), Arc::default());
        let (url, slot) = (url.clone(), slot_of(key));
        Ok(Some(Self { url, asked, slot, connections, believed, announced }))
    }

    /// Resolves when a Sentinel announces a new primary, for one task.
    pub(super) async fn announced(&self) {
        self.announced.notified().await;
    }

    /// Asks all servers for the primary.
    ///
    /// # Errors
    /// `UNFIT` if none of them can know it; another [`RedisError`] if too few of them answer.
    pub(super) async fn find_primary(&self) -> RedisResult<ServerAddress> {
        let answers = self.ask_all().await;
        let mut believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        let NamedPrimary { address, epoch } = believe(&self.asked.kind, &answers, *believed)?;
        *believed = epoch;
        Ok(address)
    }

    /// Asks all servers for the primary, for an operator.
    pub(super) async fn survey(&self) -> PrimarySurvey {
        let answers = self.ask_all().await;
        let named = believe(&self.asked.kind, &answers, 0).ok();
        let failures = answers.iter().filter_map(DiscoveryAnswer::failure);
        PrimarySurvey {
            what: self.asked.kind.word(),
            asked: answers.len(),
            primary: named.map(|named| named.address.to_string()),
            failures: failures.collect(),
        }
    }

    /// Returns one answer of each server. Once more than half name a primary, the others have [`DISCOVERY_GRACE`] left.
    async fn ask_all(&self) -> Vec<DiscoveryAnswer> {
        let servers = &self.asked.servers;
        let asked = servers.iter().zip(&self.connections).enumerate();
        let mut asking: FuturesUnordered<_> = asked
            .map(async |(at, (address, connection))| (at, self.ask(address, connection).await))
            .collect();
        let mut answers: Vec<_> = servers.iter().map(|_| None).collect();
        let (mut named, mut until) = (0, Instant::now() + DISCOVERY_TIMEOUT);
        while let Ok(Some((at, answer))) = timeout_at(until, asking.next()).await {
            named += usize::from(matches!(answer, DiscoveryAnswer::Named(_)));
            if 2 * named > servers.len() {
                until = until.min(Instant::now() + DISCOVERY_GRACE);
            }
            answers[at] = Some(answer);
        }
        let silent = |server| DiscoveryAnswer::read(&self.asked.kind, server, Err(timed_out()));
        let each = answers.into_iter().zip(servers);
        each.map(|(answer, server)| answer.unwrap_or_else(|| silent(server))).collect()
    }

    async fn ask(
        &self,
        address: &ServerAddress,
        connection: &AsyncMutex<Option<MultiplexedConnection>>,
    ) -> DiscoveryAnswer {
        let asking = async {
            let mut connection = connection.lock().await;
            let mut open = match connection.take() {
                Some(open) => open,
                None => self.connect(address).await?,
            };
            let answer = self.question(&mut open, address).await;
            if answer.as_ref().err().is_none_or(|error| !is_lost(error)) {
                *connection = Some(open);
            }
            answer
        };
        DiscoveryAnswer::read(&self.asked.kind, address, asking.await)
    }

    async fn question(
        &self,
        connection: &mut MultiplexedConnection,
        address: &ServerAddress,
    ) -> RedisResult<Option<NamedPrimary>> {
        match &self.asked.kind {
            DiscoveryKind::Sentinel { master } => {
                let mut question = pipe();
                question.cmd("SENTINEL").arg("MASTER").arg(master);
                // A Sentinel that has promoted a server names it here first.
                question.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master);
                let reply: SentinelReply = question.query_async(connection).await?;
                Ok(NamedPrimary::of_sentinel(reply))
            }
            DiscoveryKind::Cluster { by_name } => {
                let nodes: String = cmd("CLUSTER").arg("NODES").query_async(connection).await?;
                Ok(primary_of(&nodes, self.slot, (address, *by_name)))
            }
        }
    }

    async fn connect(&self, address: &ServerAddress) -> RedisResult<MultiplexedConnection> {
        let announced = self.announced.clone();
        let on_push = move |push: PushInfo| {
            if push.kind == PushKind::Message {
                announced.notify_one();
            }
            Ok::<(), Infallible>(())
        };
        let config = AsyncConnectionConfig::new()
            .set_push_sender(on_push)
            .set_connection_timeout(Some(DISCOVERY_TIMEOUT))
            .set_response_timeout(Some(DISCOVERY_TIMEOUT));
        let client = self.url.discovery_client(&self.asked, address)?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        if matches!(self.asked.kind, DiscoveryKind::Sentinel { .. }) {
            // A user who may not subscribe learns of a new primary by asking.
            let _ = connection.subscribe("+switch-master").await;
        }
        Ok(connection)
    }
}

fn timed_out() -> RedisError {
    io::Error::from(io::ErrorKind::TimedOut).into()
}
