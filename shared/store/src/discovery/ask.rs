//! Asks the servers that know the primary: Sentinels, or the nodes of a cluster.
//!
//! All of them are asked, since in the middle of a failover some still name the old primary. The connections stay open,
//! and Sentinels announce each new primary on them.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use redis::{
    AsyncConnectionConfig, Pipeline, PushInfo, PushKind, RedisError, RedisResult, Value,
    aio::MultiplexedConnection,
};
use tokio::{
    sync::{Mutex as AsyncMutex, Notify},
    time::{Instant, timeout_at},
};

use super::belief::DiscoveryAnswer;
use crate::{
    RedisUrl,
    error::is_lost,
    limits::{DISCOVERY_GRACE, DISCOVERY_TIMEOUT},
    redis_url::{DiscoveryKind, DiscoveryUrl, ServerAddress},
};

/// The servers that know the primary of a Redis.
pub(crate) struct Discovery {
    url: RedisUrl,
    asked: DiscoveryUrl,
    /// To each server, while it answers.
    connections: Mutex<HashMap<ServerAddress, AskedConnection>>,
    announced: Arc<Notify>,
}

type AskedConnection = Arc<AsyncMutex<Option<MultiplexedConnection>>>;

impl Discovery {
    /// Creates it for the servers that this URL names.
    pub(crate) fn new(url: &RedisUrl, asked: &DiscoveryUrl) -> Self {
        let (url, asked) = (url.clone(), asked.clone());
        Self { url, asked, connections: Mutex::default(), announced: Arc::default() }
    }

    pub(crate) fn kind(&self) -> &DiscoveryKind {
        &self.asked.kind
    }

    /// Returns the servers in the URL.
    pub(crate) fn named(&self) -> &[ServerAddress] {
        &self.asked.servers
    }

    /// Resolves when a Sentinel announces a new primary, for one task.
    pub(super) async fn announced(&self) {
        self.announced.notified().await;
    }

    /// Asks each of these servers, and returns one answer of each, as `read` understands the replies. Once more than half
    /// have told something, the others have [`DISCOVERY_GRACE`] left.
    pub(crate) async fn ask_all<T>(
        &self,
        servers: &[ServerAddress],
        question: &Pipeline,
        read: impl Fn(Value, &ServerAddress) -> RedisResult<Option<T>>,
    ) -> Vec<DiscoveryAnswer<T>> {
        let asked = servers.iter().zip(self.connections(servers)).enumerate();
        let mut asking: FuturesUnordered<_> = asked
            .map(async |(at, (server, connection))| {
                (at, self.ask(server, connection, question).await)
            })
            .collect();
        let mut answers: Vec<_> = servers.iter().map(|_| None).collect();
        let (mut told, mut until) = (0, Instant::now() + DISCOVERY_TIMEOUT);
        while let Ok(Some((at, reply))) = timeout_at(until, asking.next()).await {
            let told_by = |server| reply.and_then(|reply| read(reply, server));
            let answer = DiscoveryAnswer::read(self.kind(), &servers[at], told_by(&servers[at]));
            told += usize::from(matches!(answer, DiscoveryAnswer::Told(_)));
            if 2 * told > servers.len() {
                until = until.min(Instant::now() + DISCOVERY_GRACE);
            }
            answers[at] = Some(answer);
        }
        let silent = |server| DiscoveryAnswer::read(self.kind(), server, Err(timed_out()));
        let each = answers.into_iter().zip(servers);
        each.map(|(answer, server)| answer.unwrap_or_else(|| silent(server))).collect()
    }

    /// Returns the connections to these servers, and forgets all others.
    fn connections(&self, servers: &[ServerAddress]) -> Vec<AskedConnection> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|address, _| servers.contains(address));
        servers
            .iter()
            .map(|address| connections.entry(address.clone()).or_default().clone())
            .collect()
    }

    async fn ask(
        &self,
        server: &ServerAddress,
        connection: AskedConnection,
        question: &Pipeline,
    ) -> RedisResult<Value> {
        let mut connection = connection.lock().await;
        let mut open = match connection.take() {
            Some(open) => open,
            None => self.connect(server).await?,
        };
        let reply = question.query_async(&mut open).await;
        if reply.as_ref().err().is_none_or(|error| !is_lost(error)) {
            *connection = Some(open);
        }
        reply
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
        if matches!(self.kind(), DiscoveryKind::Sentinel { .. }) {
            // A user who may not subscribe learns of a new primary by asking.
            let _ = connection.subscribe("+switch-master").await;
        }
        Ok(connection)
    }
}

fn timed_out() -> RedisError {
    io::Error::from(io::ErrorKind::TimedOut).into()
}
