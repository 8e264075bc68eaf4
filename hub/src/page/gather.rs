//! What all viewers of the page see: one survey for all of them, none while nobody looks.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use spoke_diagnostics::{clock::unix_ms, error_chain::error_chain};
use spoke_protocol::client_id::ClientId;
use spoke_service::api_error::ApiError;
use spoke_store::{
    StoreError,
    fleet::{self, ClientRow, Fleet, RecentEntries},
    limits::REDIS_REPLY_TIMEOUT,
    loss_ledger::LedgerLine,
};
use tokio::sync::{Notify, watch};

use super::chart::Chart;
use crate::{
    facts::Totals,
    hub::Hub,
    limits::{SURVEY_INTERVAL, SURVEY_REST, VIEWERS_MAX},
};

/// What one survey found.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    /// When, in milliseconds since 1970; 0 for none yet.
    pub(super) at_ms: u64,
    /// All clients.
    pub(super) fleet: Arc<Fleet>,
    /// Their sums.
    pub(super) totals: Totals,
    /// How these went.
    pub(super) chart: Chart,
    /// More of those that somebody looks at.
    pub(super) details: HashMap<ClientId, Arc<Detail>>,
    /// Why there was no newer one.
    pub(super) fault: Option<String>,
}

/// What is shown of one client.
#[derive(Debug, Clone)]
pub(super) struct Detail {
    /// Where it stands.
    pub(super) row: ClientRow,
    /// What it sent last.
    pub(super) up: RecentEntries,
    /// What was sent to it last.
    pub(super) down: RecentEntries,
    /// Its lines of the loss ledger.
    pub(super) losses: Vec<LedgerLine>,
}

/// Who looks, and what there is to see. Cheap to clone.
#[derive(Clone)]
pub(super) struct Gatherer(Arc<Shared>);

struct Shared {
    looking: Mutex<Looking>,
    someone: Notify,
    snapshot: watch::Sender<Arc<Snapshot>>,
    /// Details that are asked for beside the surveys are read one after the other.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Looking {
    viewers: usize,
    at: HashMap<ClientId, usize>,
}

/// Somebody who looks, until it is dropped.
pub(super) struct Viewer {
    gatherer: Gatherer,
    client: Option<ClientId>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
}

