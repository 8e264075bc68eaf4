//! The limits of stores and of the driver, each with its reason.
//!
//! Some are defaults of settings; the others are fixed.

use std::time::Duration;

use spoke_protocol::{
    Rate,
    limits::{ENTRY_FIELDS_MAX, ENTRY_VALUE_BYTES_MAX, FIELD_NAME_BYTES_MAX},
};

// ---- Entries ----------------------------------------------------------------------------------

/// The bytes after which no more entries are read at once for a person or for a count, so that they take as little
/// memory as a batch.
pub const PEEK_BYTES: usize = 256 * 1024;
/// The maximum bytes of an entry that can be carried, names and values together. A larger one is never read from its
/// Redis.
pub const ENTRY_BYTES_MAX: usize = ENTRY_VALUE_BYTES_MAX + ENTRY_FIELDS_MAX * FIELD_NAME_BYTES_MAX;
/// The maximum bytes of an entry in a copy, with the fields that Spoke adds.
pub const COPY_ENTRY_BYTES_MAX: usize = ENTRY_BYTES_MAX + 1024;

// ---- Acknowledgement levels -------------------------------------------------------------------

/// The maximum number of replicas that an acknowledgement may wait for: more than are used in practice, so that an
/// error such as `replicas:10000` is refused.
pub const REPLICAS_MAX: u64 = 16;
/// The maximum number of writes that are sent together. All 20,000 agents of a hub have their turn within 80 groups.
pub const COMMITS_MAX: usize = 256;
/// The maximum number of writes that queue behind them: one or two of each agent of a large hub, which hold their memory
/// anyway. A task that waits for room in the queue costs more than one in it.
pub const COMMIT_QUEUE_MAX: usize = 32 * 1024;
/// The maximum number of entries of one such group, unless one batch alone has more: about two milliseconds, during
/// which Redis serves no other client.
pub const COMMIT_ENTRIES_MAX: usize = 256;
/// The number of batches a second above which groups keep [`COMMIT_DISTANCE`]: far above one client that waits for each
/// acknowledgement, and a tenth of what one Redis takes.
pub const COMMIT_DISTANCE_RATE: f64 = 5000.0;
/// The time from one group to the next at that rate. It grows with the rate: the less processor is left, the larger the
/// groups. Timers of a millisecond add half a millisecond on average.
pub const COMMIT_DISTANCE: Duration = Duration::from_micros(250);
/// The maximum of that time: below what a network adds.
pub const COMMIT_DISTANCE_MAX: Duration = Duration::from_millis(2);
/// The number of entries from which a batch is large, and goes in a call of its own: half a millisecond, so that a group
/// has the batches of several clients.
pub const COMMIT_LARGE_ENTRIES: usize = 64;
/// The same in bytes.
pub const COMMIT_LARGE_BYTES: usize = 32 * 1024;
/// The maximum bytes of one such group: a few milliseconds, during which Redis serves no other client.
pub const COMMIT_BYTES_MAX: usize = 4 * 1024 * 1024;

// ---- Origins ----------------------------------------------------------------------------------

/// The maximum number of tasks at origin streams that are sent in one call. An empty read takes about 20 µs.
pub const ORIGIN_TASKS_MAX: usize = 100;
/// The maximum number of such tasks that queue behind them: two for each agent of a large hub.
pub const ORIGIN_QUEUE_MAX: usize = 32 * 1024;
/// The number of entries after which no other read begins in a call: with one full batch after it a few milliseconds,
/// during which Redis serves no other client.
pub const ORIGIN_CALL_ENTRIES: usize = 256;
/// The same in bytes: one full batch.
pub const ORIGIN_CALL_BYTES: usize = 256 * 1024;

// ---- Streams ----------------------------------------------------------------------------------

/// The approximate number of dead letters that a device keeps. All of them are counted permanently.
pub const DEAD_MAX_LEN: usize = 10_000;
/// The approximate number of losses that a ledger keeps. Each is one range, not one entry.
pub const LOST_MAX_LEN: usize = 100_000;
/// The maximum number of entries trimmed at a time: a few milliseconds.
pub const TRIM_ENTRIES_MAX: u64 = 10_000;
/// The minimum time between two lines about unread trimmed entries, in the ledger and in the log.
pub const TRIM_REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// The maximum number of entries in a copy that are searched for those of an older epoch: a few seconds, once for a
/// Redis that came back with an older state. Older entries stay uncertain.
pub const SEARCH_ENTRIES_MAX: usize = 100_000;
/// The maximum number of entries, and their bytes, that one command of such a search reads: a few milliseconds.
pub const SEARCH_PAGE: (usize, usize) = (400, 512 * 1024);
/// The rate of searches of one client: more at once than a bad link causes sessions. Each may take Redis a second.
pub const SEARCHES: Rate = Rate { burst: 8, interval: Duration::from_secs(30) };
/// The maximum number of concurrent searches for all clients of a hub.
pub const SEARCHES_AT_ONCE: usize = 4;
/// The rate of lines that one client writes to the shared ledger: all its lines in 28 hours.
pub const LEDGER_LINES: Rate = Rate { burst: 1000, interval: Duration::from_secs(1) };
/// The maximum time that a batch waits for its ledger lines before the client has to retry.
pub const LEDGER_WAIT_MAX: Duration = Duration::from_secs(5);

