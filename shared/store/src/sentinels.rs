//! Finds the primary that Sentinels name.
//!
//! All Sentinels are asked, and the answer of the highest configuration epoch counts: in the middle of a failover some
//! still name the old primary. The library's own client believes the first answer, which led it back to the old primary
//! for 11 s where this takes 2. The connection then checks that the server is a primary.
//!
//! The connections to the Sentinels stay open, and those announce each new primary on them.

mod belief;

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::future::join_all;
use redis::{
    AsyncConnectionConfig, PushInfo, PushKind, RedisResult, aio::MultiplexedConnection, pipe,
};
use tokio::{
    sync::{Mutex as AsyncMutex, Notify},
    time::timeout,
};

use self::belief::{NamedPrimary, SentinelAnswer, SentinelReply, believe};
use crate::{
    RedisUrl,
    error::is_lost,
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
    announced: Arc<Notify>,
}

/// What the Sentinels of a Redis answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentinelSurvey {
    /// How many were asked.
    pub asked: usize,
    /// The server that they name.
    pub primary: Option<String>,
    /// The address and the error of each that names none.
    pub failures: Vec<String>,
}

impl Sentinels {
    /// Returns the Sentinels of this URL, if it names some.
    pub(super) fn of(url: &RedisUrl) -> Option<Self> {
        let sentinels = url.sentinels()?.clone();
        let connections = sentinels.sentinels.iter().map(|_| AsyncMutex::default()).collect();
        let (believed, announced) = (Mutex::default(), Arc::default());
        Some(Self { url: url.clone(), sentinels, connections, believed, announced })
    }

    /// Resolves when a Sentinel announces a new primary, for one task.
    pub(super) async fn announced(&self) {
        self.announced.notified().await;
    }

    /// Asks all Sentinels for the primary.
    ///
    /// # Errors
    /// `UNFIT` if none of them knows it; another [`RedisError`] if too few of them answer.
    pub(super) async fn find_primary(&self) -> RedisResult<ServerAddress> {
        let answers = self.ask_all().await;
        let mut believed = self.believed.lock().unwrap_or_else(PoisonError::into_inner);
        let NamedPrimary { address, epoch } = believe(&self.sentinels.master, &answers, *believed)?;
        *believed = epoch;
        Ok(address)
    }

    /// Asks all Sentinels for the primary, for an operator.
    pub(super) async fn survey(&self) -> SentinelSurvey {
        let answers = self.ask_all().await;
        let named = believe(&self.sentinels.master, &answers, 0).ok();
        let failures = answers.iter().filter_map(SentinelAnswer::failure);
        SentinelSurvey {
            asked: answers.len(),
            primary: named.map(|named| named.address.to_string()),
            failures: failures.collect(),
        }
    }

    async fn ask_all(&self) -> Vec<SentinelAnswer> {
        let asked = self.sentinels.sentinels.iter().zip(&self.connections);
        join_all(asked.map(|(address, connection)| self.ask(address, connection))).await
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
            let mut question = pipe();
            question.cmd("SENTINEL").arg("MASTER").arg(&self.sentinels.master);
            // A Sentinel that has promoted a server names it here first.
            let address = question.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME");
            address.arg(&self.sentinels.master);
            let answer = question.query_async::<SentinelReply>(&mut open).await;
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
        let announced = self.announced.clone();
        let on_push = move |push: PushInfo| {
            if push.kind == PushKind::Message {
                announced.notify_one();
            }
            Ok::<(), Infallible>(())
        };
        let config = AsyncConnectionConfig::new()
            .set_push_sender(on_push)
            .set_connection_timeout(Some(SENTINEL_TIMEOUT))
            .set_response_timeout(Some(SENTINEL_TIMEOUT));
        let client = self.url.sentinel_client(&self.sentinels, address)?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        // A user who may not subscribe learns of a new primary by asking.
        let _ = connection.subscribe("+switch-master").await;
        Ok(connection)
    }
}
