//! Bytes of the budget that each client holds, and whether it may take more.

use std::collections::HashMap;

use crate::limits::{BUDGET_SMALL_BYTES, BUDGET_SMALL_SHARE};
use spoke_protocol::ClientId;

/// Held bytes by client.
pub(super) struct ClientShares {
    total: usize,
    used: usize,
    held: HashMap<ClientId, usize>,
}

impl ClientShares {
    pub(super) fn new(total: usize) -> Self {
        Self { total, used: 0, held: HashMap::new() }
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }

    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Limits a request to what can ever be free: half of the budget without the part for small
    /// requests.
    pub(super) fn clamp(&self, bytes: usize) -> usize {
        bytes.min((self.total - self.total / BUDGET_SMALL_SHARE) / 2)
    }

    /// Returns whether a client may take this many bytes: they are free, and it then holds no more
    /// than is left for all others. A client without bytes may take all that are free.
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
