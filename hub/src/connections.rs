//! Registry of the connections of this process. It tells them when a newer session supersedes them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::StatusCode;
use spoke_protocol::{
    ClientId,
    message::{Goaway, GoawayReason},
};
use spoke_service::{api_error::ApiError, limits::CONNECTIONS_MAX};
use tokio::sync::oneshot;

/// Connections of all clients.
pub(crate) struct ConnectionRegistry {
    per_client: AtomicUsize,
    connections: Arc<Mutex<RegistryState>>,
}

#[derive(Default)]
struct RegistryState {
    next: u64,
    clients: HashMap<ClientId, Vec<RegisteredConnection>>,
    count: usize,
    /// Newest ended session of a client whose end is not in Redis yet.
    deferred_ends: HashMap<ClientId, u64>,
}

struct RegisteredConnection {
    id: u64,
    /// Generation of the session, once it has started.
    generation: Option<u64>,
    /// `None` after use.
    stop: Option<oneshot::Sender<Goaway>>,
}

/// Registration of a connection; removed when dropped.
pub(crate) struct ConnectionGuard {
    id: u64,
    client: ClientId,
    connections: Arc<Mutex<RegistryState>>,
}

impl ConnectionRegistry {
    /// Creates an empty registry with a limit per client.
    pub(crate) fn new(per_client: usize) -> Self {
        Self { per_client: AtomicUsize::new(per_client), connections: Arc::default() }
    }

    /// Changes the limit per client. Open connections above it stay.
    pub(crate) fn resize(&self, per_client: usize) {
        self.per_client.store(per_client, Ordering::Relaxed);
    }

    /// Registers a waiting read. The receiver resolves when a newer session supersedes the one it
    /// belongs to.
    ///
    /// # Errors
    /// 429 if the client has too many connections.
    pub(crate) fn register_read(
        &self,
        client: &ClientId,
        generation: Option<u64>,
    ) -> Result<(ConnectionGuard, oneshot::Receiver<Goaway>), ApiError> {
        self.register(client, generation)
    }

    /// Registers a session. The receiver resolves when it has to end.
    ///
    /// # Errors
    /// 429 if the client has too many connections.
    pub(crate) fn register_session(
        &self,
        client: &ClientId,
    ) -> Result<(ConnectionGuard, oneshot::Receiver<Goaway>), ApiError> {
        self.register(client, None)
    }

    /// Records the generation of a started session and supersedes the client's older ones here.
    /// Concurrent sessions may arrive in another order than their generations.
    pub(crate) fn begin(&self, guard: &ConnectionGuard, generation: u64) -> u64 {
        let mut connections = lock(&self.connections);
        let own = connections.clients.get_mut(&guard.client).into_iter().flatten();
        for connection in own.filter(|connection| connection.id == guard.id) {
            connection.generation = Some(generation);
        }
        drop(connections);
        self.supersede(&guard.client, generation)
    }

    /// Ends the client's sessions here that are older than this generation, or than another one
    /// here. Returns their number.
    pub(crate) fn supersede(&self, client: &ClientId, generation: u64) -> u64 {
        let mut connections = lock(&self.connections);
        let Some(own) = connections.clients.get_mut(client) else { return 0 };
        let newest = own.iter().filter_map(|connection| connection.generation).max();
        let newest = generation.max(newest.unwrap_or(0));
        let mut superseded = 0;
        for connection in own {
            if connection.generation.is_some_and(|generation| generation < newest)
                && let Some(stop) = connection.stop.take()
            {
                let message = "a newer session of this client has started; if another device started \
                               it, two devices share one identity";
                let (reason, message) = (GoawayReason::Superseded, message.to_owned());
                superseded += u64::from(stop.send(Goaway { reason, message, wait_ms: 0 }).is_ok());
            }
        }
        superseded
    }

    /// Returns whether the client has no session of this generation here, nor one still in its
    /// handshake.
    pub(crate) fn has_no_session(&self, client: &ClientId, generation: u64) -> bool {
        let connections = lock(&self.connections);
        let mut own = connections.clients.get(client).into_iter().flatten();
        own.all(|connection| connection.generation.is_some_and(|other| other != generation))
    }

    /// Returns the connected clients.
    pub(crate) fn clients(&self) -> Vec<ClientId> {
        lock(&self.connections).clients.keys().cloned().collect()
    }

    /// Keeps the end of a session until Redis accepts it. Beyond [`CONNECTIONS_MAX`] clients it is
    /// left to the expiry of this hub's key.
    pub(crate) fn defer_end(&self, client: &ClientId, generation: u64) {
        let mut connections = lock(&self.connections);
        if connections.deferred_ends.len() < CONNECTIONS_MAX {
            let newest = connections.deferred_ends.entry(client.clone()).or_default();
            *newest = generation.max(*newest);
        }
    }

