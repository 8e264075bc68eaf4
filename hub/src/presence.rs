//! What this hub does for presence beside its sessions: it says that it lives, notes the ends that
//! Redis did not take, and hears of sessions that have begun elsewhere.

use std::{collections::BTreeSet, time::Duration};

use spoke_diagnostics::{clock::unix_ms, error_chain::error_chain};
use spoke_protocol::client_id::ClientId;
use spoke_store::{
    StoreError,
    hints::KeyChange,
    limits::{HUB_REFRESH, HUB_REFRESH_RETRY},
    presence,
};
use tokio::sync::mpsc;
use tracing::debug;

use crate::hub::Hub;

/// The last word at a clean stop takes no longer.
const FAREWELL: Duration = Duration::from_secs(1);

/// Says that this hub lives, until the shutdown begins. Its key is still there then, for the sessions
/// that say goodbye; `end` takes it away.
pub async fn keep(hub: Hub) {
    loop {
        let version = env!("CARGO_PKG_VERSION");
        let kept = presence::refresh_hub(&hub.redis, &hub.keys, &hub.name, version).await;
        let wait = match hub.checked(kept) {
            Ok(()) => {
                note_ends(&hub).await;
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

/// Says that this hub has ended: none of its sessions counts any more.
pub async fn end(hub: &Hub) {
    let ending = async {
        note_ends(hub).await;
        presence::remove_hub(&hub.redis, &hub.keys, &hub.name).await
    };
    if !matches!(tokio::time::timeout(FAREWELL, ending).await, Ok(Ok(()))) {
        debug!("failed to note that this hub has ended; its key runs out by itself");
    }
}

/// Ends that Redis did not take when they came. A newer session is not touched by them.
async fn note_ends(hub: &Hub) {
    for (client, generation) in hub.live.take_unnoted() {
        note_end(hub, &client, generation).await;
    }
}

/// Notes that a session is over, now or once Redis takes it.
pub async fn note_end(hub: &Hub, client: &ClientId, generation: u64) {
    let ended = presence::close_session(&hub.redis, &hub.keys, client, generation, unix_ms()).await;
    if let Err(error) = ended {
        debug!(error = error_chain(&error), "failed to note that a session is over; noted later");
        hub.live.keep_unnoted(client, generation);
    }
}

/// Looks again at clients whose bell was rung, by whichever hub, until the shutdown begins.
pub async fn hear_bells(hub: Hub, mut changes: mpsc::Receiver<KeyChange>) {
    // No more than have a bell or a connection here.
    let mut due: BTreeSet<ClientId> = BTreeSet::new();
    loop {
        tokio::select! {
            () = hub.shutdown.begun() => return,
            change = changes.recv() => match change {
                Some(KeyChange::Key(key)) => {
                    let name = key.strip_prefix(&hub.keys.bell_prefix());
                    due.extend(name.and_then(|name| name.parse().ok()));
                }
                // Any bell may have been rung meanwhile.
                Some(KeyChange::Any) => due.extend(hub.live.clients()),
                None => return,
            },
            () = tokio::time::sleep(HUB_REFRESH_RETRY), if !due.is_empty() => {}
        }
        while let Some(client) = due.first() {
            if let Err(error) = look_again(&hub, client).await {
                debug!(
                    error = error_chain(&error),
                    "failed to look up who holds a session; trying again"
                );
                break;
            }
            due.pop_first();
        }
    }
}

async fn look_again(hub: &Hub, client: &ClientId) -> Result<(), StoreError> {
    let newest = presence::newest_session(&hub.redis, &hub.keys, client).await?;
    hub.metrics.superseded.add(hub.live.supersede(client, newest.generation));
    // Redis went back to a time when it was here, say.
    if newest.hub.as_ref() == Some(&hub.name) && hub.live.lacks(client, newest.generation) {
        note_end(hub, client, newest.generation).await;
    }
    Ok(())
}
