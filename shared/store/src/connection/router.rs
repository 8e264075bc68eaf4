//! The connections to the primaries of a Redis Cluster, and which of them has each slot.
//!
//! The library keeps the connections, and the routing is ours: its cluster client arms `CLIENT TRACKING` only once, sends
//! `WAIT` and `SCRIPT LOAD` to all nodes, so that one that hangs stops all, and may send a write twice.
//!
//! All nodes that are known are asked for the map each second, and where a node says that a slot has moved. What one node
//! cannot do delays no command for another one.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redis::{RedisResult, pipe};
use tokio::{
    sync::{Mutex as AsyncMutex, Notify, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    inner::{ServerPlace, SharedConnection},
    refusal::Refusal,
};
use crate::{
    RedisUrl,
    discovery::{Discovery, DiscoveryAnswer, PrimarySurvey},
    limits::{DISCOVERY_SERVERS_MAX, REROUTE_PATIENCE, REROUTE_WAIT, REROUTE_WAIT_MAX},
    redis_url::{DiscoveryKind, DiscoveryUrl, ServerAddress},
    slot_map::SlotMap,
    slots::ClusterView,
};

/// The nodes of a cluster.
pub(crate) struct ClusterRouter {
    url: RedisUrl,
    discovery: Discovery,
    /// The slots whose owners are looked for.
    slots: Vec<u16>,
    map: watch::Sender<SlotMap>,
    servers: Mutex<HashMap<ServerAddress, NodeConnection>>,
    generations: Arc<AtomicU64>,
    /// The number of looks so far.
    looks: AtomicU64,
    /// What the last one has found, locked by the one that is on its way.
    last_look: AsyncMutex<RedisResult<()>>,
    look_wanted: Notify,
    /// Of each slot that is being moved: the node that was asked last.
    asked: Mutex<HashMap<usize, ServerAddress>>,
}

struct NodeConnection {
    connection: Arc<SharedConnection>,
    /// Since when it is no primary.
    left_at: Option<Instant>,
    /// Ends the commands on all connections to it, once it is left.
    left: CancellationToken,
}

/// Where a refused command is sent next.
pub(crate) struct Reroute<'a> {
    router: &'a ClusterRouter,
    at: usize,
    until: Instant,
    /// Zero until it was sent again.
    wait: Duration,
}

impl ClusterRouter {
    /// Creates it for the owners of these slots.
    pub(super) fn new(url: &RedisUrl, asked: &DiscoveryUrl, slots: Vec<u16>) -> Self {
        Self {
            url: url.clone(),
            discovery: Discovery::new(url, asked),
            map: watch::Sender::new(SlotMap::new(slots.len())),
            slots,
            servers: Mutex::default(),
            generations: Arc::default(),
            looks: AtomicU64::new(0),
            last_look: AsyncMutex::new(Ok(())),
            look_wanted: Notify::new(),
            asked: Mutex::default(),
        }
    }

    /// Returns the map, and when it changes.
    pub(crate) fn map(&self) -> watch::Receiver<SlotMap> {
        self.map.subscribe()
    }

    /// Returns the primary of the slot of a key, if it is one of those that are looked for.
    pub(crate) fn owner_of(&self, slot: u16) -> Option<ServerAddress> {
        let at = self.slots.iter().position(|of| *of == slot)?;
        self.map.borrow().owner(at).cloned()
    }

    /// Resolves when someone wants to know the map at once, for one task.
    pub(crate) async fn look_wanted(&self) {
        self.look_wanted.notified().await;
    }

    /// Returns the primary of one of the slots.
    ///
    /// # Errors
    /// `UNFIT` if no server is a node of a cluster; another [`RedisError`](redis::RedisError) if no one knows it.
    pub(super) async fn owner(&self, at: usize) -> RedisResult<ServerAddress> {
        if let Some(address) = self.map.borrow().owner(at) {
            return Ok(address.clone());
        }
        let known = self.look().await;
        let owner = self.map.borrow().owner(at).cloned();
        owner.map_or_else(
            || Err(known.err().unwrap_or_else(|| io::Error::other("no node has the slot").into())),
            Ok,
        )
    }

    /// Returns the connection to a primary.
    pub(super) fn server(&self, address: &ServerAddress) -> Arc<SharedConnection> {
        self.node(address, |node| node.connection.clone())
    }

    /// Returns a token that is cancelled once the commands on all connections to a node have to end.
    pub(crate) fn left(&self, address: &ServerAddress) -> CancellationToken {
        self.node(address, |node| node.left.clone())
    }

