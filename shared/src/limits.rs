//! Every bound of Spoke and the reason for it.
//!
//! What a user may need to move is a setting whose default stands here; the rest is fixed.

use std::time::Duration;

use crate::allowance::Rate;

// ---- Words ------------------------------------------------------------------------------------

/// Bytes of a client's name: short enough for a key, a label and a screen column.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;

// ---- Entries ----------------------------------------------------------------------------------

/// Fields of one entry. A script unpacks an entry on Lua's stack, which holds a few thousand.
pub const ENTRY_FIELDS_MAX: usize = 128;
/// Bytes of one entry's values together. More belongs in object storage, with its address here.
pub const ENTRY_VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one field's name. With 128 fields the names stay within 128 KiB, so that an entry of
/// the largest size fits a frame and a body.
pub const FIELD_NAME_BYTES_MAX: usize = 1024;

/// After how many bytes of entries that are only looked at no more are read at once: what is shown to a
/// person, or counted, is to cost as little memory as a batch.
pub const PEEK_BYTES: usize = 256 * 1024;
/// What no entry that can be carried is larger than, names and values together, in bytes: a larger one
/// never leaves its Redis.
pub const ENTRY_BYTES_MAX: usize = ENTRY_VALUE_BYTES_MAX + ENTRY_FIELDS_MAX * FIELD_NAME_BYTES_MAX;
/// The same of one in a copy, with the fields that say where it comes from.
pub const COPY_ENTRY_BYTES_MAX: usize = ENTRY_BYTES_MAX + 1024;

// ---- Batches, windows, frames ---------------------------------------------------------------------

