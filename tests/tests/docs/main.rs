//! The documents, the logs and the structure of the code.

mod advisories;
mod harness;
mod invariants;
mod journald;
mod logs;
mod pages;
mod structure;
mod troubleshooting;
