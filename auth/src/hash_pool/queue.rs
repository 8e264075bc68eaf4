//! Who waits for a thread: pure.
//!
//! Those who are likely to be let in and strangers wait apart: a right one-time code, a proof or the tag of
//! the client's secret shows who is likely. Three of four threads go to the likely, so that strangers never
//! keep them waiting, nor they the strangers for ever. Within each, turns go round: by client among the
//! likely, by address among strangers. So an address that sends a thousand requests waits for itself. Where
//! the places are used up, a newcomer takes that of the newest request of whoever has the most.
//!
//! Rejected: first come, first served, with which eight addresses take all places; a fixed number of places
//! for an address, which is too few for a site of many devices or too many for eight.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use spoke_protocol::client_id::ClientId;
use spoke_service::server::PeerNet;

/// Who asks for a run.
#[derive(Debug, Clone)]
pub enum Party {
    /// A client that is most likely the one it says to be.
    Likely(ClientId),
    /// Anybody at an address.
    Stranger(PeerNet),
}

/// Of four threads that become free so many go to the likely while both wait.
const LIKELY_TURNS: u32 = 3;

/// The line, with what is to be told to each in it.
pub(super) struct Line<T> {
    workers: usize,
    /// Places, for each kind of party.
    places: usize,
    running: usize,
    next_number: u64,
    turn: u32,
    likely: Turns<ClientId, T>,
    strangers: Turns<PeerNet, T>,
}

/// There is no place for this one.
#[derive(Debug)]
pub(super) struct NoPlace;

struct Turns<K, T> {
    waiting: HashMap<K, VecDeque<(u64, T)>>,
    /// All that wait, by whose turn it is.
    order: VecDeque<K>,
    count: usize,
}

impl<T> Line<T> {
    pub(super) fn new(workers: usize, places: usize) -> Self {
        let (likely, strangers) = (Turns::default(), Turns::default());
        Self { workers, places, running: 0, next_number: 0, turn: 0, likely, strangers }
    }

    pub(super) fn resize(&mut self, workers: usize, places: usize) {
        (self.workers, self.places) = (workers, places);
    }

    /// The number of a new place, and the one who lost its place for it. Ask `next` behind it.
    pub(super) fn enter(&mut self, party: &Party, one: T) -> Result<(u64, Option<T>), NoPlace> {
        let number = self.next_number;
        self.next_number += 1;
        // A thread that is free is no place in the line.
        let places = self.places + self.workers.saturating_sub(self.running);
        let evicted = match party {
            Party::Likely(client) => self.likely.enter(client, (number, one), places)?,
            Party::Stranger(site) => self.strangers.enter(site, (number, one), places)?,
        };
        Ok((number, evicted))
    }

    /// Gives a place up, if it is still there.
    pub(super) fn leave(&mut self, party: &Party, number: u64) -> Option<T> {
        match party {
            Party::Likely(client) => self.likely.leave(client, number),
            Party::Stranger(site) => self.strangers.leave(site, number),
        }
    }

    /// Who gets a thread, if one is free and somebody waits.
    pub(super) fn next(&mut self) -> Option<T> {
        if self.running >= self.workers {
            return None;
        }
        let one = if self.turn < LIKELY_TURNS {
            self.likely.next().or_else(|| self.strangers.next())
        } else {
            self.strangers.next().or_else(|| self.likely.next())
        }?;
        self.turn = (self.turn + 1) % (LIKELY_TURNS + 1);
        self.running += 1;
        Some(one)
    }

    /// A run is over.
    pub(super) fn handle_done(&mut self) {
        self.running -= 1;
    }

    pub(super) fn in_hand(&self) -> usize {
        self.running + self.likely.count + self.strangers.count
    }

    pub(super) fn workers(&self) -> usize {
        self.workers
    }

    /// How many there may be in hand.
    pub(super) fn room(&self) -> usize {
        self.workers + 2 * self.places
    }

    /// How many runs one after the other it takes to work off a full line.
    pub(super) fn rounds(&self) -> u32 {
        u32::try_from(self.room().div_ceil(self.workers.max(1))).unwrap_or(u32::MAX)
    }
}

impl<K, T> Default for Turns<K, T> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), order: VecDeque::new(), count: 0 }
    }
}

