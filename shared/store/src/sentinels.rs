//! Finds the primary that Sentinels name.
//!
//! All Sentinels are asked, and the answer of the highest configuration epoch counts: in the middle of a failover some
//! still name the old primary. The library's own client believes the first answer, which led it back to the old primary
//! for 11 s where this takes 2. The connection then checks that the server is a primary.

mod belief;

use std::{
    collections::HashMap,
    io,
    sync::{Mutex, PoisonError},
};

use futures_util::future::join_all;
use redis::{AsyncConnectionConfig, RedisResult, aio::MultiplexedConnection, cmd};
use tokio::{sync::Mutex as AsyncMutex, time::timeout};

use self::belief::{NamedPrimary, SentinelAnswer, believe};
use crate::{
    RedisUrl,
    connection::is_lost,
    limits::SENTINEL_TIMEOUT,
    redis_url::{SentinelUrl, ServerAddress},
};

/// The Sentinels of a Redis.
pub(super) struct Sentinels {
    url: RedisUrl,
    sentinels: SentinelUrl,
    /// Of each Sentinel, while it answers.
    connections: Vec<AsyncMutex<Option<MultiplexedConnection>>>,
    /// The highest configuration epoch that was believed.
    believed: Mutex<u64>,
}

impl Sentinels {
    /// Returns the Sentinels of this URL, if it names some.
    pub(super) fn of(url: &RedisUrl) -> Option<Self> {
        let sentinels = url.sentinels()?.clone();
        let connections = sentinels.sentinels.iter().map(|_| AsyncMutex::default()).collect();
        Some(Self { url: url.clone(), sentinels, connections, believed: Mutex::default() })
    }

    /// Asks all Sentinels for the primary.
    ///
    /// # Errors
    /// `UNFIT` if none of them knows it; another [`RedisError`] if too few of them answer.
    pub(super) async fn find_primary(&self) -> RedisResult<ServerAddress> {
        let asked = self.sentinels.sentinels.iter().zip(&self.connections);
        let answers = join_all(asked.map(|(address, connection)| self.ask(address, connection)));
        let answers = answers.await;
        let mut believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        let NamedPrimary { address, epoch } = believe(&self.sentinels.master, &answers, *believed)?;
        *believed = epoch;
        Ok(address)
    }

    async fn ask(
        &self,
        address: &ServerAddress,
        connection: &AsyncMutex<Option<MultiplexedConnection>>,
    ) -> SentinelAnswer {
        let asking = async {
            let mut connection = connection.lock().await;
            let mut open = match connection.take() {
                Some(open) => open,
                None => self.connect(address).await?,
            };
            let mut question = cmd("SENTINEL");
            question.arg("MASTER").arg(&self.sentinels.master);
            let answer = question.query_async::<HashMap<String, String>>(&mut open).await;
            if answer.as_ref().err().is_none_or(|error| !is_lost(error)) {
                *connection = Some(open);
            }
            answer
        };
        let answer = match timeout(SENTINEL_TIMEOUT, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        };
        SentinelAnswer::read(address, answer)
    }

    async fn connect(&self, address: &ServerAddress) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(SENTINEL_TIMEOUT))
            .set_response_timeout(Some(SENTINEL_TIMEOUT));
        let client = self.url.sentinel_client(&self.sentinels, address)?;
        client.get_multiplexed_async_connection_with_config(&config).await
    }
}
