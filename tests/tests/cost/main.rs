//! What measures its own memory or time.

mod fuzz;
mod scripts;
