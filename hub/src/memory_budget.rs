//! Memory budget: the bytes that a hub process may hold for all clients together.
//!
//! Request bodies, frames, their entries and pending answers are charged before they are read and
//! released afterwards. A client may hold no more than is left for all others: one alone gets half
//! of the budget, six get a seventh each, and a seventh stays free for the next (dynamic
//! thresholds, Choudhury and Hahne 1998). The last part is reserved for small requests. A request
//! that does not fit waits; after its timeout it is refused.
//!
//! Rejected: a fixed share per client (a few would be slow while memory is unused), and one queue
//! for all (six greedy clients fill it ahead of the seventh).

mod shares;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::limits::{BUDGET_SCAN_MAX, BUDGET_WAITERS_MAX};
use http::StatusCode;
use spoke_diagnostics::metrics::{Counter, MetricsPage};
use spoke_protocol::{ClientId, reconnect_wait};
use spoke_service::api_error::ApiError;
use tokio::sync::oneshot;

use self::shares::ClientShares;

/// Budget of a hub process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct MemoryBudget(Arc<BudgetInner>);

struct BudgetInner {
    state: Mutex<BudgetState>,
    waited: Counter,
    refused: Counter,
}

struct BudgetState {
    shares: ClientShares,
    queue: VecDeque<BudgetWaiter>,
}

struct BudgetWaiter {
    client: ClientId,
    bytes: usize,
    granted: oneshot::Sender<MemoryCharge>,
}

/// Bytes held by a client; released on drop.
pub(crate) struct MemoryCharge {
    budget: MemoryBudget,
    client: ClientId,
    bytes: usize,
}

impl MemoryBudget {
    /// Creates a budget of this many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(BudgetInner {
            state: Mutex::new(BudgetState {
                shares: ClientShares::new(bytes),
                queue: VecDeque::new(),
            }),
            waited: Counter::default(),
            refused: Counter::default(),
        }))
    }

    /// Waits for this many bytes. Cancel safe.
    ///
    /// # Errors
    /// 503 if they were not free within `patience`.
    pub(crate) async fn take(
        &self,
        client: &ClientId,
        bytes: usize,
        patience: Duration,
    ) -> Result<MemoryCharge, ApiError> {
        let waiting = match self.ask(client, bytes) {
            ChargeRequest::Taken(charge) => return Ok(charge),
            ChargeRequest::Waits(waiting) => waiting,
            ChargeRequest::TooMany => return Err(self.refuse()),
        };
        self.0.waited.add(1);
        match tokio::time::timeout(patience, waiting).await {
            Ok(Ok(charge)) => Ok(charge),
            Ok(Err(_)) | Err(_) => Err(self.refuse()),
        }
    }

    /// Takes this many bytes if they are free now.
    pub(crate) fn try_take(&self, client: &ClientId, bytes: usize) -> Option<MemoryCharge> {
        let mut state = self.lock();
        let bytes = state.shares.clamp(bytes);
        if !state.shares.admits(client, bytes) {
            return None;
        }
        state.shares.take(client, bytes);
        drop(state);
        Some(self.charge(client, bytes))
    }

    /// Takes the bytes immediately, even above the budget, for data already in memory. Others wait
    /// longer.
    pub(crate) fn take_now(&self, client: &ClientId, bytes: usize) -> MemoryCharge {
        self.lock().shares.take(client, bytes);
        self.charge(client, bytes)
    }

    /// Writes the metrics.
    pub(crate) fn write(&self, page: &mut MetricsPage) {
        let (used, total) = {
            let state = self.lock();
            (state.shares.used(), state.shares.total())
        };
        page.gauge("spoke_hub_budget_bytes", "Bytes in use of the memory budget.", &used);
        page.gauge("spoke_hub_budget_bytes_max", "The memory budget in bytes.", &total);
        let help = "Requests and frames that waited for the memory budget.";
        page.counter("spoke_hub_budget_waits_total", help, &self.0.waited);
        let help = "Requests and frames refused after they waited for the memory budget.";
        page.counter("spoke_hub_budget_refusals_total", help, &self.0.refused);
    }

    fn ask(&self, client: &ClientId, bytes: usize) -> ChargeRequest {
        if let Some(charge) = self.try_take(client, bytes) {
            return ChargeRequest::Taken(charge);
        }
        let mut state = self.lock();
        let bytes = state.shares.clamp(bytes);
        if state.queue.len() >= BUDGET_WAITERS_MAX {
            state.queue.retain(|waiter| !waiter.granted.is_closed());
        }
        if state.queue.len() >= BUDGET_WAITERS_MAX {
            return ChargeRequest::TooMany;
        }
        let (granted, waiting) = oneshot::channel();
        state.queue.push_back(BudgetWaiter { client: client.clone(), bytes, granted });
        ChargeRequest::Waits(waiting)
    }

    fn give_back(&self, client: &ClientId, bytes: usize) {
        let mut state = self.lock();
        state.shares.give_back(client, bytes);
        // A waiter that timed out drops its grant, which releases the bytes.
        let granted = state.grant();
        drop(state);
        for BudgetWaiter { client, bytes, granted } in granted {
            let _ = granted.send(self.charge(&client, bytes));
        }
    }

    fn charge(&self, client: &ClientId, bytes: usize) -> MemoryCharge {
        MemoryCharge { budget: self.clone(), client: client.clone(), bytes }
    }

    fn refuse(&self) -> ApiError {
        self.0.refused.add(1);
        let message = "the hub's memory budget is in use; retry the request later";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
            .retry_after(reconnect_wait(0, rand::random()).as_secs())
    }

    fn lock(&self) -> MutexGuard<'_, BudgetState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum ChargeRequest {
    Taken(MemoryCharge),
    Waits(oneshot::Receiver<MemoryCharge>),
    TooMany,
}

impl BudgetState {
    /// Takes bytes for the oldest waiters that may have them now.
    fn grant(&mut self) -> Vec<BudgetWaiter> {
        let mut granted = Vec::new();
        let mut left = VecDeque::with_capacity(self.queue.len().min(BUDGET_SCAN_MAX));
        for _ in 0..BUDGET_SCAN_MAX {
            let Some(waiter) = self.queue.pop_front() else { break };
            if waiter.granted.is_closed() {
                continue;
            }
            if self.shares.admits(&waiter.client, waiter.bytes) {
                self.shares.take(&waiter.client, waiter.bytes);
                granted.push(waiter);
            } else {
                left.push_back(waiter);
            }
        }
        left.append(&mut self.queue);
        self.queue = left;
        granted
    }
}

impl MemoryCharge {
    /// Returns the number of bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Grows or shrinks to `bytes`. The held bytes are kept while waiting, so use a short timeout:
    /// two holders can wait for each other.
    ///
    /// # Errors
    /// 503 if the bytes were not free within `patience`.
    pub(crate) async fn resize(
        &mut self,
        bytes: usize,
        patience: Duration,
    ) -> Result<(), ApiError> {
        if let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) {
            let more = self.budget.clone().take(&self.client, more, patience).await?;
            self.merge(more);
        } else {
            self.shrink(bytes);
        }
        Ok(())
    }

    /// Adds the bytes of another charge of the same client.
    pub(crate) fn merge(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Releases all but `bytes`.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        if less > 0 {
            self.bytes -= less;
            self.budget.give_back(&self.client, less);
        }
    }
}

impl Drop for MemoryCharge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.give_back(&self.client, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests;
