//! The limits that both ends must agree on, each with its reason.
//!
//! Some are defaults of settings; the others are fixed.

use std::time::Duration;

// ---- Words ------------------------------------------------------------------------------------

/// The maximum bytes of a client's name: short enough for a key, a label and a screen column.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;

// ---- Entries ----------------------------------------------------------------------------------

/// The maximum number of fields of one entry. A script unpacks an entry on Lua's stack, which holds a few
/// thousand values.
pub const ENTRY_FIELDS_MAX: usize = 128;
/// The maximum bytes of one entry's values together. Larger data belongs in object storage, with its address in
/// the entry.
pub const ENTRY_VALUE_BYTES_MAX: usize = 1024 * 1024;
/// The maximum bytes of one field's name. With 128 fields the names stay within 128 KiB, so that the largest
/// entry fits a frame and a body.
pub const FIELD_NAME_BYTES_MAX: usize = 1024;

// ---- Batches, windows, frames ---------------------------------------------------------------------

/// The maximum number of entries in one batch. A script call takes about 5 ms for a thousand small ones, during
/// which Redis serves no other client.
pub const BATCH_ENTRIES_MAX: usize = 1000;
/// The number of entries in one batch that a hub with few connections grants: about 2 ms of its Redis, for which the
/// batches of all other clients wait. A backlog is carried as fast as with more.
pub const BATCH_ENTRIES_GRANTED: usize = 400;
/// The number of entries in one batch that a hub with more than [`CONNECTIONS_FEW`] connections grants, so that a
/// backlog delays the other clients less, though it is carried slower.
pub const BATCH_ENTRIES_GRANTED_BUSY: usize = 100;
/// The maximum number of connections at which a hub grants large batches. Entries of more clients than these may wait
/// behind them.
pub const CONNECTIONS_FEW: usize = 100;
/// The maximum bytes of names and values in one batch of several entries, where a field counts as at least
/// [`FIELD_BYTES_MIN`]. A thousand entries of a quarter of a kilobyte occupy Redis for 3 ms; the longest call
/// has to stay below 5 ms.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;
/// The minimum bytes that a field is charged: 0.2 µs of Redis and 64 bytes of memory, however short its name and
/// value are. A frame of 98 bytes can hold 128,000 empty fields.
pub const FIELD_BYTES_MIN: usize = 64;
/// The maximum number of batches in flight. Two or three saturate a link (NATS ADR-50); the rest covers long
/// round trips.
pub const WINDOW_BATCHES: usize = 8;
/// How long a batch may take at a client's own rate: the hub grants such a client smaller batches. A window of
/// them is acknowledged well within [`PROGRESS_TIMEOUT`], so that a link that is slowed down does not look dead.
pub const RATE_BATCH_SPAN: Duration = Duration::from_secs(2);
/// The minimum of a client's rate in bytes a second. The largest entry takes nine seconds of it, well below
/// [`PROGRESS_TIMEOUT`].
pub const RATE_BYTES_MIN: u64 = 128_000;
/// The maximum number of batches of one session that its Redis works on: it runs one while the next is
/// prepared.
pub const APPENDS_MAX: usize = 2;
/// The window of a sender at the start, in bytes, and its minimum. A link that needs longer than the idle timeout
/// for this carries less than a kilobyte a second.
pub const WINDOW_BYTES_MIN: usize = 64 * 1024;
/// The maximum window of a sender, in bytes: all batches of the window at full size.
pub const WINDOW_BYTES_MAX: usize = WINDOW_BATCHES * BATCH_BYTES_MAX;
/// An acknowledgement within this time doubles the window.
pub const WINDOW_GROW_BELOW: Duration = Duration::from_secs(1);
/// An acknowledgement that takes longer than this halves the window: batches in flight must not outlast the
/// heartbeat.
pub const WINDOW_SHRINK_ABOVE: Duration = Duration::from_secs(5);
/// The number of sessions in a row that break with a single entry in flight before it counts as stuck: two may
/// be bad luck.
pub const STUCK_SESSIONS: u32 = 3;
/// How long the other direction has a connection for itself, after a single entry has broken the last ones: a
/// few round trips of a slow link.
pub const SINGLE_ENTRY_DELAY: Duration = Duration::from_secs(2);
/// The slowest link that is given time for a single entry larger than the window, in bytes per second.
pub const SLOWEST_LINK: usize = 1024;
/// The maximum bytes of one frame, and of one WebSocket message, on the wire and unpacked.
pub const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The maximum number of unknown values in a frame: a newer version adds a few.
pub const UNKNOWN_VALUES_MAX: usize = 1024;
/// A frame larger than this, or a packed one, is decoded on a thread of its own, so that it does not delay the
/// sockets of other clients.
pub const DECODE_INLINE_BYTES_MAX: usize = 16 * 1024;
/// The maximum bytes of one HTTP body: an entry of 1 MiB in JSON with its base64.
pub const HTTP_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Smaller batches are not compressed: they are not worth the set-up of the compressor.
pub const COMPRESS_BYTES_MIN: usize = 512;
/// The maximum number of refused entries in one acknowledgement: all of a batch.
pub const REFUSED_MAX: usize = BATCH_ENTRIES_MAX;
/// The maximum number of losses in one batch: those that a read found, and the one that began the epoch.
pub const LOSSES_MAX: usize = 16;
/// The maximum number of entries in one loss, and in all losses of one client together: 2^53 - 1, which a number
/// of Lua and of JSON holds exactly. Sums saturate.
pub const LOSS_COUNT_MAX: u64 = (1 << 53) - 1;
/// The maximum bytes of a text in a frame (versions, reasons, messages).
pub const TEXT_BYTES_MAX: usize = 512;

