//! Presence of this hub in Redis: refreshes its key, retries ends of sessions that Redis did not
//! accept, and ends sessions superseded at another hub.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use spoke_diagnostics::{error_chain, unix_ms};
use spoke_protocol::ClientId;
use spoke_store::{
    KeyChange, StoreError,
    keys::client_of_key,
    limits::{HUB_REFRESH, HUB_REFRESH_RETRY},
    presence,
};
use tokio::sync::mpsc;
use tracing::debug;

use crate::{partitions::HubPartition, state::HubState};

/// Time limit of the last write at a clean stop.
const DELETE_TIMEOUT: Duration = Duration::from_secs(1);

/// Refreshes this hub's key in one partition until shutdown. The key stays until [`delete_keys`], for
/// the sessions that are closing.
pub(crate) async fn refresh(hub: Arc<HubState>, at: usize) {
    let partition = &hub.partitions.all()[at];
    loop {
        let version = env!("CARGO_PKG_VERSION");
        let (redis, keys) = (partition.redis(), partition.keys());
        let kept = presence::refresh_hub(redis, keys, &hub.name, version).await;
        let wait = match hub.store_result(kept) {
            Ok(()) => {
                record_deferred_ends(&hub, partition).await;
                HUB_REFRESH
            }
            Err(_) => HUB_REFRESH_RETRY,
        };
        tokio::select! {
            () = hub.shutdown.begun() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Deletes this hub's keys: none of its sessions counts as connected any more.
pub(crate) async fn delete_keys(hub: &HubState) {
    let ending = hub.partitions.all().iter().map(async |partition| {
        record_deferred_ends(hub, partition).await;
        presence::remove_hub(partition.redis(), partition.keys(), &hub.name).await
    });
    let ended = tokio::time::timeout(DELETE_TIMEOUT, join_all(ending)).await;
    if !ended.is_ok_and(|ended| ended.iter().all(Result::is_ok)) {
        debug!("failed to delete the key of this hub; it expires on its own");
    }
}

/// Retries the ends that Redis did not accept. A newer session is not affected.
async fn record_deferred_ends(hub: &HubState, partition: &HubPartition) {
    let is_here = |client: &ClientId| std::ptr::eq(hub.partitions.of(client), partition);
    for (client, generation) in hub.connections.take_deferred_ends(is_here) {
        record_end(hub, &client, generation).await;
    }
}

/// Records the end of a session, now or when Redis accepts writes again.
pub(crate) async fn record_end(hub: &HubState, client: &ClientId, generation: u64) {
    let partition = hub.partitions.of(client);
    let (redis, keys) = (partition.redis(), partition.keys());
    let ended = presence::close_session(redis, keys, client, generation, unix_ms()).await;
    if let Err(error) = ended {
        debug!(
            error = error_chain(&error),
            "failed to record the end of a session; retrying later"
        );
        hub.connections.defer_end(client, generation);
    }
}

/// Checks the sessions of notified clients until shutdown. Any hub may notify.
pub(crate) async fn handle_notifications(
    hub: Arc<HubState>,
    mut changes: mpsc::Receiver<KeyChange>,
) {
    let prefix = hub.partitions.all()[0].keys().bell_prefix();
    // Bounded by the clients with a notification or a connection here.
    let mut due: BTreeSet<ClientId> = BTreeSet::new();
    loop {
        tokio::select! {
            () = hub.shutdown.begun() => return,
            change = changes.recv() => match change {
                Some(KeyChange::Key(key)) => {
                    due.extend(client_of_key(&key, &prefix, ""));
                }
                // Any notification may have been missed.
                Some(KeyChange::Any) => due.extend(hub.connections.clients()),
                None => return,
            },
            () = tokio::time::sleep(HUB_REFRESH_RETRY), if !due.is_empty() => {}
        }
        due = check_each(&hub, due).await;
    }
}

/// Checks these clients, those of all partitions side by side. Returns those to check again.
async fn check_each(hub: &HubState, due: BTreeSet<ClientId>) -> BTreeSet<ClientId> {
    let mut by_partition: BTreeMap<usize, Vec<ClientId>> = BTreeMap::new();
    for client in due {
        by_partition.entry(hub.partitions.store().number_of(&client)).or_default().push(client);
    }
    let checks = by_partition.into_iter().map(async |(number, clients)| {
        let partition = &hub.partitions.all()[number];
        check_until_failure(hub, partition, clients).await
    });
    join_all(checks).await.into_iter().flatten().collect()
}

/// Checks these clients of one partition. Returns those to check again: after a failure, all others.
async fn check_until_failure(
    hub: &HubState,
    partition: &HubPartition,
    clients: Vec<ClientId>,
) -> Vec<ClientId> {
    for (at, client) in clients.iter().enumerate() {
        if let Err(error) = partition.store.view(check_newest(hub, client)).await {
            debug!(
                error = error_chain(&error),
                "failed to query the newest session of a client; retrying"
            );
            return clients[at..].to_vec();
        }
    }
    Vec::new()
}

async fn check_newest(hub: &HubState, client: &ClientId) -> Result<(), StoreError> {
    let partition = hub.partitions.of(client);
    let newest = presence::newest_session(partition.redis(), partition.keys(), client).await?;
    hub.metrics.superseded.add(hub.connections.supersede(client, newest.generation));
    // For example after Redis was restored to a state in which the session was here.
    if newest.hub.as_ref() == Some(&hub.name)
        && hub.connections.has_no_session(client, newest.generation)
    {
        record_end(hub, client, newest.generation).await;
    }
    Ok(())
}
