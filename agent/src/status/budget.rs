//! The traffic budget in the status.

use std::future::pending;

use spoke_diagnostics::unix_ms;

use super::{AgentState, Failure, StatusHandle};
use crate::budget::{BudgetPass, BudgetPhase, BudgetUse};

impl StatusHandle {
    /// Takes what is used of the budget. Notifies receivers only if what it allows has changed.
    pub(crate) fn post_budget(&self, usage: BudgetUse) {
        self.status.send_if_modified(|status| {
            let before = status.budget.replace(usage);
            before.map(|before| before.state) != Some(usage.state)
        });
    }

    /// Records that the agent waits for the next period, or for an urgent entry.
    pub(crate) fn post_budget_wait(&self, message: String, until_ms: u64) {
        let is_known = {
            let status = self.status.borrow();
            let why = status.why.as_ref().map(|why| &why.message);
            status.state == AgentState::Waiting
                && why == Some(&message)
                && status.next_try_ms == Some(until_ms)
        };
        if is_known {
            return;
        }
        self.post(AgentState::Waiting, |status| {
            let cause = "budget".to_owned();
            status.why = Some(Failure { cause, message, at_ms: unix_ms() });
            status.next_try_ms = Some(until_ms);
        });
    }

    /// Resolves when the budget does not allow a session with this pass any more.
    pub(crate) async fn budget_spent(&self, pass: BudgetPass) {
        let is_spent = |phase: BudgetPhase| match pass {
            BudgetPass::All => phase != BudgetPhase::Open,
            BudgetPass::UpTo(_) => phase == BudgetPhase::Spent,
        };
        let mut changes = self.subscribe();
        let is_over = |usage: &BudgetUse| is_spent(usage.state);
        if changes.wait_for(|status| status.budget.as_ref().is_some_and(is_over)).await.is_err() {
            pending::<()>().await;
        }
    }
}
