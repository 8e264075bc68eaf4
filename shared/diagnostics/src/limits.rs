//! The limits of the log, each with its reason.

use std::time::Duration;

// ---- Log --------------------------------------------------------------------------------------

/// How often repeated faults are summed up: at most 1,440 lines a day for each kind.
pub const LOG_SUMMARY_INTERVAL: Duration = Duration::from_secs(60);
/// The maximum number of kinds of repeated faults that are counted apart, since peers can cause any number.
pub const LOG_KINDS_MAX: usize = 64;
