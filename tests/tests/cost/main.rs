//! Tests that measure memory or time themselves.

mod append_batch;
mod append_groups;
mod fair_groups;
mod fuzz;
mod idle_memory;
mod memory_limit;
mod origin_groups;
mod scripts;
