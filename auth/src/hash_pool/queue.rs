//! The fair queue before the hashing threads: pure.
//!
//! Callers that passed the precheck and callers that failed it wait apart. Three of four threads go to the former,
//! so that the latter never keep them waiting, nor the reverse for ever. Within each, turns go round: by client, or
//! by address. So an address that sends a thousand requests waits for itself. In a full queue, a new request evicts
//! the newest request of the client or address that has the most.
//!
//! Rejected: first in, first out, with which eight addresses take all places; a fixed number of places for an
//! address, which is too few for a site of many devices or too many for eight.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use spoke_protocol::ClientId;
use spoke_service::server::PeerNet;

/// The caller that a bcrypt run is queued for.
#[derive(Debug, Clone)]
pub(crate) enum HashCaller {
    /// A client whose request passed the precheck.
    Client(ClientId),
    /// A network whose request failed the precheck.
    Peer(PeerNet),
}

/// Of four threads that become free, this many go to prechecked callers while both wait.
const CLIENT_TURNS: u32 = 3;

/// The queue, with a value of its owner for each place.
pub(super) struct FairQueue<T> {
    workers: usize,
    /// Places, for each kind of caller.
    places: usize,
    running: usize,
    next_number: u64,
    turn: u32,
    clients: RoundRobin<ClientId, T>,
    peers: RoundRobin<PeerNet, T>,
}

/// The queue is full, and the caller may evict no other.
#[derive(Debug)]
pub(super) struct QueueFull;

struct RoundRobin<K, T> {
    waiting: HashMap<K, VecDeque<(u64, T)>>,
    /// The keys that wait, in the order of their turns.
    order: VecDeque<K>,
    count: usize,
}

impl<T> FairQueue<T> {
    pub(super) fn new(workers: usize, places: usize) -> Self {
        let (clients, peers) = (RoundRobin::default(), RoundRobin::default());
        Self { workers, places, running: 0, next_number: 0, turn: 0, clients, peers }
    }

    pub(super) fn resize(&mut self, workers: usize, places: usize) {
        (self.workers, self.places) = (workers, places);
    }

    /// Returns the number of the new place, and the evicted value. Call [`next`](Self::next) afterwards.
    pub(super) fn enter(
        &mut self,
        caller: &HashCaller,
        one: T,
    ) -> Result<(u64, Option<T>), QueueFull> {
        let number = self.next_number;
        self.next_number += 1;
        // A free thread is not a place in the queue.
        let places = self.places + self.workers.saturating_sub(self.running);
        let evicted = match caller {
            HashCaller::Client(client) => self.clients.enter(client, (number, one), places)?,
            HashCaller::Peer(net) => self.peers.enter(net, (number, one), places)?,
        };
        Ok((number, evicted))
    }

    /// Gives a place up, if it is still in the queue.
    pub(super) fn leave(&mut self, caller: &HashCaller, number: u64) -> Option<T> {
        match caller {
            HashCaller::Client(client) => self.clients.leave(client, number),
            HashCaller::Peer(net) => self.peers.leave(net, number),
        }
    }

    /// Returns the value whose turn it is, if a thread is free.
    pub(super) fn next(&mut self) -> Option<T> {
        if self.running >= self.workers {
            return None;
        }
        let one = if self.turn < CLIENT_TURNS {
            self.clients.next().or_else(|| self.peers.next())
        } else {
            self.peers.next().or_else(|| self.clients.next())
        }?;
        self.turn = (self.turn + 1) % (CLIENT_TURNS + 1);
        self.running += 1;
        Some(one)
    }

    /// Counts the end of a run.
    pub(super) fn handle_done(&mut self) {
        self.running -= 1;
    }

    pub(super) fn in_progress(&self) -> usize {
        self.running + self.clients.count + self.peers.count
    }

    pub(super) fn workers(&self) -> usize {
        self.workers
    }

    /// Returns the maximum number of runs in progress and queued.
    pub(super) fn runs_max(&self) -> usize {
        self.workers + 2 * self.places
    }

    /// Returns how many runs, one after the other, a full queue takes.
    pub(super) fn rounds(&self) -> u32 {
        u32::try_from(self.runs_max().div_ceil(self.workers.max(1))).unwrap_or(u32::MAX)
    }
}

impl<K, T> Default for RoundRobin<K, T> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), order: VecDeque::new(), count: 0 }
    }
}

impl<K: Clone + Eq + Hash, T> RoundRobin<K, T> {
    fn enter(&mut self, key: &K, one: (u64, T), places: usize) -> Result<Option<T>, QueueFull> {
        let evicted = if self.count < places { None } else { Some(self.evict_for(key)?) };
        let own = self.waiting.entry(key.clone()).or_default();
        if own.is_empty() {
            self.order.push_back(key.clone());
        }
        own.push_back(one);
        self.count += 1;
        Ok(evicted)
    }

