//! Presence of this hub in Redis: refreshes its key, retries ends of sessions that Redis did not
//! accept, and ends sessions superseded at another hub.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use spoke_diagnostics::{error_chain, unix_ms};
use spoke_protocol::ClientId;
use spoke_store::{
    KeyChange, StoreError,
    limits::{HUB_REFRESH, HUB_REFRESH_RETRY},
    presence,
};
use tokio::sync::mpsc;
use tracing::debug;

use crate::state::HubState;

/// Time limit of the last write at a clean stop.
const DELETE_TIMEOUT: Duration = Duration::from_secs(1);

/// Refreshes this hub's key until shutdown. The key stays until [`delete_key`], for the sessions
/// that are closing.
pub(crate) async fn refresh(hub: Arc<HubState>) {
    loop {
        let version = env!("CARGO_PKG_VERSION");
        let kept = presence::refresh_hub(&hub.redis, &hub.keys, &hub.name, version).await;
        let wait = match hub.store_result(kept) {
            Ok(()) => {
                record_deferred_ends(&hub).await;
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

/// Deletes this hub's key: none of its sessions counts as connected any more.
pub(crate) async fn delete_key(hub: &HubState) {
    let ending = async {
        record_deferred_ends(hub).await;
        presence::remove_hub(&hub.redis, &hub.keys, &hub.name).await
    };
    if !matches!(tokio::time::timeout(DELETE_TIMEOUT, ending).await, Ok(Ok(()))) {
        debug!("failed to delete the key of this hub; it expires on its own");
    }
}

/// Retries the ends that Redis did not accept. A newer session is not affected.
async fn record_deferred_ends(hub: &HubState) {
    for (client, generation) in hub.connections.take_deferred_ends() {
        record_end(hub, &client, generation).await;
    }
}

/// Records the end of a session, now or when Redis accepts writes again.
pub(crate) async fn record_end(hub: &HubState, client: &ClientId, generation: u64) {
    let ended = presence::close_session(&hub.redis, &hub.keys, client, generation, unix_ms()).await;
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
    // Bounded by the clients with a notification or a connection here.
    let mut due: BTreeSet<ClientId> = BTreeSet::new();
    loop {
        tokio::select! {
            () = hub.shutdown.begun() => return,
            change = changes.recv() => match change {
                Some(KeyChange::Key(key)) => {
                    let name = key.strip_prefix(&hub.keys.bell_prefix());
                    due.extend(name.and_then(|name| name.parse().ok()));
                }
                // Any notification may have been missed.
                Some(KeyChange::Any) => due.extend(hub.connections.clients()),
                None => return,
            },
            () = tokio::time::sleep(HUB_REFRESH_RETRY), if !due.is_empty() => {}
        }
        while let Some(client) = due.first() {
            if let Err(error) = check_newest(&hub, client).await {
                debug!(
                    error = error_chain(&error),
                    "failed to query the newest session of a client; retrying"
                );
                break;
            }
            due.pop_first();
        }
    }
}

async fn check_newest(hub: &HubState, client: &ClientId) -> Result<(), StoreError> {
    let newest = presence::newest_session(&hub.redis, &hub.keys, client).await?;
    hub.metrics.superseded.add(hub.connections.supersede(client, newest.generation));
    // For example after Redis was restored to a state in which the session was here.
    if newest.hub.as_ref() == Some(&hub.name)
        && hub.connections.has_no_session(client, newest.generation)
    {
        record_end(hub, client, newest.generation).await;
    }
    Ok(())
}
