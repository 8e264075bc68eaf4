//! The limits of the agent, each with its reason.
//!
//! A limit that an operator may need to change is a setting, with its default here. The others are
//! fixed.

use std::time::Duration;

// ---- Time -------------------------------------------------------------------------------------

/// Minimum of the setting `progress_timeout_ms`: a round trip over a slow link takes a part of it.
pub(crate) const PROGRESS_TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// Delay before the agent checks again whether the device's Redis accepts writes.
pub(crate) const OWN_REDIS_RETRY: Duration = Duration::from_secs(1);
/// Interval of retries for a state directory that cannot be opened or written.
pub(crate) const STATE_RETRY: Duration = Duration::from_secs(2);
/// First and longest delay between attempts to connect.
pub const CONNECT_RETRY: (Duration, Duration) =
    (Duration::from_millis(500), Duration::from_secs(60));
/// The longest delay at the start of an outage, and the duration of this start. The agent is not
/// notified when a network is back, and has to reconnect within 5 s of it. Later, an attempt costs
/// more than it is likely to gain.
pub(crate) const CONNECT_SOON: (Duration, Duration) =
    (Duration::from_secs(4), Duration::from_secs(10 * 60));
/// First and longest delay between attempts to register, or to log in after a 401: an operator has
/// to act first.
pub const REFUSED_RETRY: (Duration, Duration) =
    (Duration::from_secs(60), Duration::from_secs(60 * 60));

// ---- State directory --------------------------------------------------------------------------

/// Maximum number of bytes read from a file of the state directory. The largest, `session`, holds a
/// token and two names, a few hundred bytes. The agent never writes a longer file.
pub(crate) const STATE_FILE_BYTES_MAX: u64 = 64 * 1024;
/// The longest wait before a batch that was refused with 429 `too-fast` is sent again in the same session, which
/// gives up a link that acknowledges nothing for 30 s.
pub(crate) const TOO_FAST_WAIT_MAX: Duration = Duration::from_secs(20);

// ---- Traffic budget -----------------------------------------------------------------------------

/// The minimum of the setting `budget`: a login and a session over TLS take about 20 kB.
pub(crate) const BUDGET_BYTES_MIN: u64 = 100_000;
/// Percent of the budget for urgent entries, if there are any.
pub(crate) const BUDGET_RESERVE_PERCENT: u64 = 5;
/// The number of times that the count is written down in a period: what a crash may cost, and what it wears
/// the device's disk.
pub(crate) const BUDGET_RECORD_STEPS: u64 = 100;
/// The maximum number of batches in flight under a budget, of half a percent of it each.
pub(crate) const BUDGET_WINDOW_BATCHES: usize = 4;
/// The minimum of such a batch in bytes.
pub(crate) const BUDGET_BATCH_BYTES_MIN: usize = 4 * 1024;
/// How often the count is looked at, if no bound is reached before.
pub(crate) const BUDGET_LOOK: Duration = Duration::from_secs(1);
