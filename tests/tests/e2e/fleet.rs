//! Many agents and several hubs: guarantees.md section 3, rows 11 and 12; shutdown of a hub, and different
//! versions.

#![expect(clippy::unwrap_used, reason = "this is a test, its helpers included")]

mod drain;
mod forms;
#[path = "../../../shared/protocol/src/wire/golden.rs"]
mod golden;
mod rolling;
mod storm;
mod versions;
