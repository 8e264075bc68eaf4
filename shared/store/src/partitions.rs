//! The partitions of a hub: each has all keys of its clients in one slot of a Redis Cluster.
//!
//! The partition of a client is `CLUSTER KEYSLOT(client)` modulo the number of partitions, so that any program can tell
//! it. Number and hash tags are fixed for the life of a fleet, and recorded in `spoke-hub:partitions`.

use std::{
    io,
    sync::{Arc, LazyLock},
};

use futures_util::future::{join_all, try_join_all};
use redis::{Script, cmd};
use spoke_diagnostics::error_chain;
use spoke_protocol::ClientId;
use tokio::time::timeout;
use tracing::debug;

use crate::{
    Redis, RedisUrl, StoreError,
    keys::HubKeys,
    limits::VIEW_TIMEOUT,
    presence::new_identity,
    redis_url::ServerAddress,
    slots::{partition_tag, slot_of},
};

static RECORD: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/partitions.lua")));

/// All partitions. Cheap to clone.
#[derive(Clone)]
pub struct Partitions {
    each: Arc<[Partition]>,
    /// The Redis of the record.
    record: Redis,
    prefix: Arc<str>,
}

/// One partition: its keys, and the Redis that has them now.
#[derive(Clone)]
pub struct Partition {
    /// Its Redis.
    pub redis: Redis,
    /// Its keys.
    pub keys: HubKeys,
}

impl Partition {
    /// Waits for a view of this partition. In a cluster a part that does not answer is left out of it.
    ///
    /// # Errors
    /// The [`StoreError`] of the view, or one that it took too long.
    pub async fn view<T>(
        &self,
        view: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if !self.redis.is_clustered() {
            return view.await;
        }
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no reply in time").into();
        timeout(VIEW_TIMEOUT, view).await.unwrap_or_else(|_| Err(late()))
    }
}

/// The record has another number of partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherPartitions(pub u16);

impl Partitions {
    /// Opens this number of partitions, a power of two. With one, the keys are those of `prefix`, without a tag.
    ///
    /// # Errors
    /// [`StoreError`] if the URL, or a file in it, cannot be used, or if the one partition of a cluster has keys in more
    /// than one slot.
    pub fn open(url: &RedisUrl, prefix: &str, count: u16) -> Result<Self, StoreError> {
        let shared_prefix = prefix.into();
        if count == 1 {
            let keys = HubKeys::new(prefix);
            let redis = Redis::open_writable(url, keys.probe())?;
            let record = redis.clone();
            return Ok(Self {
                each: [Partition { redis, keys }].into(),
                record,
                prefix: shared_prefix,
            });
        }
        let keys: Vec<_> = (0..count)
            .map(|number| HubKeys::of_partition(prefix, &partition_tag(number, count)))
            .collect();
        let mut probes: Vec<_> = keys.iter().map(HubKeys::probe).collect();
        probes.push(record_key(prefix));
        let mut redis = Redis::open_each(url, &probes)?;
        let record = redis.pop().expect("the record was the last of them");
        let each = redis.into_iter().zip(keys).map(|(redis, keys)| Partition { redis, keys });
        Ok(Self { each: each.collect(), record, prefix: shared_prefix })
    }

    /// Returns the partition of a client.
    pub fn of(&self, client: &ClientId) -> &Partition {
        &self.each[self.number_of(client)]
    }

    /// Returns the number of the partition of a client.
    pub fn number_of(&self, client: &ClientId) -> usize {
        usize::from(slot_of(client.as_str())) % self.each.len()
    }

    /// Returns all partitions in their order.
    pub fn all(&self) -> &[Partition] {
        &self.each
    }

    /// Returns the numbers of the partitions of each server that has some.
    pub fn by_server(&self) -> Vec<Vec<usize>> {
        let mut servers: Vec<(Option<ServerAddress>, Vec<usize>)> = Vec::new();
        for (number, partition) in self.each.iter().enumerate() {
            let owner = partition.redis.slot_owner();
            match servers.iter_mut().find(|(server, _)| *server == owner) {
                Some((_, those)) => those.push(number),
                None => servers.push((owner, vec![number])),
            }
        }
        servers.into_iter().map(|(_, those)| those).collect()
    }

    /// Returns one partition of each server that has some.
    pub fn one_per_server(&self) -> Vec<&Partition> {
        let servers = self.by_server();
        servers.iter().filter_map(|numbers| self.each.get(*numbers.first()?)).collect()
    }

