//! Polls Redis for all viewers of the status page together, and only while there are viewers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use spoke_diagnostics::{error_chain, unix_ms};
use spoke_protocol::ClientId;
use spoke_service::api_error::ApiError;
use spoke_store::{
    StoreError,
    fleet::{self, ClientRow, Fleet, MissingPartitions, RecentEntries},
    limits::REDIS_REPLY_TIMEOUT,
    loss_ledger::LedgerLine,
};
use tokio::sync::{Notify, watch};

use super::chart::RateChart;
use crate::{
    client_summary::FleetTotals,
    limits::{SURVEY_INTERVAL, SURVEY_REST, VIEWERS_MAX},
    state::HubState,
};

/// Result of one poll.
#[derive(Debug, Clone, Default)]
pub(super) struct FleetSnapshot {
    /// Time in milliseconds since 1970; 0 before the first poll.
    pub(super) at_ms: u64,
    /// All clients.
    pub(super) fleet: Arc<Fleet>,
    /// Their sums.
    pub(super) totals: FleetTotals,
    /// Recent sums.
    pub(super) chart: RateChart,
    /// Details of the clients whose page is open.
    pub(super) details: HashMap<ClientId, Arc<ClientDetail>>,
    /// Reason why the data is not newer.
    pub(super) fault: Option<String>,
}

/// Details of one client.
#[derive(Debug, Clone)]
pub(super) struct ClientDetail {
    /// State of the client.
    pub(super) row: ClientRow,
    /// Recent entries from it.
    pub(super) up: RecentEntries,
    /// Recent entries to it.
    pub(super) down: RecentEntries,
    /// Its lines of the loss ledger.
    pub(super) losses: Vec<LedgerLine>,
}

/// Viewers and the latest snapshot. Cheap to clone.
#[derive(Clone)]
pub(super) struct FleetPoller(Arc<PollerInner>);

struct PollerInner {
    viewers: Mutex<ViewerCounts>,
    arrived: Notify,
    snapshot: watch::Sender<Arc<FleetSnapshot>>,
    /// Serialises the detail queries outside of polls.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct ViewerCounts {
    viewers: usize,
    at: HashMap<ClientId, usize>,
}

/// Registered viewer; removed on drop.
pub(super) struct Viewer {
    poller: FleetPoller,
    client: Option<ClientId>,
    snapshots: watch::Receiver<Arc<FleetSnapshot>>,
}

impl FleetPoller {
    pub(super) fn new() -> Self {
        Self(Arc::new(PollerInner {
            viewers: Mutex::default(),
            arrived: Notify::new(),
            snapshot: watch::Sender::new(Arc::default()),
            reading: tokio::sync::Mutex::default(),
        }))
    }

    /// Registers a viewer for one request; the listener limits their number.
    pub(super) fn view_once(&self) -> Viewer {
        self.enter(None)
    }

    /// Registers a viewer for all following snapshots, of the overview or of one client. `None` if
    /// there are too many.
    pub(super) fn follow(&self, client: Option<&ClientId>) -> Option<Viewer> {
        let has_room = self.viewers().viewers < VIEWERS_MAX;
        has_room.then(|| self.enter(client))
    }

    /// Reads the details of one client.
    ///
    /// # Errors
    /// 503 if Redis fails.
    pub(super) async fn detail(
        &self,
        hub: &HubState,
        client: &ClientId,
    ) -> Result<Option<ClientDetail>, ApiError> {
        let _turn = self.0.reading.lock().await;
        let partition = &hub.partitions.of(client).store;
        let rows = fleet::find_clients(partition, std::slice::from_ref(client), unix_ms());
        let row = hub.store_result(rows.await)?.pop();
        let Some(row) = row.filter(|row| row.last_seen.is_some()) else { return Ok(None) };
        hub.store_result(detail(hub, row).await).map(Some)
    }

    /// Polls while there are viewers, until shutdown.
    pub(super) async fn run(self, hub: Arc<HubState>) {
        loop {
            if self.viewers().viewers == 0 {
                // The next viewer must not see an old snapshot.
                let chart = self.0.snapshot.borrow().chart.clone();
                let empty = FleetSnapshot { chart, ..FleetSnapshot::default() };
                self.0.snapshot.send_replace(Arc::new(empty));
                tokio::select! {
                    () = hub.shutdown.begun() => return,
                    () = self.0.arrived.notified() => continue,
                }
            }
            let began = Instant::now();
            let snapshot = tokio::select! {
                () = hub.shutdown.begun() => return,
                snapshot = self.poll(&hub) => snapshot,
            };
            self.0.snapshot.send_replace(Arc::new(snapshot));
            let rest = SURVEY_INTERVAL.max(began.elapsed() * SURVEY_REST);
            tokio::select! {
                () = hub.shutdown.begun() => return,
                () = tokio::time::sleep(rest) => {}
            }
        }
    }

