//! Unauthenticated connections: a TLS handshake, a header that is being read, a request without a live token,
//! a wait between two requests. Any peer can open as many as it likes.
//!
//! So their number is bounded, and a new one evicts an older one: the oldest of the network that has the most,
//! so that a peer that opens thousands loses its own. A connection does not count while an
//! [`AuthenticatedGuard`] of it lives. Rejected: refusing the newest, with which a flood locks every peer out; a
//! limit per address alone, since many devices may share one.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use super::peer_net::PeerNet;

/// The unauthenticated connections of a listener.
pub(super) struct Unauthenticated {
    max: AtomicUsize,
    nets: Mutex<PeerNets>,
}

#[derive(Default)]
struct PeerNets {
    next: u64,
    count: usize,
    /// By age, the oldest first.
    nets: HashMap<PeerNet, BTreeMap<u64, Weak<TrackedConnection>>>,
}

/// A connection, unauthenticated unless it has a guard.
pub(super) struct TrackedConnection {
    all: Arc<Unauthenticated>,
    state: Mutex<TrackedState>,
    evicted: Notify,
}

struct TrackedState {
    net: PeerNet,
    /// The place by age, while the connection is unauthenticated.
    number: Option<u64>,
    guards: usize,
}

/// Marks its connection as authenticated: while it lives, the connection is not evicted.
pub struct AuthenticatedGuard(Arc<TrackedConnection>);

impl Unauthenticated {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max: AtomicUsize::new(max), nets: Mutex::default() })
    }

    /// Changes the maximum. Connections above it are evicted as others come.
    pub(super) fn resize(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Adds a connection. Returns it, with the network of the evicted connection if there was one too many.
    pub(super) fn add(self: &Arc<Self>, net: PeerNet) -> (Arc<TrackedConnection>, Option<PeerNet>) {
        let tracked = Arc::new(TrackedConnection {
            all: self.clone(),
            state: Mutex::new(TrackedState { net, number: None, guards: 0 }),
            evicted: Notify::new(),
        });
        let evicted = tracked.join();
        (tracked, evicted)
    }
}

impl TrackedConnection {
    /// Resolves when this connection is evicted. Cancel safe.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Marks the connection as authenticated while the guard lives.
    pub(super) fn mark_authenticated(self: &Arc<Self>) -> AuthenticatedGuard {
        let mut state = lock(&self.state);
        state.guards += 1;
        if let Some(number) = state.number.take() {
            lock(&self.all.nets).remove(state.net, number);
        }
        drop(state);
        AuthenticatedGuard(self.clone())
    }

    /// Counts the connection under this network from now on: a proxy has named its client.
    pub(super) fn set_peer_net(self: &Arc<Self>, net: PeerNet) {
        let mut state = lock(&self.state);
        if let Some(number) = state.number {
            let mut nets = lock(&self.all.nets);
            // A connection that was evicted already has no place any more.
            if nets.remove(state.net, number) {
                nets.put(self, net, number);
            }
        }
        state.net = net;
    }

    /// Becomes the newest unauthenticated connection, unless it is one or has a guard.
    fn join(self: &Arc<Self>) -> Option<PeerNet> {
        let mut state = lock(&self.state);
        if state.number.is_some() || state.guards > 0 {
            return None;
        }
        let mut nets = lock(&self.all.nets);
        state.number = Some(nets.add(self, state.net));
        let evicted =
            if nets.count > self.all.max.load(Ordering::Relaxed) { nets.evict_one() } else { None };
        // The evicted connection may be dropped right here, and its drop takes both locks.
        drop((state, nets));
        let (evicted, net) = evicted?;
        evicted.evicted.notify_one();
        Some(net)
    }
}

impl Drop for TrackedConnection {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if let Some(number) = state.number.take() {
            lock(&self.all.nets).remove(state.net, number);
        }
    }
}

impl Drop for AuthenticatedGuard {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.guards -= 1;
        drop(state);
        self.0.join();
    }
}

impl PeerNets {
    fn add(&mut self, tracked: &Arc<TrackedConnection>, net: PeerNet) -> u64 {
        let number = self.next;
        self.next += 1;
        self.put(tracked, net, number);
        number
    }