    /// Looks where the partitions are now, if they are in a cluster.
    ///
    /// # Errors
    /// [`StoreError`] if it is not known of all.
    pub async fn find_servers(&self) -> Result<(), StoreError> {
        match self.record.router() {
            Some(router) => Ok(router.look().await?),
            None => Ok(()),
        }
    }

    /// Compares the number of partitions with the record, if there is one.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails.
    pub async fn check_record(&self) -> Result<Result<(), OtherPartitions>, StoreError> {
        let (count, mut connection) = (self.each.len() as u16, self.record.connection());
        let mut recorded = cmd("HGET");
        recorded.arg(record_key(&self.prefix)).arg("count");
        let recorded: Option<u16> = recorded.query_async(&mut connection).await?;
        if let Some(other) = recorded {
            return Ok(if other == count { Ok(()) } else { Err(OtherPartitions(other)) });
        }
        // A fleet without partitions has no record, and in a cluster another prefix.
        let undivided = HubKeys::new(&self.prefix).identity();
        if count > 1
            && !self.record.is_clustered()
            && cmd("EXISTS").arg(undivided).query_async(&mut connection).await?
        {
            return Ok(Err(OtherPartitions(1)));
        }
        Ok(Ok(()))
    }

    /// Records the number and the hash tags, unless they are recorded already, and gives all partitions of a new fleet one
    /// identity: to a device, the hub stays the same if the number of partitions changes. In a cluster it also creates the
    /// loss ledgers: while a slot is moved, a script with a key that does not exist yet has to wait.
    ///
    /// # Errors
    /// [`StoreError`] if Redis fails. In a new fleet every partition has to answer.
    pub async fn record(&self) -> Result<Result<(), OtherPartitions>, StoreError> {
        let count = self.each.len() as u16;
        let checked = self.check_record().await?;
        if checked.is_err() {
            return Ok(checked);
        }
        let new_identity = new_identity();
        if count > 1 {
            let tags: Vec<_> = (0..count).map(|number| partition_tag(number, count)).collect();
            let mut script = RECORD.key(record_key(&self.prefix));
            script.arg(count).arg(tags.join(" ")).arg(new_identity);
            let (recorded, identity): (u16, Option<String>) = self.record.invoke(&script).await?;
            if recorded != count {
                return Ok(Err(OtherPartitions(recorded)));
            }
            if let Some(identity) = identity {
                self.identify(&identity).await?;
                // Only now: a hub that starts after this one died goes on with it.
                let mut connection = self.record.connection();
                let mut done = cmd("HDEL");
                done.arg(record_key(&self.prefix)).arg("identity");
                done.exec_async(&mut connection).await?;
            }
        } else if let Err(error) = self.identify(&new_identity).await {
            // As when Redis is full. The first session gives it one.
            debug!(error = error_chain(&error), "failed to give the hub an identity at its start");
        }
        if self.record.is_clustered() {
            // A partition that is down now waits a little longer when its slot is moved, and delays no other.
            join_all(self.each.iter().map(|it| it.view(create_ledger(it)))).await;
        }
        Ok(Ok(()))
    }

    /// Gives an identity to the partitions that have none.
    async fn identify(&self, identity: &str) -> Result<(), StoreError> {
        let each = self.each.iter().map(|it| it.view(give_identity(it, identity)));
        try_join_all(each).await.map(drop)
    }
}

fn record_key(prefix: &str) -> String {
    format!("{prefix}:partitions")
}

async fn give_identity(
    Partition { redis, keys }: &Partition,
    identity: &str,
) -> Result<(), StoreError> {
    let mut connection = redis.connection();
    Ok(cmd("SET").arg(keys.identity()).arg(identity).arg("NX").exec_async(&mut connection).await?)
}

async fn create_ledger(Partition { redis, keys }: &Partition) -> Result<(), StoreError> {
    let (key, mut connection) = (keys.lost(), redis.connection());
    if cmd("EXISTS").arg(&key).query_async(&mut connection).await? {
        return Ok(());
    }
    let id: String =
        cmd("XADD").arg(&key).arg("*").arg("created").arg(1).query_async(&mut connection).await?;
    Ok(cmd("XDEL").arg(&key).arg(id).query_async(&mut connection).await?)
}