/// Entries of one batch. A script call takes 2 ms for a thousand small ones, and Redis serves no one
/// else meanwhile.
pub const BATCH_ENTRIES_MAX: usize = 1000;
/// Bytes of names and values in one batch of more than one entry, where a field counts as at least
/// `FIELD_BYTES_MIN`. A thousand entries of a quarter of a kilobyte hold Redis for 3 ms; the longest call
/// of all is to stay below 5 ms.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;
/// What a field counts as at the least wherever bytes are counted: 0.2 µs of Redis and 64 bytes of
/// memory, however short its name and value are. A frame of 98 bytes can hold 128,000 empty ones.
pub const FIELD_BYTES_MIN: usize = 64;
/// Batches that a sender may have under way without an acknowledgement. Two or three saturate a
/// link (NATS ADR-50); the rest covers long round trips.
pub const WINDOW_BATCHES: usize = 8;
/// Batches of one session that its Redis has in hand at a time: it works on one while the next is
/// made ready for it.
pub const APPENDS_MAX: usize = 2;
/// Bytes that a sender begins with, and never goes below, without an acknowledgement. A link that
/// needs longer than the idle timeout for this carries less than a kilobyte a second.
pub const WINDOW_BYTES_MIN: usize = 64 * 1024;
/// Bytes that a sender may have under way: the whole window in full batches.
pub const WINDOW_BYTES_MAX: usize = WINDOW_BATCHES * BATCH_BYTES_MAX;
/// An acknowledgement within this time doubles the bytes under way.
pub const WINDOW_GROW_BELOW: Duration = Duration::from_secs(1);
/// One that took longer than this halves them: what is under way must not outlast the heartbeat.
pub const WINDOW_SHRINK_ABOVE: Duration = Duration::from_secs(5);
/// Sessions in a row that break while one entry goes alone, until it is told to be stuck: two may be bad
/// luck.
pub const STUCK_SESSIONS: u32 = 3;
/// How long the other direction has a connection for itself, where an entry that went alone broke the last
/// ones: some round trips of a slow link.
pub const LONE_HOLD: Duration = Duration::from_secs(2);
/// Clients whose weak paths a hub remembers, some 250 bytes each: as many as it has connections.
pub const PATHS_MAX: usize = CONNECTIONS_MAX;
/// The slowest link that a single entry larger than the window is given time for, in bytes a second.
pub const SLOWEST_LINK: usize = 1024;
/// Bytes of one frame, and of one WebSocket message, on the wire and unpacked.
pub const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A hub's socket that handled a larger message lets go of its buffers as soon as they are empty: ten
/// thousand agents that were busy keep 40 MiB each way at the most, and an entry that comes alone is
/// smaller.
pub const SOCKET_BYTES_KEPT: usize = 4 * 1024;
/// Values that a frame may hold beyond those that are known: what a newer version adds is a few.
pub const UNKNOWN_VALUES_MAX: usize = 1024;
/// Bytes of a frame before the handshake: HELLO has some 700 at the most.
pub const HELLO_BYTES_MAX: usize = 4 * 1024;
/// A larger frame, or one that is packed, is decoded on a thread of its own: the sockets of other
/// clients wait for what runs where they are served.
pub const DECODE_INLINE_BYTES_MAX: usize = 16 * 1024;
/// Bytes of one HTTP body: an entry of 1 MiB in JSON with its base64.
pub const HTTP_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Batches smaller than this are not worth the compressor's set-up.
pub const COMPRESS_BYTES_MIN: usize = 512;
/// Refused entries that one acknowledgement lists: all of a batch.
pub const REFUSED_MAX: usize = BATCH_ENTRIES_MAX;
/// Losses that one batch tells of: what a read found trimmed or rewound, and how a life began.
pub const LOSSES_MAX: usize = 16;
/// Entries that one loss can be of, and all that are told of one client together: 2^53 - 1, what a number
/// of Lua and of JSON holds exactly. A sum that reaches it stays there.
pub const LOSS_COUNT_MAX: u64 = (1 << 53) - 1;
/// Bytes of one short text in a frame (versions, reasons, messages).
pub const TEXT_BYTES_MAX: usize = 512;

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
/// How often a hub looks whether the in stream is to be trimmed.
pub const TRIM_INTERVAL: Duration = Duration::from_secs(1);
/// Entries that are trimmed at a time: some milliseconds.
pub const TRIM_ENTRIES_MAX: u64 = 10_000;
/// The least time between two lines, of the ledger and of the log, that tell of what was trimmed unread.
pub const TRIM_TOLD_INTERVAL: Duration = Duration::from_secs(60);
/// Seconds that an entry of the in stream is kept for, be there more than `in_max_len`: no burst of one
/// client drops what another has just seen acknowledged.
pub const IN_MIN_AGE_SECONDS: u64 = 60;
/// How many lives of a stream are remembered by how they began: a copy that went back further than
/// these is given all that the origin has.
pub const LIVES_MAX: usize = 16;
/// Entries of a copy that are looked through for what it holds of a life before: some seconds of work,
/// once for a Redis that came back with an older state. What lies further back stays uncertain.
pub const HELD_SCAN_MAX: usize = 100_000;
/// How often a device that holds entries back, since they are too far ahead of the hub's clock, asks for
/// that clock again. It takes a new session.
pub const CLOCK_INTERVAL: Duration = Duration::from_secs(60);
/// Entries of a copy, and bytes of them, that one command of such a search looks at: some milliseconds.
pub const HELD_LOOKED: (usize, usize) = (400, 512 * 1024);
/// Searches of one client: more at once than a bad link makes sessions, and each may take Redis a second.
pub const SEARCHES: Rate = Rate { burst: 8, earned: Duration::from_secs(30) };
/// Searches of all clients of a hub at a time.
pub const SEARCHES_AT_ONCE: usize = 4;
/// Lines that one client writes into the ledger of all: the whole of it in a day and four hours.
pub const LEDGER_LINES: Rate = Rate { burst: 1000, earned: Duration::from_secs(1) };
/// How long a batch waits for its lines before its client is sent away.
pub const LEDGER_PATIENCE: Duration = Duration::from_secs(5);
/// How far ahead of the hub's clock a seq may be: a device's clock that is wrong by a time zone does no
/// harm, and a seq of 2^64-1, after which there is none, does no good.
pub const SEQ_AHEAD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

// ---- Time -------------------------------------------------------------------------------------

