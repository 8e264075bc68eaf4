//! Which primary has each of some slots of a cluster: from the answers of its nodes.

use redis::{RedisError, RedisResult};

use crate::{
    discovery::{DiscoveryAnswer, believe},
    redis_url::{DiscoveryKind, ServerAddress},
    slots::{ClusterView, NamedPrimary},
};

/// The primaries of some slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SlotMap {
    /// Of each slot, once it is known.
    owners: Vec<Option<NamedPrimary>>,
}

impl SlotMap {
    /// Creates a map of this many slots without an owner.
    pub(super) fn new(slots: usize) -> Self {
        Self { owners: vec![None; slots] }
    }

    /// Returns the owner of one of the slots, if it is known.
    pub(super) fn owner(&self, at: usize) -> Option<&ServerAddress> {
        self.owners.get(at)?.as_ref().map(|owner| &owner.address)
    }

    /// Returns each primary, in the order of its first slot.
    pub(super) fn primaries(&self) -> Vec<ServerAddress> {
        let mut primaries: Vec<ServerAddress> = Vec::new();
        for owner in self.owners.iter().flatten() {
            if !primaries.contains(&owner.address) {
                primaries.push(owner.address.clone());
            }
        }
        primaries
    }

    /// Returns the map after these answers of `servers`. A slot whose owner is not told, or only by servers with an old
    /// configuration, keeps the one that it has.
    ///
    /// # Errors
    /// The [`RedisError`] of the first slot for which no owner is known.
    pub(super) fn updated(
        &self,
        kind: &DiscoveryKind,
        slots: &[u16],
        servers: &[ServerAddress],
        answers: &[DiscoveryAnswer<ClusterView>],
    ) -> (Self, RedisResult<()>) {
        let mut fault: Option<RedisError> = None;
        let owner = |(slot, before): (&u16, &Option<NamedPrimary>)| {
            let each = answers.iter().zip(servers);
            let about = each.map(|(answer, server)| {
                answer.about(server, |view| view.primary_of(*slot).cloned())
            });
            let believed = before.as_ref().map_or(0, |owner| owner.epoch);
            match believe(kind, &about.collect::<Vec<_>>(), believed) {
                Ok(owner) => Some(owner),
                Err(error) => {
                    if before.is_none() {
                        fault.get_or_insert(error);
                    }
                    before.clone()
                }
            }
        };
        let owners = slots.iter().zip(&self.owners).map(owner).collect();
        (Self { owners }, fault.map_or(Ok(()), Err))
    }

    /// Returns the map after a node has said that `address` has one of the slots by now.
    pub(super) fn moved(&self, at: usize, address: ServerAddress) -> Self {
        let mut moved = self.clone();
        if let Some(owner) = moved.owners.get_mut(at) {
            let epoch = owner.as_ref().map_or(0, |owner| owner.epoch);
            *owner = Some(NamedPrimary { address, epoch });
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    const KIND: DiscoveryKind = DiscoveryKind::Cluster { by_name: false };

    fn address(port: u16) -> ServerAddress {
        ServerAddress { host: "10.0.0.1".to_owned(), port }
    }

    /// The view of a node: port, epoch and slots of each primary.
    fn told(primaries: &[(u16, u64, &str)]) -> DiscoveryAnswer<ClusterView> {
        let line = |(port, epoch, slots): &(u16, u64, &str)| {
            format!("id 10.0.0.1:{port}@1{port} master - 0 0 {epoch} connected {slots}\n")
        };
        let nodes: String = primaries.iter().map(line).collect();
        DiscoveryAnswer::Told(ClusterView::parse(&nodes, (&address(1), false)))
    }

    fn silent() -> DiscoveryAnswer<ClusterView> {
        let error = io::Error::from(io::ErrorKind::TimedOut).into();
        DiscoveryAnswer::Failed { server: address(3), error }
    }

    fn ports(map: &SlotMap) -> Vec<Option<u16>> {
        (0..map.owners.len()).map(|at| map.owner(at).map(|address| address.port)).collect()
    }

    #[test]
    fn each_slot_has_the_owner_of_the_highest_epoch_and_keeps_it_where_none_is_told() {
        let (slots, servers) = ([5, 9000, 16000], [address(1), address(2), address(3)]);
        let update = |map: &SlotMap, answers: &[DiscoveryAnswer<ClusterView>]| {
            let (map, known) = map.updated(&KIND, &slots, &servers, answers);
            (ports(&map), known.is_ok(), map)
        };
        let before = told(&[(1, 1, "0-8191"), (2, 2, "8192-15999")]);
        let first = update(&SlotMap::new(3), &[before.clone(), before.clone(), silent()]);
        assert_eq!((&first.0, first.1), (&vec![Some(1), Some(2), None], false));
        assert_eq!(first.2.primaries(), [address(1), address(2)]);

        let promoted = told(&[(1, 1, "0-8191"), (4, 7, "8192-16383")]);
        let after = update(&first.2, &[before.clone(), promoted.clone(), silent()]);
        assert_eq!((&after.0, after.1), (&vec![Some(1), Some(4), Some(4)], true));
        let kept = update(&after.2, &[before, silent(), silent()]);
        assert_eq!(kept.0, after.0, "one node with an old view");
        assert_eq!(update(&after.2, &[silent(), silent(), silent()]).0, after.0);

        let moved = after.2.moved(0, address(4));
        assert_eq!(ports(&moved), [Some(4), Some(4), Some(4)]);
        assert_eq!(update(&moved, &[promoted.clone(), promoted, silent()]).0, after.0);
    }
}