impl<K: Clone + Eq + Hash, T> Turns<K, T> {
    fn enter(&mut self, key: &K, one: (u64, T), places: usize) -> Result<Option<T>, NoPlace> {
        let evicted = if self.count < places { None } else { Some(self.evict_for(key)?) };
        let own = self.waiting.entry(key.clone()).or_default();
        if own.is_empty() {
            self.order.push_back(key.clone());
        }
        own.push_back(one);
        self.count += 1;
        Ok(evicted)
    }

    /// Takes the newest place of whoever has the most, if that is more than this one would have.
    fn evict_for(&mut self, key: &K) -> Result<T, NoPlace> {
        let own = self.waiting.get(key).map_or(0, VecDeque::len);
        let most = self.waiting.iter().max_by_key(|(_, all)| all.len());
        let (key, all) = most.filter(|(_, all)| all.len() > own + 1).ok_or(NoPlace)?;
        let (key, number) = (key.clone(), all.back().ok_or(NoPlace)?.0);
        self.leave(&key, number).ok_or(NoPlace)
    }

    fn leave(&mut self, key: &K, number: u64) -> Option<T> {
        let own = self.waiting.get_mut(key)?;
        // Numbers grow from front to back.
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

    fn stranger(last: u8) -> Party {
        Party::Stranger(IpAddr::from([192, 0, 2, last]).into())
    }

    fn likely(name: &str) -> Party {
        Party::Likely(name.parse().unwrap())
    }

    /// Runs one after the other until nobody waits.
    fn work_off(line: &mut Line<&'static str>) -> Vec<&'static str> {
        let mut served = Vec::new();
        while let Some(one) = line.next() {
            served.push(one);
            line.handle_done();
        }
        served
    }

    #[test]
    fn turns_go_round_the_addresses_however_many_one_sends() {
        let mut line = Line::new(1, 10);
        for _ in 0..4 {
            line.enter(&stranger(1), "crowd").unwrap();
        }
        line.enter(&stranger(2), "good").unwrap();
        assert_eq!(work_off(&mut line), ["crowd", "good", "crowd", "crowd", "crowd"]);
        assert_eq!(line.in_hand(), 0);
    }

    #[test]
    fn a_newcomer_takes_the_newest_place_of_the_address_with_the_most() {
        let mut line = Line::new(0, 4);
        for one in ["first", "second", "third"] {
            line.enter(&stranger(1), one).unwrap();
        }
        line.enter(&stranger(2), "other").unwrap();
        let (_, evicted) = line.enter(&stranger(3), "good").unwrap();
        assert_eq!(evicted, Some("third"));
        assert!(line.enter(&stranger(1), "fourth").is_err(), "it has the most itself");
        let (_, evicted) = line.enter(&stranger(4), "good").unwrap();
        assert_eq!(evicted, Some("second"));
        assert!(line.enter(&stranger(5), "good").is_err(), "all have one");
        line.resize(1, 4);
        assert_eq!(work_off(&mut line), ["first", "other", "good", "good"]);
    }

    #[test]
    fn strangers_take_no_place_of_the_likely_and_one_thread_of_four() {
        let mut line = Line::new(0, 8);
        for last in 0..8 {
            line.enter(&stranger(last), "stranger").unwrap();
        }
        assert!(line.enter(&stranger(9), "stranger").is_err());
        for _ in 0..6 {
            line.enter(&likely("dev1"), "likely").unwrap();
        }
        line.enter(&likely("dev2"), "other").unwrap();
        line.resize(1, 8);
        let served = work_off(&mut line);
        assert_eq!(served[..5], ["likely", "other", "likely", "stranger", "likely"]);
        assert_eq!(served.len(), 15);
    }

    #[test]
    fn who_leaves_gives_the_place_up_and_twice_is_once() {
        let mut line = Line::new(0, 2);
        let (number, _) = line.enter(&stranger(1), "gone").unwrap();
        line.enter(&stranger(1), "waits").unwrap();
        assert_eq!(line.leave(&stranger(1), number), Some("gone"));
        assert_eq!(line.leave(&stranger(1), number), None);
        assert_eq!(line.in_hand(), 1);
        line.resize(1, 2);
        assert_eq!(work_off(&mut line), ["waits"]);
    }

    #[test]
    fn without_a_line_a_free_thread_is_used() {
        let mut line = Line::new(1, 0);
        line.enter(&stranger(1), "first").unwrap();
        assert_eq!(line.next(), Some("first"));
        assert!(line.enter(&stranger(2), "second").is_err());
        line.handle_done();
        line.enter(&stranger(2), "third").unwrap();
        assert_eq!(line.next(), Some("third"));
    }
}
