//! The pure part of the chaos run: faults and load drawn from a seed, and the verdict on the outcome. The
//! processes are in `src/bin/chaos`.

pub mod history;
pub mod ledger_claims;
pub mod fault;
pub mod load;
pub mod node_fault;
pub mod checker;