impl Gatherer {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            looking: Mutex::default(),
            someone: Notify::new(),
            snapshot: watch::Sender::new(Arc::default()),
            reading: tokio::sync::Mutex::default(),
        }))
    }

    /// For one look; the listener bounds how many there are.
    pub(super) fn visit(&self) -> Viewer {
        self.enter(None)
    }

    /// For every look from now on, at the fleet or at one client too; none if too many do.
    pub(super) fn follow(&self, client: Option<&ClientId>) -> Option<Viewer> {
        let has_room = self.looking().viewers < VIEWERS_MAX;
        has_room.then(|| self.enter(client))
    }

    /// More of one client, read now.
    ///
    /// # Errors
    /// 503.
    pub(super) async fn detail(
        &self,
        hub: &Hub,
        client: &ClientId,
    ) -> Result<Option<Detail>, ApiError> {
        let _turn = self.0.reading.lock().await;
        let rows =
            fleet::find_clients(&hub.redis, &hub.keys, std::slice::from_ref(client), unix_ms());
        let row = hub.checked(rows.await)?.pop();
        let Some(row) = row.filter(|row| row.last_seen.is_some()) else { return Ok(None) };
        hub.checked(detail(hub, row).await).map(Some)
    }

    /// Surveys while somebody looks, until the hub stops.
    pub(super) async fn run(self, hub: Hub) {
        loop {
            if self.looking().viewers == 0 {
                // Of whoever comes next, nobody waits for what is old by then.
                let chart = self.0.snapshot.borrow().chart.clone();
                let empty = Snapshot { chart, ..Snapshot::default() };
                self.0.snapshot.send_replace(Arc::new(empty));
                tokio::select! {
                    () = hub.shutdown.begun() => return,
                    () = self.0.someone.notified() => continue,
                }
            }
            let began = Instant::now();
            let snapshot = tokio::select! {
                () = hub.shutdown.begun() => return,
                snapshot = self.gather(&hub) => snapshot,
            };
            self.0.snapshot.send_replace(Arc::new(snapshot));
            let rest = SURVEY_INTERVAL.max(began.elapsed() * SURVEY_REST);
            tokio::select! {
                () = hub.shutdown.begun() => return,
                () = tokio::time::sleep(rest) => {}
            }
        }
    }

    async fn gather(&self, hub: &Hub) -> Snapshot {
        let before = self.0.snapshot.borrow().clone();
        let now = unix_ms();
        let gathered = async {
            let fleet = fleet::list_clients(&hub.redis, &hub.keys, now).await?;
            let details = self.details(hub, &fleet, &before.details).await?;
            Ok::<_, StoreError>((fleet, details))
        };
        let (fleet, details) = match gathered.await {
            Ok(gathered) => gathered,
            Err(error) => {
                let fault = Some(format!("redis does not answer: {}", error_chain(&error)));
                // Counted and logged with all the others.
                let _ = hub.unavailable(&error);
                return Snapshot { fault, ..Snapshot::clone(&before) };
            }
        };
        let totals = Totals::of(&fleet, now);
        let mut chart = before.chart.clone();
        chart.add(now, totals.received, totals.delivered);
        let writes = hub.redis.health().problem();
        let writes = writes.map(|problem| format!("redis takes no writes: {problem}"));
        let fault = writes.or_else(|| hub.writer.level_health().problem());
        Snapshot { at_ms: now, fleet: Arc::new(fleet), totals, chart, details, fault }
    }

    /// Of one that stands where it stood, nothing is read again.
    async fn details(
        &self,
        hub: &Hub,
        fleet: &Fleet,
        before: &HashMap<ClientId, Arc<Detail>>,
    ) -> Result<HashMap<ClientId, Arc<Detail>>, StoreError> {
        let looked_at: Vec<ClientId> = self.looking().at.keys().cloned().collect();
        let mut details = HashMap::new();
        for client in looked_at {
            let Ok(at) = fleet.rows.binary_search_by(|row| row.client.cmp(&client)) else {
                continue;
            };
            let row = &fleet.rows[at];
            let detail = match before.get(&client) {
                Some(known) if known.row == *row => known.clone(),
                _ => Arc::new(detail(hub, row.clone()).await?),
            };
            details.insert(client, detail);
        }
        Ok(details)
    }

    fn enter(&self, client: Option<&ClientId>) -> Viewer {
        let mut looking = self.looking();
        looking.viewers += 1;
        if let Some(client) = client {
            *looking.at.entry(client.clone()).or_default() += 1;
        }
        drop(looking);
        self.0.someone.notify_one();
        let snapshots = self.0.snapshot.subscribe();
        Viewer { gatherer: self.clone(), client: client.cloned(), snapshots }
    }

    fn looking(&self) -> MutexGuard<'_, Looking> {
        self.0.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Viewer {
    /// What there is to see now.
    pub(super) async fn snapshot(mut self) -> Arc<Snapshot> {
        let found =
            self.snapshots.wait_for(|snapshot| snapshot.at_ms > 0 || snapshot.fault.is_some());
        match tokio::time::timeout(REDIS_REPLY_TIMEOUT, found).await {
            Ok(Ok(snapshot)) => snapshot.clone(),
            _ => {
                let fault = Some("redis does not answer".to_owned());
                Arc::new(Snapshot { fault, ..Snapshot::default() })
            }
        }
    }

    /// The next snapshot. Cancel safe.
    pub(super) async fn next(&mut self) -> Arc<Snapshot> {
        // The sender lives as long as the gatherer that this one holds.
        let _ = self.snapshots.changed().await;
        self.snapshots.borrow_and_update().clone()
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let mut looking = self.gatherer.looking();
        looking.viewers -= 1;
        if let Some(client) = &self.client
            && let Some(count) = looking.at.get_mut(client)
        {
            *count -= 1;
            if *count == 0 {
                looking.at.remove(client);
            }
        }
    }
}

async fn detail(hub: &Hub, row: ClientRow) -> Result<Detail, StoreError> {
    let (redis, keys, client) = (&hub.redis, &hub.keys, &row.client);
    let up = fleet::recent_up(redis, keys, client).await?;
    let down = fleet::recent_down(redis, keys, client).await?;
    let losses = match row.lost + row.origin.lost {
        0 => Vec::new(),
        _ => fleet::recent_losses(redis, keys, client).await?,
    };
    Ok(Detail { row, up, down, losses })
}
