//! The schedule of the faults of a group of Redis servers: a pure function of the seed. One follows the other, each once the
//! group is whole again.

use rand::{Rng, SeedableRng, rngs::StdRng};

/// The kind of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeFaultKind {
    /// SIGKILL of a primary, and after a while a restart with its file.
    Kill,
    /// SIGSTOP of a primary, and after a while SIGCONT.
    Hang,
    /// SIGSTOP of a replica, and after a while SIGCONT.
    HangReplica,
    /// A replica takes over on request.
    FailOver,
    /// The replicas hang while entries are written, and one takes over from the killed primary without them.
    Lag,
    /// A slot is moved to another primary, key by key.
    MoveSlot,
    /// The memory limit of a primary is reached.
    Full,
    /// The disk of a primary is full.
    DiskFull,
    /// A primary is cut off from all other servers, but not from hub and apps.
    Cut,
    /// The link between a primary and a replica is cut.
    CutReplica,
    /// SIGKILL of the hub, and a restart.
    KillHub,
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeFault {
    /// Which kind.
    pub kind: NodeFaultKind,
    /// The number of the client whose primary it strikes.
    pub client: usize,
    /// How long it lasts, in ms.
    pub lasts_ms: u64,
    /// The time before it, in ms.
    pub pause_ms: u64,
}

/// Each kind with its relative frequency and the bounds of how long it lasts.
const KINDS: [(NodeFaultKind, u32, (u64, u64)); 11] = [
    (NodeFaultKind::Kill, 4, (0, 8000)),
    (NodeFaultKind::Hang, 4, (500, 8000)),
    (NodeFaultKind::HangReplica, 2, (500, 5000)),
    (NodeFaultKind::FailOver, 3, (0, 0)),
    (NodeFaultKind::Lag, 3, (500, 1500)),
    (NodeFaultKind::MoveSlot, 4, (0, 1000)),
    (NodeFaultKind::Full, 2, (200, 3000)),
    (NodeFaultKind::DiskFull, 2, (200, 3000)),
    (NodeFaultKind::Cut, 4, (500, 8000)),
    (NodeFaultKind::CutReplica, 2, (500, 8000)),
    (NodeFaultKind::KillHub, 2, (0, 0)),
];
/// The bounds of the time between two faults.
const PAUSE_MS: (u64, u64) = (0, 4000);

impl NodeFaultKind {
    /// All.
    pub const ALL: [Self; KINDS.len()] = [
        Self::Kill,
        Self::Hang,
        Self::HangReplica,
        Self::FailOver,
        Self::Lag,
        Self::MoveSlot,
        Self::Full,
        Self::DiskFull,
        Self::Cut,
        Self::CutReplica,
        Self::KillHub,
    ];

    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Hang => "hang",
            Self::HangReplica => "hang-replica",
            Self::FailOver => "fail-over",
            Self::Lag => "lag",
            Self::MoveSlot => "move-slot",
            Self::Full => "full",
            Self::DiskFull => "disk-full",
            Self::Cut => "cut",
            Self::CutReplica => "cut-replica",
            Self::KillHub => "kill-hub",
        }
    }
}

/// The faults of a seed, without end. Only these kinds are drawn.
///
/// # Panics
/// If there are none.
pub fn node_faults(
    seed: u64,
    clients: usize,
    kinds: &[NodeFaultKind],
) -> impl Iterator<Item = NodeFault> + use<> {
    let mut random = StdRng::seed_from_u64(seed);
    let drawable = KINDS.iter().filter(|(kind, _, _)| kinds.contains(kind));
    let drawable: Vec<_> = drawable.copied().collect();
    let total: u32 = drawable.iter().map(|(_, weight, _)| weight).sum();
    std::iter::repeat_with(move || {
        let mut lot = random.random_range(0..total);
        let drawn = drawable.iter().find(|(_, weight, _)| match lot.checked_sub(*weight) {
            Some(rest) => {
                lot = rest;
                false
            }
            None => true,
        });
        let (kind, _, (least, most)) = *drawn.expect("the lot is below the sum of the weights");
        NodeFault {
            kind,
            client: random.random_range(0..clients),
            lasts_ms: random.random_range(least..=most),
            pause_ms: random.random_range(PAUSE_MS.0..=PAUSE_MS.1),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_seed_determines_its_own_schedule_and_every_kind_is_drawn() {
        let all = NodeFaultKind::ALL;
        let first = |seed| node_faults(seed, 6, &all).take(99).collect::<Vec<_>>();
        assert_eq!(first(7), first(7));
        assert_ne!(first(7), first(8));
        let kinds: BTreeSet<_> = first(7).iter().map(|fault| fault.kind).collect();
        assert_eq!(kinds.len(), KINDS.len());
        assert!(first(7).iter().all(|fault| fault.client < 6));
    }
    #[test]
    fn only_the_given_kinds_are_drawn() {
        let kinds = [NodeFaultKind::Cut, NodeFaultKind::Kill];
        assert!(node_faults(7, 6, &kinds).take(99).all(|fault| kinds.contains(&fault.kind)));
    }
}
