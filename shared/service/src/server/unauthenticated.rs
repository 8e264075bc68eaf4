//! Connections of which nobody knows whose they are: a TLS handshake, a header that is being read, a
//! request without a live token, a wait between two requests. Anybody can make as many as they like.
//!
//! So there are only so many at a time, and one more takes the place of an older one: the oldest of
//! the site that has the most, so that whoever opens thousands loses their own. A connection is out
//! of this while somebody vouches for it. Rejected: refusing the newest, with which a flood shuts the
//! door on everybody; a limit per address alone, since many devices may have one.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use super::PeerNet;

/// All strangers of a listener.
pub(super) struct Unauthenticated {
    max: AtomicUsize,
    sites: Mutex<PeerNets>,
}

#[derive(Default)]
struct PeerNets {
    next: u64,
    count: usize,
    /// By age, the oldest first.
    sites: HashMap<PeerNet, BTreeMap<u64, Weak<TrackedConnection>>>,
}

/// A connection, a stranger unless somebody vouches for it.
pub(super) struct TrackedConnection {
    strangers: Arc<Unauthenticated>,
    standing: Mutex<TrackedState>,
    gone: Notify,
}

struct TrackedState {
    site: PeerNet,
    /// Among the strangers, if it is one.
    number: Option<u64>,
    vouched: usize,
}

/// As long as this lives, its connection is not closed to make room.
pub struct AuthenticatedGuard(Arc<TrackedConnection>);

impl Unauthenticated {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max: AtomicUsize::new(max), sites: Mutex::default() })
    }

    /// So many from now on; those that are too many go as others come.
    pub(super) fn resize(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// One more, and the site of the one that has to go for it, if it is one too many.
    pub(super) fn arrive(
        self: &Arc<Self>,
        site: PeerNet,
    ) -> (Arc<TrackedConnection>, Option<PeerNet>) {
        let visitor = Arc::new(TrackedConnection {
            strangers: self.clone(),
            standing: Mutex::new(TrackedState { site, number: None, vouched: 0 }),
            gone: Notify::new(),
        });
        let crowded = visitor.join();
        (visitor, crowded)
    }
}

impl TrackedConnection {
    /// Resolves when this one has to go to make room. Cancel safe.
    pub(super) async fn has_to_go(&self) {
        self.gone.notified().await;
    }

    /// Says that it is known whose connection this is.
    pub(super) fn vouch(self: &Arc<Self>) -> AuthenticatedGuard {
        let mut standing = lock(&self.standing);
        standing.vouched += 1;
        if let Some(number) = standing.number.take() {
            lock(&self.strangers.sites).remove(standing.site, number);
        }
        drop(standing);
        AuthenticatedGuard(self.clone())
    }

    /// Counts it as of this site from here on: a proxy has said for whom it speaks.
    pub(super) fn handle_site(self: &Arc<Self>, site: PeerNet) {
        let mut standing = lock(&self.standing);
        if let Some(number) = standing.number {
            let mut sites = lock(&self.strangers.sites);
            // One that has to go already has no place any more.
            if sites.remove(standing.site, number) {
                sites.put(self, site, number);
            }
        }
        standing.site = site;
    }

    /// Becomes the newest of the strangers, unless it is one or somebody vouches for it.
    fn join(self: &Arc<Self>) -> Option<PeerNet> {
        let mut standing = lock(&self.standing);
        if standing.number.is_some() || standing.vouched > 0 {
            return None;
        }
        let mut sites = lock(&self.strangers.sites);
        standing.number = Some(sites.add(self, standing.site));
        let dismissed = if sites.count > self.strangers.max.load(Ordering::Relaxed) {
            sites.dismiss_one()
        } else {
            None
        };
        // The one dismissed may end right here, and asks for both.
        drop((standing, sites));
        let (dismissed, site) = dismissed?;
        dismissed.gone.notify_one();
        Some(site)
    }
}

impl Drop for TrackedConnection {
    fn drop(&mut self) {
        let mut standing = lock(&self.standing);
        if let Some(number) = standing.number.take() {
            lock(&self.strangers.sites).remove(standing.site, number);
        }
    }
}

impl Drop for AuthenticatedGuard {
    fn drop(&mut self) {
        let mut standing = lock(&self.0.standing);
        standing.vouched -= 1;
        drop(standing);
        self.0.join();
    }
}