    /// Takes the ended sessions of these clients whose end is not in Redis yet.
    pub(crate) fn take_deferred_ends(
        &self,
        is_due: impl Fn(&ClientId) -> bool,
    ) -> HashMap<ClientId, u64> {
        lock(&self.connections).deferred_ends.extract_if(|client, _| is_due(client)).collect()
    }

    /// Returns the number of connections.
    pub(crate) fn count(&self) -> usize {
        lock(&self.connections).count
    }

    fn register(
        &self,
        client: &ClientId,
        generation: Option<u64>,
    ) -> Result<(ConnectionGuard, oneshot::Receiver<Goaway>), ApiError> {
        let mut connections = lock(&self.connections);
        let id = connections.next;
        // Most clients have one connection.
        let own = connections.clients.entry(client.clone());
        let own = own.or_insert_with(|| Vec::with_capacity(1));
        if own.len() >= self.per_client.load(Ordering::Relaxed) {
            let message = "this client has too many open connections";
            let status = StatusCode::TOO_MANY_REQUESTS;
            return Err(ApiError::new(status, "too-many-connections", message).retry_after(5));
        }
        let (stop, stopped) = oneshot::channel();
        own.push(RegisteredConnection { id, generation, stop: Some(stop) });
        connections.next += 1;
        connections.count += 1;
        let connections = self.connections.clone();
        Ok((ConnectionGuard { id, client: client.clone(), connections }, stopped))
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let mut connections = lock(&self.connections);
        connections.count -= 1;
        if let Some(own) = connections.clients.get_mut(&self.client) {
            own.retain(|connection| connection.id != self.id);
            if own.is_empty() {
                connections.clients.remove(&self.client);
            }
        }
    }
}

fn lock(connections: &Mutex<RegistryState>) -> MutexGuard<'_, RegistryState> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str) -> ClientId {
        name.parse().unwrap()
    }

    #[test]
    fn a_newer_session_supersedes_only_older_sessions_of_its_client() {
        let registry = ConnectionRegistry::new(8);
        let (older, mut older_goaway) = registry.register_session(&client("dev1")).unwrap();
        let (other, mut other_goaway) = registry.register_session(&client("dev2")).unwrap();
        let _waiting = registry.register_read(&client("dev1"), None).unwrap();
        let (newest, mut newest_goaway) = registry.register_session(&client("dev1")).unwrap();
        assert_eq!(registry.begin(&other, 1), 0);

        // The newest session registers first; the older one after it is superseded.
        assert_eq!(registry.begin(&newest, 2), 0);
        assert_eq!(registry.begin(&older, 1), 1);

        assert_eq!(older_goaway.try_recv().unwrap().reason, GoawayReason::Superseded);
        assert!(other_goaway.try_recv().is_err() && newest_goaway.try_recv().is_err());
        assert_eq!(
            registry.supersede(&client("dev1"), 2),
            0,
            "an older session is superseded once"
        );
        drop(older);
        assert_eq!(registry.count(), 3);
    }

    #[test]
    fn a_session_still_in_its_handshake_does_not_count_as_gone() {
        let registry = ConnectionRegistry::new(8);
        let dev1 = client("dev1");
        assert!(registry.has_no_session(&dev1, 1));
        let (first, _goaway) = registry.register_session(&dev1).unwrap();
        assert!(!registry.has_no_session(&dev1, 1), "its handshake is not complete");
        registry.begin(&first, 1);
        assert!(!registry.has_no_session(&dev1, 1) && registry.has_no_session(&dev1, 2));
        drop(first);
        assert!(registry.has_no_session(&dev1, 1));
    }

    #[test]
    fn a_waiting_read_is_superseded_only_if_it_belongs_to_an_older_session() {
        let registry = ConnectionRegistry::new(8);
        let (_plain, mut plain_goaway) = registry.register_read(&client("dev1"), None).unwrap();
        let (_older, mut older_goaway) = registry.register_read(&client("dev1"), Some(1)).unwrap();
        let (_newest, mut newest_goaway) =
            registry.register_read(&client("dev1"), Some(2)).unwrap();

        assert_eq!(registry.supersede(&client("dev1"), 2), 1);

        assert_eq!(older_goaway.try_recv().unwrap().reason, GoawayReason::Superseded);
        assert!(plain_goaway.try_recv().is_err() && newest_goaway.try_recv().is_err());
    }

    #[test]
    fn connections_are_limited_per_client_and_a_closed_one_frees_its_place() {
        let registry = ConnectionRegistry::new(2);
        let first = registry.register_read(&client("dev1"), None).unwrap();
        let _second = registry.register_session(&client("dev1")).unwrap();
        let refused = registry.register_read(&client("dev1"), None).map(|_| ()).unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.reason), (429, "too-many-connections"));
        assert!(registry.register_read(&client("dev2"), None).is_ok());
        drop(first);
        assert!(registry.register_read(&client("dev1"), None).is_ok());
    }
}