    fn node<T>(&self, address: &ServerAddress, read: impl FnOnce(&NodeConnection) -> T) -> T {
        let make = || {
            let place = ServerPlace::Node(address.clone());
            let generations = self.generations.clone();
            let connection = Arc::new(SharedConnection::new(self.url.clone(), place, generations));
            NodeConnection { connection, left_at: None, left: CancellationToken::new() }
        };
        read(self.servers().entry(address.clone()).or_insert_with(make))
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<ServerAddress, NodeConnection>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the node to which a slot is being moved, if one was asked.
    pub(super) fn last_asked(&self, at: usize) -> Option<ServerAddress> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).get(&at).cloned()
    }

    /// Asks all known nodes for the map, or waits for a look that is on its way.
    ///
    /// # Errors
    /// [`RedisError`](redis::RedisError) if the owner of a slot is not known.
    pub(crate) async fn look(&self) -> RedisResult<()> {
        let before = self.looks.load(Ordering::Acquire);
        let mut last = self.last_look.lock().await;
        if self.looks.load(Ordering::Acquire) != before {
            return last.clone();
        }
        let (servers, answers) = self.ask_all().await;
        let kind = self.discovery.kind();
        let (map, known) = self.map.borrow().updated(kind, &self.slots, &servers, &answers);
        self.leave_servers(&map.primaries(), servers.iter().zip(&answers));
        self.publish(map);
        last.clone_from(&known);
        self.looks.fetch_add(1, Ordering::Release);
        known
    }

    fn publish(&self, map: SlotMap) {
        self.map.send_if_modified(|old| {
            let is_changed = *old != map;
            *old = map;
            is_changed
        });
    }

    /// Ends the connections to nodes that are no longer primaries: at once if one does not answer, since one that hangs
    /// closes no connection, and otherwise later, since it still answers what it was sent.
    fn leave_servers<'a>(
        &self,
        primaries: &[ServerAddress],
        answers: impl Iterator<Item = (&'a ServerAddress, &'a DiscoveryAnswer<ClusterView>)>,
    ) {
        let answering = answers
            .filter(|(_, answer)| matches!(answer, DiscoveryAnswer::Told(_)))
            .map(|(address, _)| address)
            .collect::<Vec<_>>();
        let now = Instant::now();
        let left: Vec<_> = self
            .servers()
            .extract_if(|address, node| {
                if primaries.contains(address) {
                    node.left_at = None;
                    return false;
                }
                let left_at = *node.left_at.get_or_insert(now);
                now >= left_at + REROUTE_PATIENCE || !answering.contains(&address)
            })
            .collect();
        for (_, node) in left {
            node.left.cancel();
            node.connection.leave();
        }
    }

    /// Asks the servers in the URL, the primaries that are known besides, and those that were until now.
    async fn ask_all(&self) -> (Vec<ServerAddress>, Vec<DiscoveryAnswer<ClusterView>>) {
        let mut servers = self.discovery.named().to_vec();
        let connected: Vec<_> = self.servers().keys().cloned().collect();
        for known in self.map.borrow().primaries().into_iter().chain(connected) {
            if servers.len() < 2 * DISCOVERY_SERVERS_MAX && !servers.contains(&known) {
                servers.push(known);
            }
        }
        let by_name = matches!(self.discovery.kind(), DiscoveryKind::Cluster { by_name: true });
        let mut question = pipe();
        question.cmd("CLUSTER").arg("NODES");
        let read = |reply, asked: &_| {
            let (nodes,): (String,) = redis::from_redis_value(reply)?;
            Ok(Some(ClusterView::parse(&nodes, (asked, by_name))))
        };
        let answers = self.discovery.ask_all(&servers, &question, read).await;
        (servers, answers)
    }

    /// Returns the nodes, as the one with the newest configuration sees them.
    ///
    /// # Errors
    /// [`RedisError`](redis::RedisError) if no node answers.
    pub(crate) async fn view(&self) -> RedisResult<ClusterView> {
        let (_, answers) = self.ask_all().await;
        let mut fault = None;
        let views = answers.into_iter().filter_map(|answer| match answer {
            DiscoveryAnswer::Told(view) => Some(view),
            DiscoveryAnswer::Failed { error, .. } => {
                fault.get_or_insert(error);
                None
            }
            DiscoveryAnswer::Unknown { .. } => None,
        });
        let newest = views.max_by_key(|view| view.primaries().map(|it| it.named.epoch).max());
        newest.ok_or_else(|| fault.unwrap_or_else(|| io::Error::other("no node answers").into()))
    }

    /// Asks all known nodes for the primary of one of the slots, for an operator.
    pub(super) async fn survey(&self, at: usize) -> PrimarySurvey {
        let (servers, answers) = self.ask_all().await;
        let slot = self.slots[at];
        let each = answers.iter().zip(&servers);
        let about: Vec<_> = each
            .map(|(answer, server)| answer.about(server, |view| view.primary_of(slot).cloned()))
            .collect();
        PrimarySurvey::of(self.discovery.kind(), &about)
    }

    /// Begins to look for the server of a refused command, with this patience.
    pub(super) fn reroute(&self, at: usize, patience: Duration) -> Reroute<'_> {
        Reroute { router: self, at, until: Instant::now() + patience, wait: Duration::ZERO }
    }
}

impl Reroute<'_> {
    /// Returns the server for a command that `from` has refused, and whether to send ASKING before it. Waits before all but
    /// the first redirection. None at the end of the patience.
    pub(crate) async fn next(
        &mut self,
        refusal: Refusal,
        from: &ServerAddress,
    ) -> Option<(ServerAddress, bool)> {
        let router = self.router;
        let target = match refusal {
            Refusal::Ask(address) => {
                let mut asked = router.asked.lock().unwrap_or_else(PoisonError::into_inner);
                asked.insert(self.at, address.clone());
                Some((address, true))
            }
            Refusal::Moved(address) if address != *from => {
                let map = router.map.borrow().moved(self.at, address.clone());
                router.publish(map);
                Some((address, false))
            }
            Refusal::Moved(_) | Refusal::Later => None,
        };
        router.look_wanted.notify_one();
        if target.is_none() || !self.wait.is_zero() {
            if Instant::now() + self.wait >= self.until {
                return None;
            }
            sleep(self.wait.max(REROUTE_WAIT)).await;
        }
        self.wait = (2 * self.wait).clamp(REROUTE_WAIT, REROUTE_WAIT_MAX);
        match target {
            Some(target) => Some(target),
            None => router.owner(self.at).await.ok().map(|owner| (owner, false)),
        }
    }
}
