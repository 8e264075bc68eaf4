//! What the documents promise, and how the code is built.

mod advisories;
mod harness;
mod journald;
mod logs;
mod pages;
mod structure;
mod troubleshooting;
