//! The partitions of the hub, with the tasks that call Redis for all sessions of one.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use anyhow::Context;
use futures_util::future::select_ok;
use spoke_diagnostics::error_chain;
use spoke_protocol::ClientId;
use spoke_service::{Shutdown, config::ConfigError};
use spoke_store::{
    CommitWriter, OriginCalls, Redis,
    keys::HubKeys,
    limits::{PROBE_INTERVAL_DOWN, PROBE_TIMEOUT},
    partitions::{OtherPartitions, Partition, Partitions},
    probe::ready,
};
use tokio::task::JoinHandle;
use tracing::debug;

use crate::config::HubConfig;

/// All partitions of the hub.
pub(crate) struct HubPartitions {
    store: Partitions,
    each: Vec<HubPartition>,
    /// Set once their number is known to be that of the fleet.
    is_checked: Arc<AtomicBool>,
    /// Why this hub cannot serve the fleet.
    refusal: Arc<OnceLock<OtherPartitions>>,
}

/// What the sessions of the clients of one partition use.
pub(crate) struct HubPartition {
    /// Its Redis and its keys.
    pub store: Partition,
    /// Runs the tasks of senders.
    pub origins: OriginCalls,
    /// Writer of acknowledged batches.
    pub writer: CommitWriter,
}

impl HubPartition {
    /// Returns the Redis that has the streams of its clients.
    pub(crate) fn redis(&self) -> &Redis {
        &self.store.redis
    }

    /// Returns the names of its keys.
    pub(crate) fn keys(&self) -> &HubKeys {
        &self.store.keys
    }

    /// Returns why its writes fail, or do not reach the level of the settings.
    pub(crate) fn problem(&self) -> Option<String> {
        let writes = self.redis().health().problem();
        writes.or_else(|| self.writer.level_health().problem())
    }
}

impl HubPartitions {
    /// Creates the partitions and starts their tasks, which end once the partitions and all their users are dropped.
    pub(crate) fn start(store: Partitions, config: &HubConfig) -> (Self, Vec<JoinHandle<()>>) {
        let mut tasks = Vec::new();
        let each = store.all().iter().map(|partition| {
            let (writer, committer) = CommitWriter::new(partition.redis.clone(), config.ack);
            let (origins, caller) = OriginCalls::new(partition.redis.clone());
            tasks.extend([tokio::spawn(committer.run()), tokio::spawn(caller.run())]);
            HubPartition { store: partition.clone(), origins, writer }
        });
        let each = each.collect();
        let (is_checked, refusal) = Default::default();
        (Self { store, each, is_checked, refusal }, tasks)
    }

    /// Compares the number of partitions with the record once Redis answers, unless that is done. Shuts the hub down if it
    /// is another one.
    pub(crate) fn check_until_done(&self, is_done: bool, shutdown: &Shutdown) {
        self.is_checked.store(is_done, Ordering::Relaxed);
        if is_done {
            return;
        }
        let (store, is_checked, refusal) =
            (self.store.clone(), self.is_checked.clone(), self.refusal.clone());
        let until = shutdown.clone();
        shutdown.spawn("partitions", async move {
            loop {
                tokio::select! {
                    () = until.begun() => return,
                    () = tokio::time::sleep(PROBE_INTERVAL_DOWN) => {}
                }
                match check(&store).await {
                    Ok(true) => return is_checked.store(true, Ordering::Relaxed),
                    Ok(false) => {}
                    Err(other) => {
                        let _ = refusal.set(other);
                        return until.begin();
                    }
                }
            }
        });
    }

    /// Returns whether clients may be served: not before it is known where their keys are.
    pub(crate) fn is_checked(&self) -> bool {
        self.is_checked.load(Ordering::Relaxed)
    }

    /// Returns why this hub has shut itself down.
    pub(crate) fn refusal(&self) -> Option<ConfigError> {
        self.refusal.get().copied().map(refused)
    }

    /// Returns the partition of a client.
    pub(crate) fn of(&self, client: &ClientId) -> &HubPartition {
        &self.each[self.store.number_of(client)]
    }

    /// Returns all partitions in their order.
    pub(crate) fn all(&self) -> &[HubPartition] {
        &self.each
    }

    /// Returns the partitions in the store.
    pub(crate) fn store(&self) -> &Partitions {
        &self.store
    }

    /// Returns the number of partitions whose writes fail, and the problem of one of them.
    pub(crate) fn down(&self) -> (usize, Option<String>) {
        let mut problems = self.each.iter().filter_map(HubPartition::problem);
        let first = problems.next();
        (usize::from(first.is_some()) + problems.count(), first)
    }

    /// Checks that one partition at least accepts writes at the level of the settings: the clients of the others wait,
    /// and no other hub could serve them.
    ///
    /// # Errors
    /// The problem of the last one, for a person.
    pub(crate) async fn ready(&self, config: &HubConfig) -> Result<(), String> {
        let servers = self.store.by_server();
        let looks = servers.iter().map(async |numbers| {
            let mut here = numbers.iter().map(|number| &self.each[*number]);
            ready(self.each[numbers[0]].redis()).await?;
            match here.find_map(|it| it.writer.level_health().problem()) {
                None => Ok(()),
                Some(unmet) => Err(format!("ack is \"{}\", but {unmet}", config.ack)),
            }
        });
        // One that hangs delays no answer of another.
        select_ok(looks.map(Box::pin)).await.map(drop)
    }
}

/// Opens the partitions of the settings.
///
/// # Errors
/// [`anyhow::Error`] that names the setting.
pub(crate) fn open(config: &HubConfig) -> anyhow::Result<Partitions> {
    Partitions::open(&config.redis, &config.key_prefix, config.partitions)
        .context("failed to use the setting `redis`")
}

/// Returns the error for another number of partitions than that of the fleet.
pub(crate) fn refused(OtherPartitions(other): OtherPartitions) -> ConfigError {
    let problem = format!(
        "the fleet with this key_prefix has {other}, and the names of a client's keys depend on that: set it to {other}, \
         or use another key_prefix for a new fleet"
    );
    ConfigError::bad("partitions", problem)
}

/// Records the number of partitions, or compares it with the record. Returns false if Redis does not answer now.
///
/// # Errors
/// The number of the fleet, if it is another one.
pub(crate) async fn check(store: &Partitions) -> Result<bool, OtherPartitions> {
    match tokio::time::timeout(PROBE_TIMEOUT, store.record()).await {
        Ok(Ok(Ok(()))) => Ok(true),
        Ok(Ok(Err(other))) => Err(other),
        Ok(Err(error)) => {
            debug!(
                error = error_chain(&error),
                "failed to read the number of partitions; retrying"
            );
            Ok(false)
        }
        Err(_) => Ok(false),
    }
}
