//! The bounds of auth, each with its reason.
//!
//! A bound that an operator may need to change is a setting. The others are fixed.

use std::time::Duration;

// ---- Connections ------------------------------------------------------------------------------

/// Live session tokens of one client; a further login ends the oldest.
pub const TOKENS_PER_CLIENT_MAX: usize = 16;
/// Life of a token after it was refreshed: the response may have been lost.
pub const REFRESHED_LIFE: Duration = Duration::from_secs(10 * 60);
/// Calls of a script that may end a client's sessions: one to learn which they are, and one for each time that they
/// changed in between.
pub const SESSION_CALLS_MAX: usize = 5;
/// Minimum of the setting `session_ttl_seconds`: a device asks for its next token after half of that, and a response
/// may take as long as bcrypt is queued.
pub const SESSION_TTL_SECONDS_MIN: u64 = 60;

// ---- Auth -------------------------------------------------------------------------------------

/// Bytes of one body sent to auth: a client, a secret and a code, with long escapes.
pub const AUTH_BODY_BYTES_MAX: usize = 8 * 1024;
/// Wrong codes and proofs for one client, until its deadline and over all auth processes; then its codes are locked.
/// Each code of six digits has three chances in a million, so the chance to guess one client's is
/// 100 × 3/10⁶ = 0.03 %. Agents register with a proof, which stays valid.
pub const WRONG_CODES_MAX: u32 = 100;
/// Wrong codes and proofs for all clients together in [`WRONG_CODES_ALL_WINDOW`]; then a client's are locked at
/// [`WRONG_CODES_FEW`]. The chance to guess the code of any of 400 waiting devices is (1,000 + 400) × 3/10⁶ = 0.4 %,
/// where a hundred for each would be 11 %.
pub const WRONG_CODES_ALL_MAX: u32 = 1000;
/// Window of [`WRONG_CODES_ALL_MAX`]: the default time to register.
pub const WRONG_CODES_ALL_WINDOW: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Wrong codes for one client while there are too many for all. The first is checked: it may be right.
pub const WRONG_CODES_FEW: u32 = 1;
/// Clients and addresses with rate limits in use; some 20 MB for all.
pub const RATE_LIMIT_KEYS_MAX: usize = 100_000;
