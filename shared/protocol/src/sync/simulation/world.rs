//! Devices, a hub, apps at both, and their faults, drawn from one seed.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};
use sha2::{Digest as _, Sha256};

use super::{link_end::LinkEnd, server::Server};
use crate::{
    entry::{Direction, Entry},
    limits::IDLE_TIMEOUT,
    message::{Features, Frame},
    partner::{Partner, PartnerId, PartnerMatch},
    seq::Seq,
    sync::sender::{LinkPath, TrimMode},
};

/// The probability of each fault in one step.
#[derive(Clone, Copy, Debug)]
pub(super) struct FaultRates {
    pub(super) lose: f64,
    pub(super) repeat: f64,
    pub(super) swap: f64,
    pub(super) cut: f64,
    pub(super) trim: f64,
    pub(super) delete: f64,
    pub(super) full: f64,
    pub(super) device_rewind: f64,
    pub(super) hub_rewind: f64,
    pub(super) wipe: f64,
    pub(super) poison: f64,
    /// The hash of a client is deleted at either end.
    pub(super) forget: f64,
    /// A stream is deleted, and another one takes its place.
    pub(super) replace: f64,
    /// The number of bytes after which a link breaks, or up to a quarter more. 0 means never.
    pub(super) link_bytes: usize,
}

/// An entry that an app added, with its unique payload.
pub(super) struct Added {
    pub(super) payload: Bytes,
    pub(super) seq: Seq,
    pub(super) is_poison: bool,
}

/// One stream from origin to copy.
#[derive(Default)]
pub(super) struct Route {
    pub(super) added: Vec<Added>,
    /// Entries that the origin's Redis lost in a rewind.
    pub(super) forgotten: HashSet<Bytes>,
    pub(super) deleted: HashSet<Bytes>,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) rates: FaultRates,
    rng: StdRng,
    now: Instant,
    clock: u64,
    next: u64,
    sessions_opened: u64,
    trim: TrimMode,
    pub(super) hub: Server,
    pub(super) devices: Vec<Server>,
    pub(super) up: Vec<Route>,
    pub(super) down: Vec<Route>,
    links: Vec<Option<(LinkEnd, LinkEnd)>>,
    /// The number of bytes until each link breaks.
    bytes_left: Vec<usize>,
    /// The paths of device and hub to each other.
    paths: Vec<(LinkPath, LinkPath)>,
    wire: Sha256,
}

