//! Many agents and several hubs: guarantees.md section 3, rows 11 and 12.

#![expect(clippy::unwrap_used, reason = "this is a test, its helpers included")]

mod drain;
mod rolling;
mod storm;
