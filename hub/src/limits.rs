//! Limits of the hub, each with its reason.
//!
//! Limits that an operator may need to change are defaults of settings; the others are fixed.

use std::time::Duration;

use spoke_protocol::EntryRate;
use spoke_service::limits::CONNECTIONS_MAX;

// ---- Batches, windows, frames ---------------------------------------------------------------------

/// Clients whose weak links a hub remembers, about 250 bytes each: as many as it has connections.
pub const PATHS_MAX: usize = CONNECTIONS_MAX;
/// A socket that carried a larger message frees its buffers as soon as they are empty: ten thousand
/// busy agents keep at most 40 MiB each way, and a single entry is usually smaller.
pub const SOCKET_BYTES_KEPT: usize = 4 * 1024;
/// Bytes that a socket reads at a time. What the library's smaller buffer does not take is kept until
/// it is read: one system call for 4 KiB of a large message, and nothing while a socket is idle.
pub const SOCKET_READ_BYTES: usize = 4 * 1024;
/// Bytes of a frame before the handshake: HELLO has at most about 700.
pub const HELLO_BYTES_MAX: usize = 4 * 1024;

// ---- Streams ----------------------------------------------------------------------------------

/// Approximate entries of the in stream above which it is trimmed: 150 to 300 MB of Redis with entries of 100 bytes,
/// and minutes to days of a fleet's entries for those who look back.
pub const IN_MAX_LEN: u64 = 1_000_000;
/// Interval at which a hub checks whether to trim the in stream.
pub const TRIM_INTERVAL: Duration = Duration::from_secs(1);
/// The same interval while no entries arrive.
pub const TRIM_INTERVAL_IDLE: Duration = Duration::from_secs(30);
/// Minimum age in seconds of trimmed entries of the in stream, even above `in_max_len`: no burst of
/// one client drops entries that were just acknowledged to another.
pub const IN_MIN_AGE_SECONDS: u64 = 60;

// ---- Presence ---------------------------------------------------------------------------------

/// Pending session notifications of a hub; the fence covers a missed one.
pub const BELLS_MAX: usize = 1024;
/// Wait of a second device with the same identity: an operator has to act first. Its own backoff
/// grows beyond this, up to its configured maximum; it stays disconnected that long even if the
/// other leaves.
pub const CLONE_WAIT: Duration = Duration::from_secs(15 * 60);

// ---- Connections ------------------------------------------------------------------------------

/// WebSockets and long polls of one client at a time: its newest session and those it replaces.
pub const CONNECTIONS_PER_CLIENT_MAX: usize = 8;
/// Sessions that one client may start at once; one more each [`SESSION_EARNED`]. An agent waits
/// longer between two; each costs a write and two log lines.
pub const SESSIONS_PER_CLIENT_BURST: u32 = 60;
/// Time after which a client may start one more session.
pub const SESSION_EARNED: Duration = Duration::from_secs(1);

// ---- Memory of a hub --------------------------------------------------------------------------

/// MiB that requests, frames and answers of a hub may take together. A batch of 512 KiB takes three
/// times that while it is processed, so 170 of them fit; the rest of a hub with ten thousand idle
/// agents takes about 100 MiB, with TLS 170.
pub const BUDGET_MIB: usize = 256;
/// Minimum of that setting: half of it is what the largest body can become in memory.
pub const BUDGET_MIB_MIN: usize = 64;
/// Factor for the memory of a body or frame: itself, its entries, and a copy for Redis.
pub const BUDGET_COPIES: usize = 3;
/// Memory of one string in an entry parsed from JSON: its slot in the list and the smallest
/// allocation.
pub const BUDGET_STRING_BYTES: usize = 64;
/// Requests up to this size fit into the part for small ones.
pub const BUDGET_SMALL_BYTES: usize = 64 * 1024;
/// Fraction of the budget for small requests only: one byte in this many.
pub const BUDGET_SMALL_SHARE: usize = 16;
/// Maximum waiters for the budget; more are refused at once. A returning fleet waits in its
/// sockets, one batch each.
pub const BUDGET_WAITERS_MAX: usize = 16 * 1024;
/// Waiters checked when bytes are released: some microseconds.
pub const BUDGET_SCAN_MAX: usize = 256;
/// Time that a request waits for the budget before it is refused.
pub const BUDGET_PATIENCE: Duration = Duration::from_secs(5);
/// Time that a request waits that already holds a part of the budget.
pub const BUDGET_GROW_PATIENCE: Duration = Duration::from_secs(2);
/// Time that a frame of an agent waits for the budget before its session ends: below the time after
/// which the agent drops a link without acknowledgements.
pub const BUDGET_FRAME_PATIENCE: Duration = Duration::from_secs(20);
/// Longer JSON bodies are parsed on the CPU pool, as long frames are: 16 KiB take 0.1 ms.
pub const PARSE_INLINE_BYTES_MAX: usize = 16 * 1024;
/// Bytes of large batches of all clients that the hub sends to Redis at a time: a small batch waits
/// for them, about 5 ms.
pub const REDIS_BYTES_IN_HAND: usize = 1024 * 1024;
/// Larger batches wait for a slot among those.
pub const REDIS_BYTES_SMALL: usize = 32 * 1024;
/// Time a batch waits for a slot: a slot may be held by a session that is ending.
pub const REDIS_PLACE_PATIENCE: Duration = Duration::from_secs(2);

