//! The limit on open connections of a listener, which may change while it serves.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::serve_limits::ServeLimits;

/// Limits the open connections of a listener. Cheap to clone; all clones share one count.
#[derive(Debug, Clone)]
pub struct ConnectionLimit(Arc<ConnectionCount>);

#[derive(Debug)]
struct ConnectionCount {
    open: AtomicUsize,
    max: AtomicUsize,
    unauthenticated: AtomicUsize,
}

/// Counts one open connection; dropped with it.
pub(super) struct ConnectionPermit(Arc<ConnectionCount>);

impl ConnectionLimit {
    /// Takes the maximums from `limits`.
    pub fn of(limits: &ServeLimits) -> Self {
        Self(Arc::new(ConnectionCount {
            open: AtomicUsize::new(0),
            max: AtomicUsize::new(limits.connections),
            unauthenticated: AtomicUsize::new(limits.unauthenticated),
        }))
    }

    /// Changes the maximum number of connections. Connections above it stay open until they end.
    pub fn resize(&self, connections: usize) {
        let limits = ServeLimits::of(connections);
        self.0.max.store(limits.connections, Ordering::Relaxed);
        self.0.unauthenticated.store(limits.unauthenticated, Ordering::Relaxed);
    }

    /// Returns the maximum number of unauthenticated connections.
    pub(super) fn unauthenticated(&self) -> usize {
        self.0.unauthenticated.load(Ordering::Relaxed)
    }

    /// Returns the maximum number of connections.
    pub(super) fn max(&self) -> usize {
        self.0.max.load(Ordering::Relaxed)
    }

    /// Returns how many more connections may be opened.
    pub(super) fn left(&self) -> usize {
        self.max().saturating_sub(self.0.open.load(Ordering::Relaxed))
    }

    /// Counts one more connection; `None` at the limit.
    pub(super) fn take(&self) -> Option<ConnectionPermit> {
        let permit = ConnectionPermit(self.0.clone());
        let before = self.0.open.fetch_add(1, Ordering::Relaxed);
        (before < self.max()).then_some(permit)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_limit_admits_no_connection_until_enough_have_ended() {
        let limit = ConnectionLimit::of(&ServeLimits::of(2));
        let (one, two) = (limit.take().unwrap(), limit.take().unwrap());
        assert!(limit.take().is_none());
        limit.resize(3);
        let three = limit.take().unwrap();
        limit.resize(1);
        drop((one, two));
        assert!(limit.take().is_none() && limit.left() == 0);
        drop(three);
        assert!(limit.take().is_some());
    }
}
