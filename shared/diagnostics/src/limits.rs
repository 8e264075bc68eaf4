//! What the log is bounded by, each with its reason.
//!
//! What a user may need to move is a setting whose default stands here; the rest is fixed.

use std::time::Duration;

// ---- Log --------------------------------------------------------------------------------------

/// How often it is said that a fault goes on: 1,440 lines a day at most of each kind.
pub const LOG_SUMMARY_INTERVAL: Duration = Duration::from_secs(60);
/// Kinds of repeated faults that are told apart at a time; strangers can make any number.
pub const LOG_KINDS_MAX: usize = 64;
