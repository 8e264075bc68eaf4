//! What bounds a store and the driver of its sessions, each with its reason.
//!
//! What a user may need to move is a setting whose default stands here; the rest is fixed.

use std::time::Duration;

use spoke_protocol::{
    limits::{ENTRY_FIELDS_MAX, ENTRY_VALUE_BYTES_MAX, FIELD_NAME_BYTES_MAX},
    rate::Rate,
};

// ---- Entries ----------------------------------------------------------------------------------

/// After how many bytes of entries that are only looked at no more are read at once: what is shown to a
/// person, or counted, is to cost as little memory as a batch.
pub const PEEK_BYTES: usize = 256 * 1024;
/// What no entry that can be carried is larger than, names and values together, in bytes: a larger one
/// never leaves its Redis.
pub const ENTRY_BYTES_MAX: usize = ENTRY_VALUE_BYTES_MAX + ENTRY_FIELDS_MAX * FIELD_NAME_BYTES_MAX;
/// The same of one in a copy, with the fields that say where it comes from.
pub const COPY_ENTRY_BYTES_MAX: usize = ENTRY_BYTES_MAX + 1024;

// ---- Acknowledgement levels -------------------------------------------------------------------

/// Replicas that an acknowledgement may wait for: more than anyone runs, so that a slip such as
/// `replicas:10000` is refused as a setting.
pub const REPLICAS_MAX: u64 = 16;
/// Appends that wait together for one sync or one round to the replicas, and those that queue behind
/// them. All 20,000 agents of a hub have their turn within 80 waits.
pub const COMMITS_MAX: usize = 256;
/// Bytes of one such group: some milliseconds, during which Redis serves nobody else.
pub const COMMIT_BYTES_MAX: usize = 4 * 1024 * 1024;

// ---- Streams ----------------------------------------------------------------------------------

/// About how many dead letters a device keeps; all of them are counted for good.
pub const DEAD_MAX_LEN: usize = 10_000;
/// About how many losses a ledger keeps; each is one range, not one entry.
pub const LOST_MAX_LEN: usize = 100_000;
/// Entries that are trimmed at a time: some milliseconds.
pub const TRIM_ENTRIES_MAX: u64 = 10_000;
/// The least time between two lines, of the ledger and of the log, that tell of what was trimmed unread.
pub const TRIM_REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// Entries of a copy that are looked through for what it holds of a life before: some seconds of work,
/// once for a Redis that came back with an older state. What lies further back stays uncertain.
pub const SEARCH_ENTRIES_MAX: usize = 100_000;
/// Entries of a copy, and bytes of them, that one command of such a search looks at: some milliseconds.
pub const SEARCH_PAGE: (usize, usize) = (400, 512 * 1024);
/// Searches of one client: more at once than a bad link makes sessions, and each may take Redis a second.
pub const SEARCHES: Rate = Rate { burst: 8, interval: Duration::from_secs(30) };
/// Searches of all clients of a hub at a time.
pub const SEARCHES_AT_ONCE: usize = 4;
/// Lines that one client writes into the ledger of all: the whole of it in a day and four hours.
pub const LEDGER_LINES: Rate = Rate { burst: 1000, interval: Duration::from_secs(1) };
/// How long a batch waits for its lines before its client is sent away.
pub const LEDGER_WAIT_MAX: Duration = Duration::from_secs(5);

// ---- Time -------------------------------------------------------------------------------------

/// How long a Redis command may take. Above the longest script by far, below every peer's patience.
pub const REDIS_REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection to Redis may take to come up: a first SYN that is lost is sent again after one
/// second. Where there are several addresses, all are tried at once.
pub const REDIS_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a name is resolved anew since its server does not take writes.
pub const REDIS_RESOLVE_INTERVAL: Duration = Duration::from_millis(500);
/// How often it is looked whether a Redis takes writes: one round trip that changes nothing. A server that
/// was demoted while nothing was written is found out within this time.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// The same while it does not.
pub const PROBE_INTERVAL_DOWN: Duration = Duration::from_millis(500);
/// How long somebody who asks whether a Redis can be used waits for it.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an acknowledgement waits for its level. Redis syncs `everysec` within two seconds, and
/// half of the time for a reply is left to the scripts in front of the wait.
pub const LEVEL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the slow sweep looks for news that no hint told of.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// Keys that one command of the sweep looks at: a millisecond, during which Redis serves no one else.
pub const SWEEP_KEYS_MAX: usize = 1000;
/// How often the connection that hears of news is pinged: one that is half open looks like silence.
pub const HINT_PING_INTERVAL: Duration = Duration::from_secs(15);
/// The longest wait before hints are asked for again after a fault.
pub const HINT_RETRY_MAX: Duration = Duration::from_secs(2);
/// How often what is waited for is looked at where Redis gives no hints: 20 µs of Redis for 10 clients, 10 ms
/// for ten thousand.
pub const HINT_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How long the last words of a connection may take.
pub const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

// ---- Presence ---------------------------------------------------------------------------------

/// How often a hub says that it lives: one small command, whatever the number of its clients.
pub const HUB_REFRESH: Duration = Duration::from_secs(10);
/// How often it tries to while its Redis does not take it.
pub const HUB_REFRESH_RETRY: Duration = Duration::from_secs(1);
/// How long it is believed: two may be missed. So long a killed hub's clients are shown as connected.
pub const HUB_TTL: Duration = Duration::from_secs(30);
/// How long a bell is there. Hubs hear that it changes; nobody reads it but a person who looks.
pub const BELL_TTL: Duration = Duration::from_secs(10);
/// Processes of one client that are remembered: a few devices of one identity, each restarted once.
pub const FORMER_INSTANCES_MAX: usize = 4;

// ---- What operators look at -----------------------------------------------------------------------

/// Clients that one command of a survey tells of: a millisecond or two, during which Redis serves no one
/// else. Each costs a look at a hash and at a stream.
pub const LIST_CLIENTS_MAX: usize = 50;
/// Clients that a survey tells of: ten times the fleet that a hub is made for, some 50 MB.
pub const FLEET_MAX: usize = 100_000;
/// Entries of a client that are shown each way.
pub const RECENT_ENTRIES: usize = 20;
/// Entries of all clients that are looked through for those of one, and how many in one command.
pub const RECENT_SCAN: (usize, usize) = (4000, 500);
/// Bytes after which one command of that search ends: some milliseconds.
pub const RECENT_BYTES: usize = 1024 * 1024;
/// Fields of an entry that are shown, and bytes of each name and value.
pub const RECENT_FIELDS: (usize, usize) = (16, 240);
/// Lines of the ledger that are looked through for a client's, and how many of those are shown.
pub const LOSSES_SCAN: (usize, usize) = (1000, 8);
