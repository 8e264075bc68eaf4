//! The traffic budget in the status.

use spoke_diagnostics::unix_ms;

use super::{AgentState, Failure, StatusHandle};
use crate::budget::BudgetUse;

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
        self.post(AgentState::Waiting, |status| {
            let cause = "budget".to_owned();
            status.why = Some(Failure { cause, message, at_ms: unix_ms() });
            status.next_try_ms = Some(until_ms);
        });
    }
}
