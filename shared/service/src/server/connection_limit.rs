//! How many connections a listener bears, which may be set anew while it serves.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::ServeLimits;

/// Counted connections. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct ConnectionLimit(Arc<ConnectionCount>);

#[derive(Debug)]
struct ConnectionCount {
    taken: AtomicUsize,
    most: AtomicUsize,
    strangers: AtomicUsize,
}

/// A connection's place, free again when it is dropped.
pub(super) struct ConnectionPermit(Arc<ConnectionCount>);

impl ConnectionLimit {
    /// As the limits say.
    pub fn of(limits: &ServeLimits) -> Self {
        let (most, strangers) = (limits.connections, limits.strangers);
        Self(Arc::new(ConnectionCount {
            taken: AtomicUsize::new(0),
            most: AtomicUsize::new(most),
            strangers: AtomicUsize::new(strangers),
        }))
    }

    /// For so many connections from now on. Those that are too many by that stay until they end.
    pub fn resize(&self, connections: usize) {
        let limits = ServeLimits::of(connections);
        self.0.most.store(limits.connections, Ordering::Relaxed);
        self.0.strangers.store(limits.strangers, Ordering::Relaxed);
    }

    /// How many of them may be strangers'.
    pub(super) fn strangers(&self) -> usize {
        self.0.strangers.load(Ordering::Relaxed)
    }

    /// For how many.
    pub(super) fn most(&self) -> usize {
        self.0.most.load(Ordering::Relaxed)
    }

    /// How many more.
    pub(super) fn left(&self) -> usize {
        self.most().saturating_sub(self.0.taken.load(Ordering::Relaxed))
    }

    /// One of them, if there is one left.
    pub(super) fn take(&self) -> Option<ConnectionPermit> {
        let seat = ConnectionPermit(self.0.clone());
        let before = self.0.taken.fetch_add(1, Ordering::Relaxed);
        (before < self.most()).then_some(seat)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_made_smaller_takes_none_until_enough_have_left() {
        let room = ConnectionLimit::of(&ServeLimits::of(2));
        let (one, two) = (room.take().unwrap(), room.take().unwrap());
        assert!(room.take().is_none());
        room.resize(3);
        let three = room.take().unwrap();
        room.resize(1);
        drop((one, two));
        assert!(room.take().is_none() && room.left() == 0);
        drop(three);
        assert!(room.take().is_some());
    }
}
