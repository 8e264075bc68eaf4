//! Tests that measure memory or time themselves.

mod fuzz;
mod memory_limit;
mod scripts;