/// From the TCP connection to the end of the handshake. A 2G link with a new TLS session takes five.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For a request's whole body; at a hub each KiB that has come earns another second (`SLOWEST_LINK`), so that
/// an entry on a slow link has as long as on a WebSocket.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(120);
/// Without a word from the other side for this long a connection is given up.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// An agent that has sent nothing for this long pings: twice within the idle timeout, and before common
/// proxies give a silent connection up (50 s in HAProxy's examples, 60 s in nginx).
pub const HEARTBEAT: Duration = Duration::from_secs(45);
/// Entries sent and nothing acknowledged for this long: the link carries nothing, start over.
pub const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
/// The least that it can be set to: a round trip over a slow link takes a part of it.
pub const PROGRESS_TIMEOUT_MIN: Duration = Duration::from_secs(1);
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
/// How often an origin writes down what is acknowledged while entries flow, and trims behind it. For a
/// device that publishes ten times a second it takes nine in ten of these writes off its disk.
pub const RECORD_INTERVAL: Duration = Duration::from_secs(1);
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
/// The longest `blockMs`: below the idle limit of common proxies (60 s).
pub const BLOCK_MAX: Duration = Duration::from_secs(30);
/// How long a service finishes what is in hand after SIGTERM; systemd kills at 90 s.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after that a connection that is kept alive is listened to, unless it is told in an answer
/// that it closes: the next request may be on its way already, and would go without one.
pub const KEEP_ALIVE_LINGER: Duration = Duration::from_millis(500);
/// How long the last words of a connection may take.
pub const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// The least that a service sends away for when it stops, or while its Redis is in trouble: neither is
/// often over sooner.
pub const RETURN_WAIT: Duration = Duration::from_secs(1);
/// Over how long those who are sent away together are asked to come back, if there are no more than a
/// thousand: with what an agent adds all are back within 4.4 s.
pub const RETURN_SPREAD: Duration = Duration::from_millis(2500);
/// What each client adds to that where there are more: ten thousand are back within 30 s.
pub const RETURN_PACE: Duration = Duration::from_micros(2300);
/// What an agent adds at random to a wait that it was told, as a part of it: many are told the same second.
pub const RETURN_JITTER: f64 = 0.25;
/// How long an agent waits before it looks again whether its own Redis takes writes.
pub const OWN_REDIS_RETRY: Duration = Duration::from_secs(1);
/// The most that a server's word on when to come back is obeyed.
pub const RETRY_HINT_MAX: Duration = Duration::from_secs(60 * 60);
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

// ---- Presence ---------------------------------------------------------------------------------

/// How often a hub says that it lives: one small command, whatever the number of its clients.
pub const HUB_REFRESH: Duration = Duration::from_secs(10);
/// How often it tries to while its Redis does not take it.
pub const HUB_REFRESH_RETRY: Duration = Duration::from_secs(1);
/// How long it is believed: two may be missed. So long a killed hub's clients are shown as connected.
pub const HUB_TTL: Duration = Duration::from_secs(30);
/// How long a bell is there. Hubs hear that it changes; nobody reads it but a person who looks.
pub const BELL_TTL: Duration = Duration::from_secs(10);
/// Bells that a hub may be behind with; one that is missed is made good by the fence.
pub const BELLS_MAX: usize = 1024;
/// Processes of one client that are remembered: a few devices of one identity, each restarted once.
pub const FORMER_MAX: usize = 4;
/// How long a second device with the same identity is sent away for: a person has to act first. Its own
/// waits grow beyond, to the longest that its settings allow; so long it stays out though the other is gone.
pub const CLONE_WAIT: Duration = Duration::from_secs(15 * 60);

// ---- Connections ------------------------------------------------------------------------------

