//! Tests that measure memory or time themselves.

mod fuzz;
mod scripts;