    fn put(&mut self, tracked: &Arc<TrackedConnection>, net: PeerNet, number: u64) {
        self.count += 1;
        self.nets.entry(net).or_default().insert(number, Arc::downgrade(tracked));
    }

    /// Returns whether the connection was counted.
    fn remove(&mut self, net: PeerNet, number: u64) -> bool {
        let Some(own) = self.nets.get_mut(&net) else { return false };
        let was_counted = own.remove(&number).is_some();
        if was_counted {
            self.count -= 1;
        }
        if own.is_empty() {
            self.nets.remove(&net);
        }
        was_counted
    }

    /// Removes the connection to evict. Returns it with the network that it was counted under.
    fn evict_one(&mut self) -> Option<(Arc<TrackedConnection>, PeerNet)> {
        let by_number = |own: &BTreeMap<u64, _>| (own.len(), Reverse(own.keys().next().copied()));
        let (&net, own) = self.nets.iter().max_by_key(|(_, own)| by_number(own))?;
        let (&number, oldest) = own.first_key_value()?;
        let oldest = oldest.upgrade();
        self.remove(net, number);
        Some((oldest?, net))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use futures_util::FutureExt;

    use super::*;

    fn net(last: u8) -> PeerNet {
        IpAddr::from([10, 0, 0, last]).into()
    }

    fn is_evicted(tracked: &TrackedConnection) -> bool {
        tracked.evicted().now_or_never().is_some()
    }

    #[test]
    fn the_oldest_connection_of_the_network_with_the_most_is_evicted() {
        let all = Unauthenticated::new(4);
        let (good, _) = all.add(net(1));
        let crowd: Vec<_> = (0..3).map(|_| all.add(net(2)).0).collect();

        let (newest, evicted) = all.add(net(3));

        assert_eq!(evicted, Some(net(2)));
        let gone: Vec<_> = crowd.iter().map(|tracked| is_evicted(tracked)).collect();
        assert_eq!(gone, [true, false, false]);
        assert!(!is_evicted(&good) && !is_evicted(&newest));
    }

    #[test]
    fn among_networks_with_equally_many_the_oldest_connection_is_evicted() {
        let all = Unauthenticated::new(3);
        let all: Vec<_> = (0..5).map(|last| all.add(net(last)).0).collect();
        let gone: Vec<_> = all.iter().map(|tracked| is_evicted(tracked)).collect();
        assert_eq!(gone, [true, true, false, false, false]);
    }

    #[test]
    fn a_connection_through_a_proxy_is_counted_under_its_client() {
        let all = Unauthenticated::new(4);
        let via_proxy = |last| {
            let (tracked, _) = all.add(net(9));
            tracked.set_peer_net(net(last));
            tracked
        };
        let (good, crowd) = (via_proxy(1), [via_proxy(2), via_proxy(2), via_proxy(2)]);

        let (_newest, evicted) = all.add(net(9));

        assert_eq!(evicted, Some(net(2)));
        assert!(is_evicted(&crowd[0]) && !is_evicted(&good));
        crowd[0].set_peer_net(net(3));
        drop((good, crowd, _newest));
        assert_eq!(lock(&all.nets).count, 0, "an evicted connection is not counted again");
        assert!(lock(&all.nets).nets.is_empty());
    }

    #[test]
    fn an_authenticated_connection_is_kept_and_counts_as_the_newest_afterwards() {
        let all = Unauthenticated::new(2);
        let (authenticated, _) = all.add(net(1));
        let guards = (authenticated.mark_authenticated(), authenticated.mark_authenticated());
        let (older, _) = all.add(net(1));
        assert!(all.add(net(1)).1.is_none(), "an authenticated connection is not counted");
        let (newer, _) = all.add(net(1));
        drop(guards.0);
        assert!(!is_evicted(&authenticated), "one guard is left");

        drop(guards.1);

        assert!(is_evicted(&older) && !is_evicted(&authenticated));
        drop((authenticated, older, newer));
        assert_eq!(lock(&all.nets).count, 0, "all places are returned");
        assert!(lock(&all.nets).nets.is_empty());
    }
}