// ---- Time -------------------------------------------------------------------------------------

/// The timeout of a Redis command: far above the longest script, and below the timeouts of all peers.
pub const REDIS_REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// The timeout of connecting to Redis: a lost SYN is sent again after one second. Several addresses are tried at
/// once.
pub const REDIS_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a name is resolved again while its server does not accept writes.
pub const REDIS_RESOLVE_INTERVAL: Duration = Duration::from_millis(500);
/// The maximum number of Sentinels, or of nodes of a cluster, in a URL. Three or five Sentinels are usual, and any node
/// knows all others.
pub const DISCOVERY_SERVERS_MAX: usize = 16;
/// The timeout of an answer of one of them.
pub const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the others are waited for once more than half name a primary: a round trip in a region. One that hangs delays
/// a new connection by this.
pub const DISCOVERY_GRACE: Duration = Duration::from_millis(100);
/// How often they are asked for the primary: one or two small commands to each.
pub const DISCOVERY_INTERVAL: Duration = Duration::from_secs(1);
/// How long a command that a node of a cluster has refused is sent again: longer than a failover that an operator
/// requests, and the last key of a slot that is moved. A page that is shown meanwhile answers within two seconds.
pub const REROUTE_PATIENCE: Duration = Duration::from_millis(1500);
/// The time between the first two of these tries: ten round trips in a region. It doubles with each.
pub const REROUTE_WAIT: Duration = Duration::from_millis(20);
/// The maximum of that time: thousands of sessions try at once.
pub const REROUTE_WAIT_MAX: Duration = Duration::from_millis(160);
/// How often it is checked whether a Redis accepts writes: one round trip that changes nothing. A server that was
/// demoted is detected within this time, even if nothing is written.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// The same interval while it does not accept writes.
pub const PROBE_INTERVAL_DOWN: Duration = Duration::from_millis(500);
/// The timeout of a check whether a Redis can be used.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum time that an acknowledgement waits for its level. Redis syncs `everysec` within two seconds, and half of
/// [`REDIS_REPLY_TIMEOUT`] is left for the scripts before the wait.
pub const LEVEL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the sweep looks for new entries without a hint.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// The maximum number of keys that one command of the sweep checks: a millisecond, during which Redis serves no other
/// client.
pub const SWEEP_KEYS_MAX: usize = 1000;
/// How often the connection for hints is pinged, to detect one that is half open.
pub const HINT_PING_INTERVAL: Duration = Duration::from_secs(15);
/// The maximum delay before hints are requested again after a fault.
pub const HINT_RETRY_MAX: Duration = Duration::from_secs(2);
/// How often watched keys are polled if Redis gives no hints: 20 µs of Redis for 10 clients, 10 ms for ten
/// thousand.
pub const HINT_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The timeout of the last frames and the last record of a session.
pub const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

// ---- Partitions --------------------------------------------------------------------------------

/// The maximum number of partitions of a fleet: 16 of each of 16 primaries. Each costs a hub a probe and a refresh of its
/// key at intervals.
pub const PARTITIONS_MAX: u16 = 256;

// ---- Presence ---------------------------------------------------------------------------------

/// How often a hub refreshes its key: one small command, independent of the number of its clients.
pub const HUB_REFRESH: Duration = Duration::from_secs(10);
/// The same interval after a failure.
pub const HUB_REFRESH_RETRY: Duration = Duration::from_secs(1);
/// The lifetime of that key: two refreshes may fail. The clients of a killed hub are shown as connected for this
/// time.
pub const HUB_TTL: Duration = Duration::from_secs(30);
/// The lifetime of a bell. Hubs only need its change.
pub const BELL_TTL: Duration = Duration::from_secs(10);
/// The number of former processes of one client that are recorded: a few devices of one identity, each restarted
/// once.
pub const FORMER_INSTANCES_MAX: usize = 4;
/// The maximum number of calls to open a session: one more for each time that the client's last session is found at
/// another hub than assumed.
pub const OPEN_TRIES_MAX: usize = 5;

// ---- Views for operators -----------------------------------------------------------------------

/// The timeout of one command of a view of a cluster: what answers is shown within two seconds.
pub const VIEW_TIMEOUT: Duration = Duration::from_secs(1);
/// The maximum number of clients that one command lists: a millisecond or two, during which Redis serves no other
/// client. Each takes a read of a hash and of a stream.
pub const LIST_CLIENTS_MAX: usize = 50;
/// The maximum number of clients in a list: ten times the fleet that a hub is designed for, about 50 MB.
pub const FLEET_MAX: usize = 100_000;
/// The number of entries of a client that are shown in each direction.
pub const RECENT_ENTRIES: usize = 20;
/// The number of entries of all clients that are searched for those of one, and how many in one command.
pub const RECENT_SCAN: (usize, usize) = (4000, 500);
/// The bytes after which one command of that search ends: a few milliseconds.
pub const RECENT_BYTES: usize = 1024 * 1024;
/// The number of fields of an entry that are shown, and of bytes of each name and value.
pub const RECENT_FIELDS: (usize, usize) = (16, 240);
/// The number of ledger lines that are searched for those of one client, and how many are shown.
pub const LOSSES_SCAN: (usize, usize) = (1000, 8);