/// Connections of one listener. Ten thousand agents and room for their reconnects.
pub const CONNECTIONS_MAX: usize = 20_000;
/// Connections that the kernel keeps at the door until they are accepted. A fleet that comes back at
/// once overran tokio's 1024: the kernel then forgets handshakes that the devices take for done, and
/// they wait 10 s for an answer. Linux takes no more than net.core.somaxconn, 4096 since 5.4.
pub const LISTEN_BACKLOG: u32 = 4096;
/// One in so many of those may be a stranger's: handshakes, requests without a live token, waits
/// between requests. Room for a fleet that comes back at once, and for three times as many that are
/// known. One more takes the place of an older one.
pub const STRANGERS_SHARE: usize = 4;
/// Strangers that there is always room for.
pub const STRANGERS_MIN: usize = 16;
/// Bytes of a request's header, and so of what a stranger's connection holds: 160 MB for all of them.
pub const HEADER_BYTES_MAX: usize = 32 * 1024;
/// Bytes that one connection of HTTP/2, and each request of it, may send ahead of who reads them: 320 MB
/// for all strangers, and a body of 4 MiB takes 64 round trips.
pub const HTTP2_WINDOW_BYTES: u32 = 64 * 1024;
/// How often the files of a certificate are looked at: soon enough for who has just renewed one, and two
/// small files.
pub const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(5);
/// Connections of one admin listener: a scraper, a person, a probe.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// WebSockets and long polls of one client at a time: the newest of its sessions and the ones it replaces.
pub const CONNECTIONS_PER_CLIENT_MAX: usize = 8;
/// Requests of one client in hand at a time. An agent has three; each may bring a body of 4 MiB.
pub const REQUESTS_PER_CLIENT_MAX: usize = 32;
/// Sessions that one client may begin at once, and one more each `SESSION_EARNED`. An agent waits
/// longer between two; each costs a write, and two lines in the log.
pub const SESSIONS_PER_CLIENT_BURST: u32 = 60;
/// After this time a client may begin one more session.
pub const SESSION_EARNED: Duration = Duration::from_secs(1);
/// Live session tokens of one client; a further login ends the oldest.
pub const TOKENS_PER_CLIENT_MAX: usize = 16;

/// How long a token stays good once it was refreshed: the answer may have got lost.
pub const REFRESHED_LIFE: Duration = Duration::from_secs(10 * 60);
/// The least that `session_ttl_seconds` can be set to: a device asks for its next token after half of that,
/// and an answer of auth may take as long as a bcrypt waits for its turn.
pub const SESSION_TTL_SECONDS_MIN: u64 = 60;

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

// ---- WebSocket frames -------------------------------------------------------------------------

/// Frames of one WebSocket message beside one for each `FRAGMENT_BYTES` of it.
pub const FRAGMENTS_MAX: u64 = 64;
/// No library or proxy cuts messages into smaller pieces: a TCP segment holds more.
pub const FRAGMENT_BYTES: u64 = 512;
/// Control frames (pings, pongs) at once, and after which time one more. Each ping costs an answer;
/// browsers and libraries send two a minute.
pub const CONTROL_FRAMES_BURST: u32 = 64;
/// After this time one more control frame may come.
pub const CONTROL_FRAME_EARNED: Duration = Duration::from_millis(250);

// ---- What operators look at -----------------------------------------------------------------------

/// Clients that one command of a survey tells of: a millisecond or two, during which Redis serves no one
/// else. Each costs a look at a hash and at a stream.
pub const SURVEY_CLIENTS_MAX: usize = 50;
/// Clients that a survey tells of: ten times the fleet that a hub is made for, some 50 MB.
pub const FLEET_MAX: usize = 100_000;
/// Entries of a client that are shown each way.
pub const RECENT_ENTRIES: usize = 20;
/// Entries of all clients that are looked through for those of one, and how many in one command.
pub const RECENT_LOOKED: (usize, usize) = (4000, 500);
/// Bytes after which one command of that search ends: some milliseconds.
pub const RECENT_BYTES: usize = 1024 * 1024;
/// Fields of an entry that are shown, and bytes of each name and value.
pub const RECENT_SHOWN: (usize, usize) = (16, 240);
/// Lines of the ledger that are looked through for a client's, and how many of those are shown.
pub const LOSSES_LOOKED: (usize, usize) = (1000, 8);
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
/// How long Redis is asked for a page of figures: Prometheus gives up after 10 s.
pub const SCRAPE_LOOK_TIMEOUT: Duration = Duration::from_secs(2);

// ---- Log --------------------------------------------------------------------------------------

/// How often it is said that a fault goes on: 1,440 lines a day at most of each kind.
pub const REPEATS_INTERVAL: Duration = Duration::from_secs(60);
/// Kinds of repeated faults that are told apart at a time; strangers can make any number.
pub const REPEATS_KINDS_MAX: usize = 64;

// ---- Auth -------------------------------------------------------------------------------------

/// Bytes of a device's own secret, least and most. 24 random bytes cannot be guessed; bcrypt reads 72.
pub const SECRET_BYTES: (usize, usize) = (24, 72);
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

/// Bytes that are read of a file in the agent's state directory. The largest, `session`, holds a token and
/// two names, some hundred bytes; whatever is longer was not written by the agent.
pub const STATE_FILE_BYTES_MAX: u64 = 64 * 1024;