// ---- What a client may fill -------------------------------------------------------------------

/// Entries and bytes a second of one client, as long as auth has no other rate for it. No honest
/// device meets it: its link carries no 100 MB a second, and an agent that sends a backlog from the
/// same machine carries 89,000 entries a second.
pub const CLIENT_RATE: EntryRate = EntryRate { entries: 100_000, bytes: 100_000_000 };
/// How far a client may exceed that rate: a faster machine than the one above sends a million
/// entries of a backlog before it is slowed down.
pub const CLIENT_RATE_BURST: Duration = Duration::from_secs(10);
/// When a client comes back after its rate was changed.
pub const RATE_RECONNECT_WAIT: Duration = Duration::from_millis(100);
/// How long a client must not have waited before it no longer counts as throttled. One that is told
/// to wait by `Retry-After` comes back within this time.
pub const THROTTLE_QUIET: Duration = Duration::from_secs(30);
/// How often the mark of a throttled client is written to Redis again.
pub const THROTTLE_REFRESH: Duration = Duration::from_secs(30);
/// How old that mark may be, so that the client still counts as throttled: a hub that was killed
/// does not remove it.
pub const THROTTLE_SHOWN: Duration = Duration::from_secs(75);
/// How often the hub looks for throttled clients to report.
pub const THROTTLE_POLL: Duration = Duration::from_secs(1);
/// Percent of Redis's `maxmemory` reserved for all clients at a low rate, once the rest is full.
pub const RESERVE_PERCENT: u64 = 10;
/// Entries a second of one client while only the reserve is left.
pub const RESERVE_ENTRIES: u64 = 100;
/// KiB a second of one client while only the reserve is left.
pub const RESERVE_KIB: u64 = 32;
/// How far a client may exceed the rate of the reserve: one small batch.
pub const RESERVE_BURST: Duration = Duration::from_secs(1);
/// Longest time for which a client's earlier entries count against it when the reserve is reached:
/// the clients that sent most recently wait first. Below the time after which an agent drops a
/// link.
pub const RESERVE_DEBT_MAX: Duration = Duration::from_secs(15);
/// Longest time that one batch counts in the reserve: an entry of 1 MiB would take 32 s, and an agent
/// gives up a link that acknowledges nothing for 30 s.
pub const RESERVE_BATCH_MAX: Duration = Duration::from_secs(18);
/// Time that a request waits for its client's rate before it is refused with 429.
pub const RESERVE_PATIENCE: Duration = Duration::from_secs(2);
/// Intervals of the memory query under load, and when Redis is three quarters full.
pub const USAGE_INTERVAL: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_millis(100));

// ---- What operators look at -----------------------------------------------------------------------

/// Viewers of the status page at a time: half of the admin listener's connections, so that scrapers
/// and probes always connect.
pub const VIEWERS_MAX: usize = 32;
/// Minimum interval between two polls for the status page.
pub const SURVEY_INTERVAL: Duration = Duration::from_secs(2);
/// Pause after a poll, as a multiple of its duration.
pub const SURVEY_REST: u32 = 9;
/// Time span of the chart on the status page.
pub const CHART_SPAN: Duration = Duration::from_secs(5 * 60);
/// Clients on one page of the status page's list.
pub const CLIENTS_SHOWN: usize = 50;
/// Bytes of an entry sent from the status page, as JSON: larger ones are for programs.
pub const PAGE_BODY_BYTES_MAX: usize = 64 * 1024;
