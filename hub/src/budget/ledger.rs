//! Who holds how much of the budget, and who may have more.

use std::collections::HashMap;

use crate::limits::{BUDGET_SMALL_BYTES, BUDGET_SMALL_SHARE};
use spoke_protocol::client_id::ClientId;

/// The bytes that each client holds.
pub(super) struct Ledger {
    total: usize,
    used: usize,
    held: HashMap<ClientId, usize>,
}

impl Ledger {
    pub(super) fn new(total: usize) -> Self {
        Self { total, used: 0, held: HashMap::new() }
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }

    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// No more than can ever be had: half of what is not kept for small ones.
    pub(super) fn clamp(&self, bytes: usize) -> usize {
        bytes.min((self.total - self.total / BUDGET_SMALL_SHARE) / 2)
    }

    /// Whether a client may take so many bytes now: they are free, and afterwards it holds no more than
    /// is left for all others. One that holds nothing may have whatever is free.
    pub(super) fn admits(&self, client: &ClientId, bytes: usize) -> bool {
        let is_small = bytes <= BUDGET_SMALL_BYTES;
        let kept = if is_small { 0 } else { self.total / BUDGET_SMALL_SHARE };
        let Some(free) = self.total.saturating_sub(self.used).checked_sub(kept) else {
            return false;
        };
        let Some(left) = free.checked_sub(bytes) else { return false };
        match self.held.get(client) {
            None => true,
            Some(held) => held + bytes <= left,
        }
    }

    pub(super) fn take(&mut self, client: &ClientId, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.used += bytes;
        *self.held.entry(client.clone()).or_default() += bytes;
    }

    pub(super) fn give_back(&mut self, client: &ClientId, bytes: usize) {
        self.used -= bytes;
        if let Some(held) = self.held.get_mut(client) {
            *held -= bytes;
            if *held == 0 {
                self.held.remove(client);
            }
        }
    }
}
