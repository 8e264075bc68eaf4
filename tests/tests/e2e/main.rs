//! Entries from end to end, with the real programs.

mod carry;
mod client_rate;
mod dead_letters;
mod cluster_demo;
mod demo;
mod duplicate_identity;
mod fleet;
mod traffic_budget;
