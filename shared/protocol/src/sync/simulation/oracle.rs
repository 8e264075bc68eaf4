//! The invariants at the end of a run.

use std::collections::HashMap;

use bytes::Bytes;

use super::{
    model_redis::ModelRedis,
    world::{Route, World, payload},
};
use crate::{
    entry::{Direction, Entry},
    loss::{Loss, LossCause},
    seq::{Epoch, Seq},
};

/// One direction of one client.
struct Case<'a> {
    name: String,
    route: &'a Route,
    copied: Vec<(Epoch, &'a Entry)>,
    dead: &'a [Seq],
    origin_ledger: Vec<Loss>,
    copy_ledger: Vec<Loss>,
}

pub(super) fn check(world: &World) {
    for (client, device) in world.devices.iter().enumerate() {
        let (device, hub) = ((&device.current, 0), (&world.hub.current, client));
        let up = Case::new(world, (Direction::Up, client), device, hub);
        let down = Case::new(world, (Direction::Down, client), hub, device);
        let rates = &world.rates;
        let rewinds = (rates.device_rewind + rates.wipe, rates.hub_rewind + rates.wipe);
        up.check(world, rewinds);
        down.check(world, (rewinds.1, rewinds.0));
    }
}

impl<'a> Case<'a> {
    fn new(
        world: &'a World,
        (direction, client): (Direction, usize),
        origin: (&'a ModelRedis, usize),
        copy: (&'a ModelRedis, usize),
    ) -> Self {
        let lines = |(redis, own): (&ModelRedis, usize)| {
            let of_this = |line: &&(usize, Direction, Loss)| (line.0, line.1) == (own, direction);
            redis.ledger.iter().filter(of_this).map(|line| line.2).collect()
        };
        let copied = copy.0.copy.iter().filter(|(own, ..)| *own == copy.1);
        let routes = if direction == Direction::Up { &world.up } else { &world.down };
        Self {
            name: format!("seed {}, client {client} {}", world.seed, direction.word()),
            route: &routes[client],
            copied: copied.map(|(_, epoch, entry)| (*epoch, entry)).collect(),
            dead: &origin.0.clients[origin.1].dead,
            origin_ledger: lines(origin),
            copy_ledger: lines(copy),
        }
    }

    fn check(&self, world: &World, (origin_rewinds, copy_rewinds): (f64, f64)) {
        let mut times: HashMap<Bytes, usize> = HashMap::new();
        for (_, entry) in &self.copied {
            *times.entry(payload(entry)).or_default() += 1;
        }
        let mut missing = 0;
        for added in &self.route.added {
            let (name, seq) = (&self.name, added.seq);
            let times = times.get(&added.payload).copied().unwrap_or(0);
            assert!(times <= 1, "{name}: {seq} is in the copy {times} times: {self:?}");
            assert!(times == 0 || !added.is_poison, "{name}: the poison entry {seq} was carried");
            let is_gone = self.route.forgotten.contains(&added.payload)
                || self.route.deleted.contains(&added.payload);
            // A Redis that was rewound may have lost a dead letter.
            let is_dead = added.is_poison && (self.dead.contains(&seq) || origin_rewinds > 0.0);
            if times == 1 || is_gone || is_dead {
                continue;
            }
            missing += 1;
            assert!(self.is_covered(seq), "{name}: {seq} is missing and in no ledger: {self:?}");
        }
        self.check_order();
        let rates = world.rates;
        if rates.delete + rates.replace + rates.forget + rates.poison + origin_rewinds == 0.0 {
            let counted = count(&self.copy_ledger);
            assert_eq!(counted, missing, "{}: {self:?}", self.name);
            if copy_rewinds == 0.0 {
                assert_eq!(count(&self.origin_ledger), missing, "{}: {self:?}", self.name);
            }
        }
    }

    fn is_covered(&self, seq: Seq) -> bool {
        let mut lines = self.origin_ledger.iter().chain(&self.copy_ledger);
        lines.any(|loss| loss.cause != LossCause::Uncertain && loss.from <= seq && seq <= loss.to)
    }

    fn check_order(&self) {
        let positions: Vec<_> =
            self.copied.iter().map(|(epoch, entry)| (*epoch, entry.seq)).collect();
        let is_sorted = positions.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(is_sorted, "{}: out of order: {positions:?}", self.name);
    }
}

impl std::fmt::Debug for Case<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let copied: Vec<_> =
            self.copied.iter().map(|(epoch, entry)| (epoch.0, entry.seq)).collect();
        write!(f, "origin's ledger {:?}\ncopy's {:?}\n", self.origin_ledger, self.copy_ledger)?;
        write!(f, "copied {copied:?}")
    }
}

fn count(ledger: &[Loss]) -> u64 {
    ledger.iter().filter_map(|loss| loss.count).sum()
}
