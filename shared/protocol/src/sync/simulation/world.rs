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

/// The probability of each event at one step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
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
    /// The hash of a client is deleted, at either end.
    pub(super) forget: f64,
    /// A stream is deleted, and another one takes its place.
    pub(super) replace: f64,
    /// The bytes of frames after which a link breaks, or up to a quarter more; 0 for never.
    pub(super) narrow: usize,
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
    /// Entries that are not in an older state to which the origin's Redis went back.
    pub(super) forgotten: HashSet<Bytes>,
    pub(super) deleted: HashSet<Bytes>,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) weather: Weather,
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
    /// The bytes that each link still carries.
    left: Vec<usize>,
    /// The paths of device and hub to each other.
    paths: Vec<(LinkPath, LinkPath)>,
    wire: Sha256,
}

impl World {
    pub(super) fn new(seed: u64, clients: usize, weather: Weather) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let trim = match rng.random_bool(0.3) {
            true => TrimMode::Acked { keep_entries: rng.random_range(0..6) },
            false => TrimMode::Keep,
        };
        Self {
            seed,
            weather,
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
            left: vec![usize::MAX; clients],
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

    /// Runs without faults and without new entries, until all entries are carried.
    pub(super) fn settle(&mut self) {
        let narrow = self.weather.narrow;
        let calm = Weather { narrow, ..super::CALM };
        let weather = std::mem::replace(&mut self.weather, calm);
        // A session that broke without GOAWAY ends after its idle timeout; two more carry the rest.
        for _ in 0..if narrow == 0 { 4 } else { 12 } {
            self.now += 2 * IDLE_TIMEOUT;
            for _ in 0..60 {
                self.now += Duration::from_millis(100);
                (0..self.devices.len()).for_each(|client| self.carry(client));
            }
        }
        self.weather = weather;
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
                let is_poison = self.rng.random_bool(self.weather.poison);
                let name = Bytes::from_static(if is_poison { b"seq" } else { b"payload" });
                let redis = if is_up { &mut self.devices[client].now } else { &mut self.hub.now };
                let at = if is_up { 0 } else { client };
                let seq = redis.clients[at].add(self.clock, (name, payload.clone()));
                let route = if is_up { &mut self.up[client] } else { &mut self.down[client] };
                route.added.push(Added { payload, seq, is_poison });
            }
        }
    }

    fn fault(&mut self, client: usize) {
        let weather = self.weather;
        for is_up in [true, false] {
            let redis = if is_up { &mut self.devices[client].now } else { &mut self.hub.now };
            let own = &mut redis.clients[if is_up { 0 } else { client }];
            let route = if is_up { &mut self.up[client] } else { &mut self.down[client] };
            if self.rng.random_bool(weather.trim) {
                own.trim(self.rng.random_range(0..8));
            }
            if self.rng.random_bool(weather.delete) && !own.entries.is_empty() {
                let entry = own.delete(self.rng.random_range(0..own.entries.len()));
                route.deleted.insert(payload(&entry));
            }
            if self.rng.random_bool(weather.forget) {
                own.forget();
            }
            if self.rng.random_bool(weather.replace) {
                route.deleted.extend(own.delete_all().iter().map(payload));
                // Some IDs are used again.
                self.clock = self.clock.saturating_sub(self.rng.random_range(0..40)).max(1);
            }
        }
        if self.rng.random_bool(0.1) {
            self.devices[client].keep();
            self.hub.keep();
        }
        if self.rng.random_bool(weather.cut) {
            self.part(client);
        }
        let is_wiped = self.rng.random_bool(weather.wipe);
        if is_wiped || self.rng.random_bool(weather.device_rewind) {
            let Self { devices, up, rng, .. } = self;
            let before = devices[client].now.clients[0].born.clone();
            if is_wiped {
                devices[client].wipe()
            } else {
                devices[client].rewind(rng)
            }
            forget(&mut up[client], &before, &devices[client].now.clients[0].born);
            // Its clock goes back, too.
            self.clock = self.clock.saturating_sub(self.rng.random_range(0..20)).max(1);
            self.restarted(client);
        }
        let is_wiped = self.rng.random_bool(weather.wipe);
        if client == 0 && (is_wiped || self.rng.random_bool(weather.hub_rewind)) {
            let before = self.hub.now.clients.clone();
            if is_wiped {
                self.hub.wipe()
            } else {
                self.hub.rewind(&mut self.rng)
            }
            for (of, before) in before.into_iter().enumerate() {
                forget(&mut self.down[of], &before.born, &self.hub.now.clients[of].born);
            }
            (0..self.devices.len()).for_each(|of| self.restarted(of));
        }
    }

    /// A session may notice the restart of a Redis, or not.
    fn restarted(&mut self, client: usize) {
        if self.rng.random_bool(0.5) {
            self.part(client);
        }
    }

    fn carry(&mut self, client: usize) {
        if self.links[client].is_none() {
            self.links[client] = Some(self.connect(client));
        }
        let Some((mut near, mut far)) = self.links[client].take() else { return };
        let is_full = self.rng.random_bool(self.weather.full);
        for _ in 0..3 {
            near.session.handle_news();
            far.session.handle_news();
            near.step(&mut self.devices[client].now, 0, is_full, self.now);
            far.step(&mut self.hub.now, client, is_full, self.now);
            self.deliver(client, &mut near, &mut far);
            self.deliver(client, &mut far, &mut near);
        }
        let is_up = self.left[client] > 0 && !near.is_over() && !far.is_over();
        self.links[client] = Some((near, far));
        if !is_up {
            self.part(client);
        }
    }

    /// Ends a link.
    fn part(&mut self, client: usize) {
        let Some((near, far)) = self.links[client].take() else { return };
        // Other weather keeps its old seeds.
        if self.weather.narrow > 0 {
            let (up, down) = &mut self.paths[client];
            near.part(up);
            far.part(down);
        }
    }

    fn connect(&mut self, client: usize) -> (LinkEnd, LinkEnd) {
        let (device, hub) = (&mut self.devices[client].now, &mut self.hub.now);
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
        let narrow = self.weather.narrow;
        self.left[client] = match narrow {
            0 => usize::MAX,
            _ => narrow + self.sessions_opened as usize * 7 % (narrow / 4),
        };
        let random = match narrow {
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
        let Self { rng, weather, wire, now, .. } = self;
        if from.outbox.len() > 1 && rng.random_bool(weather.swap) {
            from.outbox.swap(0, 1);
        }
        let Some(frame) = from.outbox.pop_front() else { return };
        let bytes = frame.encode(Features::default());
        wire.update(&bytes);
        let left = &mut self.left[client];
        if *left != usize::MAX {
            *left = left.saturating_sub(bytes.len());
        }
        if *left == 0 {
            return;
        }
        let times = match rng.random_bool(weather.lose) {
            true => 0,
            false => 1 + usize::from(rng.random_bool(weather.repeat)),
        };
        for _ in 0..times {
            let frame = Frame::decode(bytes.clone(), Features::COMPRESSION)
                .expect("what was encoded is a frame");
            to.session.handle_frame(frame, *now);
        }
    }
}

pub(super) fn payload(entry: &Entry) -> Bytes {
    entry.fields[0].1.clone()
}

/// Notes the entries that are not in the older state to which a Redis went back: the guarantees exclude them.
fn forget(route: &mut Route, before: &[Bytes], after: &[Bytes]) {
    let same = before.iter().zip(after).take_while(|(before, after)| before == after).count();
    route.forgotten.extend(before[same..].iter().cloned());
}
