//! The memory budget: how many bytes a hub process may have in hand at a time, for all clients together.
//!
//! Bodies, frames, the entries made of them and the answers under way are charged before they are
//! read, and given back when they are done with. A client may hold no more than is left for all others:
//! one alone has half of the budget, six have a seventh each, and a seventh of it is free for the next
//! (dynamic thresholds, Choudhury and Hahne 1998). The last part is for small requests only. What does
//! not fit waits; what waits too long is refused.
//!
//! Rejected: a part of fixed size for each client (a few would be slow while the memory lies idle), and
//! one queue for all (six greedy clients fill it in front of the seventh).

mod ledger;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::limits::{BUDGET_SCAN_MAX, BUDGET_WAITERS_MAX};
use http::StatusCode;
use spoke_diagnostics::metrics::{Counter, MetricsPage};
use spoke_protocol::{backoff::reconnect_wait, client_id::ClientId};
use spoke_service::api_error::ApiError;
use tokio::sync::oneshot;

use self::ledger::Ledger;

/// The budget of a hub process. Cheap to clone.
#[derive(Clone)]
pub struct Budget(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    waited: Counter,
    refused: Counter,
}

struct State {
    ledger: Ledger,
    queue: VecDeque<Waiter>,
}

struct Waiter {
    client: ClientId,
    bytes: usize,
    granted: oneshot::Sender<Charge>,
}

/// Bytes that a client has in hand; given back when this is dropped.
pub struct Charge {
    budget: Budget,
    client: ClientId,
    bytes: usize,
}

impl Budget {
    /// Of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State { ledger: Ledger::new(bytes), queue: VecDeque::new() }),
            waited: Counter::default(),
            refused: Counter::default(),
        }))
    }

    /// Waits for so many bytes. Cancel safe.
    ///
    /// # Errors
    /// 503 when they could not be had in time.
    pub async fn take(
        &self,
        client: &ClientId,
        bytes: usize,
        patience: Duration,
    ) -> Result<Charge, ApiError> {
        let waiting = match self.ask(client, bytes) {
            Asked::Taken(charge) => return Ok(charge),
            Asked::Waits(waiting) => waiting,
            Asked::TooMany => return Err(self.refuse()),
        };
        self.0.waited.add(1);
        match tokio::time::timeout(patience, waiting).await {
            Ok(Ok(charge)) => Ok(charge),
            Ok(Err(_)) | Err(_) => Err(self.refuse()),
        }
    }

    /// Takes them at once, above the budget too: for what is in memory already. Others wait the longer.
    pub fn take_now(&self, client: &ClientId, bytes: usize) -> Charge {
        self.lock().ledger.take(client, bytes);
        self.charge(client, bytes)
    }

    /// Writes the figures.
    pub fn write(&self, page: &mut MetricsPage) {
        let (used, total) = {
            let state = self.lock();
            (state.ledger.used(), state.ledger.total())
        };
        page.gauge("spoke_hub_budget_bytes", "Bytes in hand of the memory budget.", &used);
        page.gauge("spoke_hub_budget_bytes_max", "The memory budget in bytes.", &total);
        let help = "Requests and frames that waited for the memory budget.";
        page.counter("spoke_hub_budget_waits_total", help, &self.0.waited);
        let help = "Requests and frames that waited for it in vain.";
        page.counter("spoke_hub_budget_refusals_total", help, &self.0.refused);
    }

    fn ask(&self, client: &ClientId, bytes: usize) -> Asked {
        let mut state = self.lock();
        let bytes = state.ledger.clamp(bytes);
        if state.ledger.admits(client, bytes) {
            state.ledger.take(client, bytes);
            drop(state);
            return Asked::Taken(self.charge(client, bytes));
        }
        if state.queue.len() >= BUDGET_WAITERS_MAX {
            state.queue.retain(|waiter| !waiter.granted.is_closed());
        }
        if state.queue.len() >= BUDGET_WAITERS_MAX {
            return Asked::TooMany;
        }
        let (granted, waiting) = oneshot::channel();
        state.queue.push_back(Waiter { client: client.clone(), bytes, granted });
        Asked::Waits(waiting)
    }

    fn give_back(&self, client: &ClientId, bytes: usize) {
        let mut state = self.lock();
        state.ledger.give_back(client, bytes);
        // One that does not wait any more gives its grant back as this one does: by being dropped.
        let granted = state.grant();
        drop(state);
        for Waiter { client, bytes, granted } in granted {
            let _ = granted.send(self.charge(&client, bytes));
        }
    }

    fn charge(&self, client: &ClientId, bytes: usize) -> Charge {
        Charge { budget: self.clone(), client: client.clone(), bytes }
    }

    fn refuse(&self) -> ApiError {
        self.0.refused.add(1);
        let message = "the hub has as much in hand as its memory budget allows; what you sent may be \
                       sent again";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
            .retry_after(reconnect_wait(0, rand::random()).as_secs())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Asked {
    Taken(Charge),
    Waits(oneshot::Receiver<Charge>),
    TooMany,
}

impl State {
    /// Takes bytes for the oldest waiters that may have them now.
    fn grant(&mut self) -> Vec<Waiter> {
        let mut granted = Vec::new();
        let mut left = VecDeque::with_capacity(self.queue.len().min(BUDGET_SCAN_MAX));
        for _ in 0..BUDGET_SCAN_MAX {
            let Some(waiter) = self.queue.pop_front() else { break };
            if waiter.granted.is_closed() {
                continue;
            }
            if self.ledger.admits(&waiter.client, waiter.bytes) {
                self.ledger.take(&waiter.client, waiter.bytes);
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

impl Charge {
    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Waits for more, up to `bytes` together, while what is held is kept: not for long, or two that
    /// hold something wait for each other. With fewer, some are given back.
    ///
    /// # Errors
    /// 503 when they could not be had in time.
    pub async fn resize(&mut self, bytes: usize, patience: Duration) -> Result<(), ApiError> {
        if let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) {
            let more = self.budget.clone().take(&self.client, more, patience).await?;
            self.merge(more);
        } else {
            self.shrink(bytes);
        }
        Ok(())
    }

    /// Takes over another one of the same client.
    pub fn merge(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives back all but `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        if less > 0 {
            self.bytes -= less;
            self.budget.give_back(&self.client, less);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.give_back(&self.client, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests;
