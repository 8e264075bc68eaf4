//! The agent's own bounds, each with its reason.
//!
//! What a user may need to move is a setting whose default stands here; the rest is fixed.

use std::time::Duration;

// ---- Time -------------------------------------------------------------------------------------

/// The least that it can be set to: a round trip over a slow link takes a part of it.
pub const PROGRESS_TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// How long an agent waits before it looks again whether its own Redis takes writes.
pub const OWN_REDIS_RETRY: Duration = Duration::from_secs(1);
/// How often a state directory that cannot be used, or did not take a few hundred bytes, is tried again.
pub const STATE_RETRY: Duration = Duration::from_secs(2);
/// First and longest wait between tries to connect.
pub const CONNECT_RETRY: (Duration, Duration) =
    (Duration::from_millis(500), Duration::from_secs(60));
/// The longest wait while an outage is young, and for how long it is: nobody is told when a network is back,
/// and within 5 s of that all is to work again. Later a try costs more than it is likely to bring.
pub const CONNECT_SOON: (Duration, Duration) =
    (Duration::from_secs(4), Duration::from_secs(10 * 60));
/// First and longest wait between tries to register, or to log in after a 401: a person has to act first.
pub const REFUSED_RETRY: (Duration, Duration) =
    (Duration::from_secs(60), Duration::from_secs(60 * 60));

// ---- Auth -------------------------------------------------------------------------------------

/// Bytes that are read of a file in the agent's state directory. The largest, `session`, holds a token and
/// two names, some hundred bytes; whatever is longer was not written by the agent.
pub const STATE_FILE_BYTES_MAX: u64 = 64 * 1024;
