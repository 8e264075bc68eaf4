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
