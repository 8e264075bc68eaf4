//! Auth's own bounds, each with its reason.
//!
//! What a user may need to move is a setting whose default stands here; the rest is fixed.

use std::time::Duration;

// ---- Connections ------------------------------------------------------------------------------

/// Live session tokens of one client; a further login ends the oldest.
pub const TOKENS_PER_CLIENT_MAX: usize = 16;
/// How long a token stays good once it was refreshed: the answer may have got lost.
pub const REFRESHED_LIFE: Duration = Duration::from_secs(10 * 60);
/// The least that `session_ttl_seconds` can be set to: a device asks for its next token after half of that,
/// and an answer of auth may take as long as a bcrypt waits for its turn.
pub const SESSION_TTL_SECONDS_MIN: u64 = 60;

// ---- Auth -------------------------------------------------------------------------------------

/// Bytes of one body sent to auth: a name, a secret and a code, with room for long escapes.
pub const AUTH_BODY_BYTES_MAX: usize = 8 * 1024;
/// Wrong codes and proofs for one client, over the whole window of its deadline and all auth processes
/// together; then its codes are locked. Each of six digits has three chances in a million, so one device is
/// guessed with a chance of 100 × 3/10⁶ = 0.03 %. Agents register with a proof, which stays good.
pub const WRONG_CODES_MAX: u32 = 100;
/// Wrong codes and proofs for all clients together in `WRONG_CODES_ALL_WINDOW`; then a client's are locked
/// at `WRONG_CODES_FEW`. That any of 400 devices that wait is guessed has a chance of
/// (1,000 + 400) × 3/10⁶ = 0.4 %, where a hundred for each would be 11 %.
pub const WRONG_CODES_ALL_MAX: u32 = 1000;
/// How long those of all clients are counted together: as long as a client waits by default.
pub const WRONG_CODES_ALL_WINDOW: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Wrong codes for one client while there are too many for all. The first is looked at: it may be right.
pub const WRONG_CODES_FEW: u32 = 1;
/// Names and addresses whose rate auth watches at a time; some 20 MB when all are in use.
pub const THROTTLE_KEYS_MAX: usize = 100_000;