impl World {
    pub(super) fn new(seed: u64, clients: usize, rates: FaultRates) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let trim = match rng.random_bool(0.3) {
            true => TrimMode::Acked { keep_entries: rng.random_range(0..6) },
            false => TrimMode::Keep,
        };
        Self {
            seed,
            rates,
            rng,
            now: Instant::now(),
            clock: 1000,
            next: 0,
            sessions_opened: 0,
            trim,
            hub: Server::of(clients, Direction::Down, 1),
            devices: (0..clients).map(|_| Server::of(1, Direction::Up, 0)).collect(),
            up: (0..clients).map(|_| Route::default()).collect(),
            down: (0..clients).map(|_| Route::default()).collect(),
            links: (0..clients).map(|_| None).collect(),
            bytes_left: vec![usize::MAX; clients],
            paths: vec![Default::default(); clients],
            wire: Sha256::new(),
        }
    }

    pub(super) fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.now += Duration::from_millis(self.rng.random_range(0..1500));
            // Small steps, so that IDs collide after a clock went back with its Redis.
            self.clock += self.rng.random_range(0..3);
            for client in 0..self.devices.len() {
                self.publish(client);
                self.fault(client);
                self.carry(client);
            }
        }
    }

    /// Runs without faults and new entries until all entries are carried.
    pub(super) fn settle(&mut self) {
        let link_bytes = self.rates.link_bytes;
        let settled_rates = FaultRates { link_bytes, ..super::NO_FAULTS };
        let rates = std::mem::replace(&mut self.rates, settled_rates);
        // A session that broke without GOAWAY ends after its idle timeout. Two more sessions carry the rest.
        for _ in 0..if link_bytes == 0 { 4 } else { 12 } {
            self.now += 2 * IDLE_TIMEOUT;
            for _ in 0..60 {
                self.now += Duration::from_millis(100);
                (0..self.devices.len()).for_each(|client| self.carry(client));
            }
        }
        self.rates = rates;
    }

    pub(super) fn wire_digest(&self) -> Vec<u8> {
        self.wire.clone().finalize().to_vec()
    }

    fn publish(&mut self, client: usize) {
        for is_up in [true, false] {
            if !self.rng.random_bool(0.2) {
                continue;
            }
            for _ in 0..self.rng.random_range(1..5) {
                self.next += 1;
                let payload = Bytes::from(format!("{}", self.next));
                let is_poison = self.rng.random_bool(self.rates.poison);
                let name = Bytes::from_static(if is_poison { b"seq" } else { b"payload" });
                let redis =
                    if is_up { &mut self.devices[client].current } else { &mut self.hub.current };
                let at = if is_up { 0 } else { client };
                let seq = redis.clients[at].add(self.clock, (name, payload.clone()));
                let route = if is_up { &mut self.up[client] } else { &mut self.down[client] };
                route.added.push(Added { payload, seq, is_poison });
            }
        }
    }

    fn fault(&mut self, client: usize) {
        let rates = self.rates;
        for is_up in [true, false] {
            let redis =
                if is_up { &mut self.devices[client].current } else { &mut self.hub.current };
            let own = &mut redis.clients[if is_up { 0 } else { client }];
            let route = if is_up { &mut self.up[client] } else { &mut self.down[client] };
            if self.rng.random_bool(rates.trim) {
                own.trim(self.rng.random_range(0..8));
            }
            if self.rng.random_bool(rates.delete) && !own.entries.is_empty() {
                let entry = own.delete(self.rng.random_range(0..own.entries.len()));
                route.deleted.insert(payload(&entry));
            }
            if self.rng.random_bool(rates.forget) {
                own.forget();
            }
            if self.rng.random_bool(rates.replace) {
                route.deleted.extend(own.delete_all().iter().map(payload));
                // Some IDs are used again.
                self.clock = self.clock.saturating_sub(self.rng.random_range(0..40)).max(1);
            }
        }
        if self.rng.random_bool(0.1) {
            self.devices[client].take_snapshot();
            self.hub.take_snapshot();
        }
        if self.rng.random_bool(rates.cut) {
            self.disconnect(client);
        }
        let is_wiped = self.rng.random_bool(rates.wipe);
        if is_wiped || self.rng.random_bool(rates.device_rewind) {
            let Self { devices, up, rng, .. } = self;
            let before = devices[client].current.clients[0].payloads_added.clone();
            if is_wiped {
                devices[client].wipe()
            } else {
                devices[client].rewind(rng)
            }
            forget(&mut up[client], &before, &devices[client].current.clients[0].payloads_added);
            // Its clock is set back too.
            self.clock = self.clock.saturating_sub(self.rng.random_range(0..20)).max(1);
            self.maybe_disconnect(client);
        }
        let is_wiped = self.rng.random_bool(rates.wipe);
        if client == 0 && (is_wiped || self.rng.random_bool(rates.hub_rewind)) {
            let before = self.hub.current.clients.clone();
            if is_wiped {
                self.hub.wipe()
            } else {
                self.hub.rewind(&mut self.rng)
            }
            for (client, before) in before.into_iter().enumerate() {
                forget(
                    &mut self.down[client],
                    &before.payloads_added,
                    &self.hub.current.clients[client].payloads_added,
                );
            }
            (0..self.devices.len()).for_each(|client| self.maybe_disconnect(client));
        }
    }

    /// Disconnects or not: a session may not notice that its Redis restarted.
    fn maybe_disconnect(&mut self, client: usize) {
        if self.rng.random_bool(0.5) {
            self.disconnect(client);
        }
    }

    fn carry(&mut self, client: usize) {
        if self.links[client].is_none() {
            self.links[client] = Some(self.connect(client));
        }
        let Some((mut near, mut far)) = self.links[client].take() else { return };
        let is_full = self.rng.random_bool(self.rates.full);
        for _ in 0..3 {
            near.session.handle_news();
            far.session.handle_news();
            near.step(&mut self.devices[client].current, 0, is_full, self.now);
            far.step(&mut self.hub.current, client, is_full, self.now);
            self.deliver(client, &mut near, &mut far);
            self.deliver(client, &mut far, &mut near);
        }
        let is_up = self.bytes_left[client] > 0 && !near.is_over() && !far.is_over();
        self.links[client] = Some((near, far));
        if !is_up {
            self.disconnect(client);
        }
    }

    /// Ends a link.
    fn disconnect(&mut self, client: usize) {
        let Some((near, far)) = self.links[client].take() else { return };
        // Without `link_bytes` the old seeds have to give the old runs.
        if self.rates.link_bytes > 0 {
            let (up, down) = &mut self.paths[client];
            near.disconnect(up);
            far.disconnect(down);
        }
    }

    fn connect(&mut self, client: usize) -> (LinkEnd, LinkEnd) {
        let (device, hub) = (&mut self.devices[client].current, &mut self.hub.current);
        self.sessions_opened += 1;
        let generation = hub.open_session(client, self.sessions_opened);
        let device_cursor = device.cursor(0);
        let own = PartnerId([hub.identity.max(1); PartnerId::BYTES]);
        let remembered = device.partner();
        let of = remembered.as_ref().map_or(PartnerId::UNKNOWN, |partner| partner.id);
        let down = hub.begin(client, &device_cursor, (PartnerMatch::at_hub(of, own), None));
        let cursor = hub.cursor(client);
        let partner = Partner { id: own, address: String::new() };
        let partner_match = PartnerMatch::at_device(remembered.as_ref(), &partner);
        let up = device.begin(0, &cursor, (partner_match, Some(partner)));
        let (ours, theirs) = (Direction::Up, Direction::Down);
        let link_bytes = self.rates.link_bytes;
        self.bytes_left[client] = match link_bytes {
            0 => usize::MAX,
            _ => link_bytes + self.sessions_opened as usize * 7 % (link_bytes / 4),
        };
        let random = match link_bytes {
            0 => [1.0; 2],
            _ => self.rng.random(),
        };
        let (outward, inward) = &mut self.paths[client];
        let near = (&device_cursor, None);
        let near =
            LinkEnd::new((ours, theirs), &up, self.trim, near, (outward, self.now, random[0]));
        let far = (&cursor, Some(generation));
        (
            near,
            LinkEnd::new((theirs, ours), &down, TrimMode::Keep, far, (inward, self.now, random[1])),
        )
    }

    fn deliver(&mut self, client: usize, from: &mut LinkEnd, to: &mut LinkEnd) {
        let Self { rng, rates, wire, now, .. } = self;
        if from.outbox.len() > 1 && rng.random_bool(rates.swap) {
            from.outbox.swap(0, 1);
        }
        let Some(frame) = from.outbox.pop_front() else { return };
        let bytes = frame.encode(Features::default());
        wire.update(&bytes);
        let bytes_left = &mut self.bytes_left[client];
        if *bytes_left != usize::MAX {
            *bytes_left = bytes_left.saturating_sub(bytes.len());
        }
        if *bytes_left == 0 {
            return;
        }
        let times = match rng.random_bool(rates.lose) {
            true => 0,
            false => 1 + usize::from(rng.random_bool(rates.repeat)),
        };
        for _ in 0..times {
            let frame = Frame::decode(bytes.clone(), Features::COMPRESSION)
                .expect("an encoded frame is valid");
            to.session.handle_frame(frame, *now);
        }
    }
}

pub(super) fn payload(entry: &Entry) -> Bytes {
    entry.fields[0].1.clone()
}

/// Notes the entries that a Redis lost in a rewind: the guarantees exclude them.
fn forget(route: &mut Route, before: &[Bytes], after: &[Bytes]) {
    let same = before.iter().zip(after).take_while(|(before, after)| before == after).count();
    route.forgotten.extend(before[same..].iter().cloned());
}
