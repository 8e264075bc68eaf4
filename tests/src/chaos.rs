//! The pure half of the chaos run: what goes wrong and what is offered, drawn from a seed, and the
//! judgement of what came of it. The processes are in `src/bin/chaos`.

pub mod history;
pub mod ledger_claims;
pub mod fault;
pub mod load;
pub mod checker;