// ---- Streams ----------------------------------------------------------------------------------

/// The number of epochs of a stream whose starts are kept. A copy that went back further is sent everything that
/// the origin has.
pub const EPOCHS_REMEMBERED_MAX: usize = 16;
/// How often a device asks for the hub's clock again, while it holds back entries that are too far ahead of it.
/// That takes a new session.
pub const CLOCK_INTERVAL: Duration = Duration::from_secs(60);
/// How far ahead of the hub's clock a seq may be: a device's clock may be wrong by a time zone, but a seq of
/// 2^64-1 would leave no ID after it.
pub const SEQ_AHEAD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

// ---- Time -------------------------------------------------------------------------------------

/// A connection that receives nothing for this long is given up.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// An agent that has received nothing for this long sends PING: twice within the idle timeout, and before common
/// proxies close an idle connection (50 s in HAProxy's examples, 60 s in nginx).
pub const HEARTBEAT: Duration = Duration::from_secs(45);
/// A connection that acknowledges none of the sent entries for this long is given up.
pub const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
/// How often an origin records the acknowledgement and trims, while entries flow. For a device that publishes ten
/// times a second, this saves nine in ten of these writes to its disk.
pub const RECORD_INTERVAL: Duration = Duration::from_secs(1);
/// The maximum `blockMs`: below the idle limit of common proxies (60 s).
pub const BLOCK_MAX: Duration = Duration::from_secs(30);
/// The minimum hint of a service that shuts down, or whose Redis has an outage: neither is often over sooner.
pub const RECONNECT_WAIT_MIN: Duration = Duration::from_secs(1);
/// The time over which up to a thousand clients are asked to reconnect. With what an agent adds, all are back
/// within 4.4 s.
pub const RECONNECT_SPREAD: Duration = Duration::from_millis(2500);
/// The time that each client adds to that if there are more: ten thousand are back within 30 s.
pub const RECONNECT_SPREAD_PER_CLIENT: Duration = Duration::from_micros(2300);
/// The part of a hint that an agent adds at random, since many get the same hint.
pub const RECONNECT_JITTER: f64 = 0.25;
/// The maximum hint of a server that is obeyed.
pub const RETRY_HINT_MAX: Duration = Duration::from_secs(60 * 60);

// ---- WebSocket frames -------------------------------------------------------------------------

/// The maximum number of frames of one WebSocket message, beside one for each [`FRAGMENT_BYTES`] of it.
pub const FRAGMENTS_MAX: u64 = 64;
/// The smallest pieces into which libraries and proxies cut messages: a TCP segment holds more.
pub const FRAGMENT_BYTES: u64 = 512;
/// The number of control frames (pings, pongs) that may come at once. Each ping costs an answer; browsers and
/// libraries send two per minute.
pub const CONTROL_FRAMES_BURST: u32 = 64;
/// The time after which one more control frame may come.
pub const CONTROL_FRAME_INTERVAL: Duration = Duration::from_millis(250);

// ---- Auth -------------------------------------------------------------------------------------

/// The minimum and maximum bytes of a device's own secret. 24 random bytes cannot be guessed; bcrypt reads 72.
pub const SECRET_BYTES: (usize, usize) = (24, 72);