    /// Evicts the newest value of the key that has the most, if that is more than `key` would have.
    fn evict_for(&mut self, key: &K) -> Result<T, QueueFull> {
        let own = self.waiting.get(key).map_or(0, VecDeque::len);
        let most = self.waiting.iter().max_by_key(|(_, all)| all.len());
        let (key, all) = most.filter(|(_, all)| all.len() > own + 1).ok_or(QueueFull)?;
        let (key, number) = (key.clone(), all.back().ok_or(QueueFull)?.0);
        self.leave(&key, number).ok_or(QueueFull)
    }

    fn leave(&mut self, key: &K, number: u64) -> Option<T> {
        let own = self.waiting.get_mut(key)?;
        // Numbers increase from front to back.
        let at = own.binary_search_by_key(&number, |one| one.0).ok()?;
        let (_, one) = own.remove(at)?;
        self.count -= 1;
        if own.is_empty() {
            self.waiting.remove(key);
            self.order.retain(|other| other != key);
        }
        Some(one)
    }

    fn next(&mut self) -> Option<T> {
        let key = self.order.pop_front()?;
        let own = self.waiting.get_mut(&key)?;
        let (_, one) = own.pop_front()?;
        self.count -= 1;
        match own.is_empty() {
            true => drop(self.waiting.remove(&key)),
            false => self.order.push_back(key),
        }
        Some(one)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn peer(last: u8) -> HashCaller {
        HashCaller::Peer(IpAddr::from([192, 0, 2, last]).into())
    }

    fn client(name: &str) -> HashCaller {
        HashCaller::Client(name.parse().unwrap())
    }

    /// Runs the requests one after the other until the queue is empty.
    fn drain(queue: &mut FairQueue<&'static str>) -> Vec<&'static str> {
        let mut served = Vec::new();
        while let Some(name) = queue.next() {
            served.push(name);
            queue.handle_done();
        }
        served
    }

    #[test]
    fn addresses_are_served_in_turn_however_many_requests_one_sends() {
        let mut queue = FairQueue::new(1, 10);
        for _ in 0..4 {
            queue.enter(&peer(1), "crowd").unwrap();
        }
        queue.enter(&peer(2), "good").unwrap();
        assert_eq!(drain(&mut queue), ["crowd", "good", "crowd", "crowd", "crowd"]);
        assert_eq!(queue.in_progress(), 0);
    }

    #[test]
    fn a_new_request_evicts_the_newest_one_of_the_address_with_the_most() {
        let mut queue = FairQueue::new(0, 4);
        for name in ["first", "second", "third"] {
            queue.enter(&peer(1), name).unwrap();
        }
        queue.enter(&peer(2), "other").unwrap();
        let (_, evicted) = queue.enter(&peer(3), "good").unwrap();
        assert_eq!(evicted, Some("third"));
        assert!(queue.enter(&peer(1), "fourth").is_err(), "its own address has the most");
        let (_, evicted) = queue.enter(&peer(4), "good").unwrap();
        assert_eq!(evicted, Some("second"));
        assert!(queue.enter(&peer(5), "good").is_err(), "each address has one");
        queue.resize(1, 4);
        assert_eq!(drain(&mut queue), ["first", "other", "good", "good"]);
    }

    #[test]
    fn peers_take_no_queue_places_of_clients_and_get_one_turn_in_four() {
        let mut queue = FairQueue::new(0, 8);
        for last in 0..8 {
            queue.enter(&peer(last), "peer").unwrap();
        }
        assert!(queue.enter(&peer(9), "peer").is_err());
        for _ in 0..6 {
            queue.enter(&client("dev1"), "client").unwrap();
        }
        queue.enter(&client("dev2"), "other").unwrap();
        queue.resize(1, 8);
        let served = drain(&mut queue);
        assert_eq!(served[..5], ["client", "other", "client", "peer", "client"]);
        assert_eq!(served.len(), 15);
    }

    #[test]
    fn leaving_frees_the_place_and_leaving_twice_has_no_further_effect() {
        let mut queue = FairQueue::new(0, 2);
        let (number, _) = queue.enter(&peer(1), "gone").unwrap();
        queue.enter(&peer(1), "waits").unwrap();
        assert_eq!(queue.leave(&peer(1), number), Some("gone"));
        assert_eq!(queue.leave(&peer(1), number), None);
        assert_eq!(queue.in_progress(), 1);
        queue.resize(1, 2);
        assert_eq!(drain(&mut queue), ["waits"]);
    }

    #[test]
    fn with_an_empty_queue_limit_a_free_thread_is_used() {
        let mut queue = FairQueue::new(1, 0);
        queue.enter(&peer(1), "first").unwrap();
        assert_eq!(queue.next(), Some("first"));
        assert!(queue.enter(&peer(2), "second").is_err());
        queue.handle_done();
        queue.enter(&peer(2), "third").unwrap();
        assert_eq!(queue.next(), Some("third"));
    }
}
