//! The traffic budget of a device: how many bytes it may send and receive in a period.
//!
//! Bytes are counted at the socket, in both directions, with TLS and HTTP: what a network plan
//! counts, but for the headers of IP and TCP. Periods are those of the calendar in UTC, as a plan
//! has them. Once the budget is used up the link stays closed until the period ends, and entries
//! wait in the out stream. With `budget_urgent` the last part of the budget is for urgent entries:
//! since order is kept, an urgent entry lets everything before it pass.
//!
//! Rejected: a token bucket, which smooths traffic but lets a device use nearly twice the budget
//! of a plan's month; and an open idle link, whose heartbeats alone take some hundred KB a day.

mod traffic;
mod ledger;
mod keeper;
mod period;
mod urgent;

pub use self::traffic::{BadTrafficBudget, BadUrgentField, TrafficBudget, UrgentField};
pub(crate) use self::{
    keeper::BudgetKeeper,
    ledger::{BudgetPhase, BudgetUse},
    traffic::empty_is_none,
    urgent::{BudgetPass, UrgentScan},
};