impl PeerNets {
    fn add(&mut self, visitor: &Arc<TrackedConnection>, site: PeerNet) -> u64 {
        let number = self.next;
        self.next += 1;
        self.put(visitor, site, number);
        number
    }

    fn put(&mut self, visitor: &Arc<TrackedConnection>, site: PeerNet, number: u64) {
        self.count += 1;
        self.sites.entry(site).or_default().insert(number, Arc::downgrade(visitor));
    }

    /// Whether it was there.
    fn remove(&mut self, site: PeerNet, number: u64) -> bool {
        let Some(own) = self.sites.get_mut(&site) else { return false };
        let was_there = own.remove(&number).is_some();
        if was_there {
            self.count -= 1;
        }
        if own.is_empty() {
            self.sites.remove(&site);
        }
        was_there
    }

    /// The one that has to go, and the site that it was counted at.
    fn dismiss_one(&mut self) -> Option<(Arc<TrackedConnection>, PeerNet)> {
        let by_number = |own: &BTreeMap<u64, _>| (own.len(), Reverse(own.keys().next().copied()));
        let (&site, own) = self.sites.iter().max_by_key(|(_, own)| by_number(own))?;
        let (&number, oldest) = own.first_key_value()?;
        let oldest = oldest.upgrade();
        self.remove(site, number);
        Some((oldest?, site))
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

    fn site(last: u8) -> PeerNet {
        IpAddr::from([10, 0, 0, last]).into()
    }

    fn has_to_go(visitor: &TrackedConnection) -> bool {
        visitor.has_to_go().now_or_never().is_some()
    }

    #[test]
    fn the_oldest_of_the_site_with_the_most_makes_room() {
        let strangers = Unauthenticated::new(4);
        let (good, _) = strangers.arrive(site(1));
        let crowd: Vec<_> = (0..3).map(|_| strangers.arrive(site(2)).0).collect();

        let (newest, crowded) = strangers.arrive(site(3));

        assert_eq!(crowded, Some(site(2)));
        let gone: Vec<_> = crowd.iter().map(|visitor| has_to_go(visitor)).collect();
        assert_eq!(gone, [true, false, false]);
        assert!(!has_to_go(&good) && !has_to_go(&newest));
    }

    #[test]
    fn of_sites_with_as_many_the_oldest_connection_makes_room() {
        let strangers = Unauthenticated::new(3);
        let all: Vec<_> = (0..5).map(|last| strangers.arrive(site(last)).0).collect();
        let gone: Vec<_> = all.iter().map(|visitor| has_to_go(visitor)).collect();
        assert_eq!(gone, [true, true, false, false, false]);
    }

    #[test]
    fn who_comes_through_a_proxy_is_counted_where_it_is_from() {
        let strangers = Unauthenticated::new(4);
        let behind = |last| {
            let (visitor, _) = strangers.arrive(site(9));
            visitor.handle_site(site(last));
            visitor
        };
        let (good, crowd) = (behind(1), [behind(2), behind(2), behind(2)]);

        let (_newest, crowded) = strangers.arrive(site(9));

        assert_eq!(crowded, Some(site(2)));
        assert!(has_to_go(&crowd[0]) && !has_to_go(&good));
        crowd[0].handle_site(site(3));
        drop((good, crowd, _newest));
        assert_eq!(lock(&strangers.sites).count, 0, "one that has to go takes no new place");
        assert!(lock(&strangers.sites).sites.is_empty());
    }

    #[test]
    fn who_is_vouched_for_stays_and_is_the_newest_stranger_afterwards() {
        let strangers = Unauthenticated::new(2);
        let (known, _) = strangers.arrive(site(1));
        let vouched = (known.vouch(), known.vouch());
        let (older, _) = strangers.arrive(site(1));
        assert!(strangers.arrive(site(1)).1.is_none(), "one that is vouched for is not counted");
        let (newer, _) = strangers.arrive(site(1));
        drop(vouched.0);
        assert!(!has_to_go(&known), "somebody vouches for it still");

        drop(vouched.1);

        assert!(has_to_go(&older) && !has_to_go(&known));
        drop((known, older, newer));
        assert_eq!(lock(&strangers.sites).count, 0, "places are given back");
        assert!(lock(&strangers.sites).sites.is_empty());
    }
}
