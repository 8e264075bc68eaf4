//! Watches the auth session of a connection until it ends.

use std::sync::{Arc, Mutex, PoisonError};

use secrecy::ExposeSecret;
use spoke_protocol::message::{Goaway, GoawayReason};
use spoke_store::session_tokens::{client_key, digest, session_key};

use crate::{authenticate::Caller, limits::RATE_RECONNECT_WAIT, state::HubState};

/// Redis key of the auth session that authorises a connection. A refreshed token replaces it.
pub(crate) struct TokenKey(Mutex<Arc<str>>);

impl TokenKey {
    pub(crate) fn of(hub: &HubState, caller: &Caller) -> Self {
        let digest = digest(caller.token.expose_secret());
        Self(Mutex::new(session_key(&hub.config.auth_key_prefix, &digest).into()))
    }

    pub(crate) fn get(&self) -> Arc<str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, key: Arc<str>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = key;
    }
}

/// Resolves when the session ended or the client was revoked, or when the client has another rate:
/// the next session begins with the limits of that. Queries again at each change of the
/// session's or the client's key. A refreshed token passes its connections on to the new one: auth
/// stores the new key, so the agent does not have to tell the hub behind an entry in transit. While
/// auth's Redis does not answer, no session is closed.
pub(crate) async fn token_ended(hub: &HubState, caller: &Caller, key: &TokenKey) -> Goaway {
    let client = Arc::from(client_key(&hub.config.auth_key_prefix, &caller.client));
    let mut keys = hub.hints.watch_keys([key.get(), Arc::clone(&client)]);
    loop {
        // Resolves at once for changes before the subscription.
        keys.changed().await;
        // Boxed, since every idle connection would reserve its memory.
        match Box::pin(hub.sessions.find_client_by_key(&key.get())).await {
            Ok(Some(found)) if found.client == caller.client => {
                if found.rate != caller.rate {
                    let message = "the client's rate has changed".to_owned();
                    let wait_ms = RATE_RECONNECT_WAIT.as_millis() as u64;
                    return Goaway { reason: GoawayReason::Restart, message, wait_ms };
                }
                if let Some(next) = found.next {
                    let next = Arc::from(next);
                    keys = hub.hints.watch_keys([Arc::clone(&next), Arc::clone(&client)]);
                    key.set(next);
                }
            }
            Ok(_) => {
                let message = "the session has expired or was revoked; log in again".to_owned();
                return Goaway { reason: GoawayReason::Unauthorized, message, wait_ms: 0 };
            }
            Err(_) => {}
        }
    }
}
