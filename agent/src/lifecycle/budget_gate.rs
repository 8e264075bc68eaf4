//! The wait for the traffic budget: between two connections, until a period ends or an urgent entry
//! may use the reserve.

use spoke_diagnostics::error_chain;
use spoke_protocol::Seq;
use spoke_store::StoreError;
use tracing::{debug, info};

use super::{Lifecycle, STEP_TIMEOUT};
use crate::{
    budget::{BudgetPass, BudgetPhase, BudgetUse, UrgentField, UrgentScan},
    limits::STATE_RETRY,
};

impl Lifecycle {
    /// Waits until the budget allows a connection, and returns what it may send. Returns none at
    /// the shutdown, and if another state directory was mounted.
    pub(super) async fn wait_for_budget(&mut self) -> Option<BudgetPass> {
        if self.parts.config.budget.is_none() {
            return Some(BudgetPass::All);
        }
        let mut changes = self.parts.status.subscribe();
        let news = self.parts.hints.watch_stream(self.origin.key());
        loop {
            let usage = changes.borrow_and_update().budget;
            match usage.map(|usage| usage.state) {
                Some(BudgetPhase::Open) => {
                    self.urgent = UrgentScan::default();
                    return Some(BudgetPass::All);
                }
                Some(BudgetPhase::Reserve) => match self.urgent_entry().await {
                    Ok(Some(seq)) => {
                        info!(%seq, "connecting for an urgent entry");
                        return Some(BudgetPass::UpTo(seq));
                    }
                    Ok(None) => {}
                    Err(error) => {
                        debug!(error = error_chain(&error), "failed to look for urgent entries");
                    }
                },
                Some(BudgetPhase::Spent) | None => {}
            }
            if let Some(usage) = usage {
                let message = wait_message(&usage, self.parts.config.budget_urgent.as_ref());
                self.parts.status.post_budget_wait(message, usage.until_ms);
                changes.mark_unchanged();
            }
            self.extend_watchdog(STEP_TIMEOUT);
            tokio::select! {
                () = self.parts.shutdown.begun() => return None,
                _ = changes.changed() => {}
                () = news.changed() => news.handle_read_through(self.urgent.through()),
                () = tokio::time::sleep(STATE_RETRY) => {}
            }
            if self.parts.authenticator.is_replaced() {
                return None;
            }
        }
    }

    /// Returns the last urgent entry that is not acknowledged.
    async fn urgent_entry(&mut self) -> Result<Option<Seq>, StoreError> {
        let Some(urgent) = &self.parts.config.budget_urgent else { return Ok(None) };
        let acked = self.origin.last_known_standing().await?.memory.acked.seq;
        self.urgent.look(&self.origin, urgent, acked).await
    }
}

fn wait_message(usage: &BudgetUse, urgent: Option<&UrgentField>) -> String {
    let BudgetUse { budget, state, .. } = usage;
    match (state, urgent) {
        (BudgetPhase::Reserve, Some(urgent)) => {
            format!("the rest of the budget of {budget} is for urgent entries ({urgent})")
        }
        _ => format!("the budget of {budget} is used up"),
    }
}
