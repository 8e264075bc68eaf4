//! The hub's own bounds, each with its reason.
//!
//! What a user may need to move is a setting whose default stands here; the rest is fixed.

use std::time::Duration;

use spoke_service::limits::CONNECTIONS_MAX;

// ---- Batches, windows, frames ---------------------------------------------------------------------

/// Clients whose weak paths a hub remembers, some 250 bytes each: as many as it has connections.
pub const PATHS_MAX: usize = CONNECTIONS_MAX;
/// A hub's socket that handled a larger message lets go of its buffers as soon as they are empty: ten
/// thousand agents that were busy keep 40 MiB each way at the most, and an entry that comes alone is
/// smaller.
pub const SOCKET_BYTES_KEPT: usize = 4 * 1024;
/// Bytes of a frame before the handshake: HELLO has some 700 at the most.
pub const HELLO_BYTES_MAX: usize = 4 * 1024;

// ---- Streams ----------------------------------------------------------------------------------

/// How often a hub looks whether the in stream is to be trimmed.
pub const TRIM_INTERVAL: Duration = Duration::from_secs(1);
/// Seconds that an entry of the in stream is kept for, be there more than `in_max_len`: no burst of one
/// client drops what another has just seen acknowledged.
pub const IN_MIN_AGE_SECONDS: u64 = 60;

// ---- Presence ---------------------------------------------------------------------------------

/// Bells that a hub may be behind with; one that is missed is made good by the fence.
pub const BELLS_MAX: usize = 1024;
/// How long a second device with the same identity is sent away for: a person has to act first. Its own
/// waits grow beyond, to the longest that its settings allow; so long it stays out though the other is gone.
pub const CLONE_WAIT: Duration = Duration::from_secs(15 * 60);

// ---- Connections ------------------------------------------------------------------------------

/// WebSockets and long polls of one client at a time: the newest of its sessions and the ones it replaces.
pub const CONNECTIONS_PER_CLIENT_MAX: usize = 8;
/// Sessions that one client may begin at once, and one more each `SESSION_EARNED`. An agent waits
/// longer between two; each costs a write, and two lines in the log.
pub const SESSIONS_PER_CLIENT_BURST: u32 = 60;
/// After this time a client may begin one more session.
pub const SESSION_EARNED: Duration = Duration::from_secs(1);

// ---- Memory of a hub --------------------------------------------------------------------------

/// MiB that requests, frames and answers in hand may take of a hub together. A batch of 512 KiB takes
/// three times that while it is in hand, so 170 of them find room; the rest of a hub, with ten
/// thousand idle agents, is some 200 MiB.
pub const BUDGET_MIB: usize = 256;
/// The least that it can be set to: half of it is what the largest body can become in memory.
pub const BUDGET_MIB_MIN: usize = 64;
/// What a body or frame takes besides itself and its entries: a copy for Redis, and what is on its way there.
pub const BUDGET_COPIES: usize = 3;
/// Memory of one string in an entry read from JSON: its place in the list, and the least piece that the
/// allocator gives out.
pub const BUDGET_STRING_BYTES: usize = 64;
/// A request of this size finds room in the part that is kept for small ones.
pub const BUDGET_SMALL_BYTES: usize = 64 * 1024;
/// One in so many bytes of the budget is for small requests only.
pub const BUDGET_SMALL_SHARE: usize = 16;
/// Those that wait for the budget at a time; more are refused at once. A fleet that comes back waits
/// in its sockets, one batch each.
pub const BUDGET_WAITERS_MAX: usize = 16 * 1024;
/// Of those, how many are looked at when room is given back: some microseconds.
pub const BUDGET_SCAN_MAX: usize = 256;
/// How long a request waits for the budget before it is refused.
pub const BUDGET_PATIENCE: Duration = Duration::from_secs(5);
/// How long one waits that holds some of it already.
pub const BUDGET_GROW_PATIENCE: Duration = Duration::from_secs(2);
/// How long a frame of an agent waits for the budget before its session ends: below the time after which
/// the agent gives a link up that acknowledges nothing.
pub const BUDGET_FRAME_PATIENCE: Duration = Duration::from_secs(20);
/// A body of JSON that is longer is read on a thread of its own, as a frame is: 16 KiB take 0.1 ms.
pub const PARSE_INLINE_BYTES_MAX: usize = 16 * 1024;
/// Bytes of large batches, of all clients, that a hub's Redis has in hand at a time: what a small one waits
/// for, some 5 ms.
pub const REDIS_BYTES_IN_HAND: usize = 1024 * 1024;
/// A batch that is larger waits for its place among those.
pub const REDIS_BYTES_SMALL: usize = 32 * 1024;
/// How long: a place that is held by a session which ends is not waited for any longer.
pub const REDIS_PLACE_PATIENCE: Duration = Duration::from_secs(2);

// ---- What a client may fill -------------------------------------------------------------------

/// Percent of a Redis's `maxmemory` that are kept for all clients at a slow pace, once the rest is full.
pub const RESERVE_PERCENT: u64 = 10;
/// Entries a second of one client while only the reserve is left.
pub const RESERVE_ENTRIES: u64 = 100;
/// KiB a second of one client while only the reserve is left.
pub const RESERVE_KIB: u64 = 32;
/// How much of its pace a client may be ahead when it is let through: one small batch.
pub const RESERVE_BURST: Duration = Duration::from_secs(1);
/// What a client sent before is held against it for so long when the reserve is reached: those who
/// filled most lately wait first. Below the time after which an agent gives up a link.
pub const RESERVE_DEBT_MAX: Duration = Duration::from_secs(15);
/// How long a request waits for its client's pace before it is refused with 429.
pub const RESERVE_PATIENCE: Duration = Duration::from_secs(2);
/// How often a hub asks its Redis how full it is, while entries flow, and while it is three quarters full.
pub const USAGE_INTERVAL: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_millis(100));

// ---- What operators look at -----------------------------------------------------------------------

/// Those who may look at the status page at a time: half of the admin listener's connections, so that a
/// scraper and a probe always get in.
pub const VIEWERS_MAX: usize = 32;
/// The least time between two surveys for the status page.
pub const SURVEY_INTERVAL: Duration = Duration::from_secs(2);
/// A survey that took so long is followed by so many times as long without one.
pub const SURVEY_REST: u32 = 9;
/// How far back the chart of the status page reaches.
pub const CHART_SPAN: Duration = Duration::from_secs(5 * 60);
/// Clients on one page of the status page's list.
pub const CLIENTS_SHOWN: usize = 50;
/// Bytes of an entry that the status page sends, as its JSON form: more is the work of a program.
pub const PAGE_BODY_BYTES_MAX: usize = 64 * 1024;