    async fn poll(&self, hub: &HubState) -> FleetSnapshot {
        let before = self.0.snapshot.borrow().clone();
        let now = unix_ms();
        let gathered = async {
            let fleet = fleet::list_clients(hub.partitions.store(), now).await?;
            let details = self.details(hub, &fleet, &before.details).await?;
            Ok::<_, StoreError>((fleet, details))
        };
        let (fleet, details) = match gathered.await {
            Ok(gathered) => gathered,
            Err(error) => {
                let fault = Some(format!("redis is unreachable: {}", error_chain(&error)));
                // Counts and logs the error.
                let _ = hub.unavailable(&error);
                return FleetSnapshot { fault, ..FleetSnapshot::clone(&before) };
            }
        };
        let totals = FleetTotals::of(&fleet, now);
        let mut chart = before.chart.clone();
        if fleet.missing.is_none() {
            chart.add(now, totals.received, totals.delivered);
        }
        let fault = partial_fault(hub, &fleet);
        FleetSnapshot { at_ms: now, fleet: Arc::new(fleet), totals, chart, details, fault }
    }

    /// Reads the details of the clients whose page is open; those of an unchanged client are
    /// reused.
    async fn details(
        &self,
        hub: &HubState,
        fleet: &Fleet,
        before: &HashMap<ClientId, Arc<ClientDetail>>,
    ) -> Result<HashMap<ClientId, Arc<ClientDetail>>, StoreError> {
        let shown: Vec<ClientId> = self.viewers().at.keys().cloned().collect();
        let mut details = HashMap::new();
        for client in shown {
            let Ok(at) = fleet.rows.binary_search_by(|row| row.client.cmp(&client)) else {
                continue;
            };
            let row = &fleet.rows[at];
            let detail = match before.get(&client) {
                Some(parse_client) if parse_client.row == *row => Ok(parse_client.clone()),
                _ => detail(hub, row.clone()).await.map(Arc::new),
            };
            match detail {
                Ok(detail) => drop(details.insert(client, detail)),
                Err(error) if fleet.missing.is_none() => return Err(error),
                // Its partition is one of those that do not answer.
                Err(_) => {}
            }
        }
        Ok(details)
    }

    fn enter(&self, client: Option<&ClientId>) -> Viewer {
        let mut viewers = self.viewers();
        viewers.viewers += 1;
        if let Some(client) = client {
            *viewers.at.entry(client.clone()).or_default() += 1;
        }
        drop(viewers);
        self.0.arrived.notify_one();
        let snapshots = self.0.snapshot.subscribe();
        Viewer { poller: self.clone(), client: client.cloned(), snapshots }
    }

    fn viewers(&self) -> MutexGuard<'_, ViewerCounts> {
        self.0.viewers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Viewer {
    /// Returns the current snapshot.
    pub(super) async fn snapshot(mut self) -> Arc<FleetSnapshot> {
        let found =
            self.snapshots.wait_for(|snapshot| snapshot.at_ms > 0 || snapshot.fault.is_some());
        match tokio::time::timeout(REDIS_REPLY_TIMEOUT, found).await {
            Ok(Ok(snapshot)) => snapshot.clone(),
            _ => {
                let fault = Some("redis is unreachable".to_owned());
                Arc::new(FleetSnapshot { fault, ..FleetSnapshot::default() })
            }
        }
    }

    /// Returns the next snapshot. Cancel safe.
    pub(super) async fn next(&mut self) -> Arc<FleetSnapshot> {
        // The sender lives as long as the poller that this viewer holds.
        let _ = self.snapshots.changed().await;
        self.snapshots.borrow_and_update().clone()
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let mut viewers = self.poller.viewers();
        viewers.viewers -= 1;
        if let Some(client) = &self.client
            && let Some(count) = viewers.at.get_mut(client)
        {
            *count -= 1;
            if *count == 0 {
                viewers.at.remove(client);
            }
        }
    }
}

/// Returns why the page is not complete, or some clients wait.
fn partial_fault(hub: &HubState, fleet: &Fleet) -> Option<String> {
    let (down, problem) = hub.partitions.down();
    match (&fleet.missing, hub.partitions.all()) {
        (Some(MissingPartitions { count, problem }), all) => {
            let partitions = all.len();
            Some(format!(
                "{count} of {partitions} partitions do not answer, and their clients are missing: {problem}"
            ))
        }
        (None, [one]) => {
            let writes = one.redis().health().problem();
            let writes = writes.map(|problem| format!("redis rejects writes: {problem}"));
            writes.or_else(|| one.writer.level_health().problem())
        }
        (None, all) => problem
            .map(|problem| format!("{down} of {} partitions reject writes: {problem}", all.len())),
    }
}

async fn detail(hub: &HubState, row: ClientRow) -> Result<ClientDetail, StoreError> {
    let (partition, client) = (&hub.partitions.of(&row.client).store, &row.client);
    let up = partition.view(fleet::recent_up(partition, client)).await?;
    let down = partition.view(fleet::recent_down(partition, client)).await?;
    let losses = match row.lost + row.origin.lost {
        0 => Vec::new(),
        _ => partition.view(fleet::recent_losses(partition, client)).await?,
    };
    Ok(ClientDetail { row, up, down, losses })
}
