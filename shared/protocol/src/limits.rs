//! What both ends must agree on, each with its reason.
//!
//! What a user may need to move is a setting whose default stands here; the rest is fixed.

use std::time::Duration;

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
pub const SINGLE_ENTRY_DELAY: Duration = Duration::from_secs(2);
/// The slowest link that a single entry larger than the window is given time for, in bytes a second.
pub const SLOWEST_LINK: usize = 1024;
/// Bytes of one frame, and of one WebSocket message, on the wire and unpacked.
pub const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Values that a frame may hold beyond those that are known: what a newer version adds is a few.
pub const UNKNOWN_VALUES_MAX: usize = 1024;
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

// ---- Streams ----------------------------------------------------------------------------------

/// How many lives of a stream are remembered by how they began: a copy that went back further than
/// these is given all that the origin has.
pub const EPOCHS_REMEMBERED_MAX: usize = 16;
/// How often a device that holds entries back, since they are too far ahead of the hub's clock, asks for
/// that clock again. It takes a new session.
pub const CLOCK_INTERVAL: Duration = Duration::from_secs(60);
/// How far ahead of the hub's clock a seq may be: a device's clock that is wrong by a time zone does no
/// harm, and a seq of 2^64-1, after which there is none, does no good.
pub const SEQ_AHEAD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

// ---- Time -------------------------------------------------------------------------------------

/// Without a word from the other side for this long a connection is given up.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// An agent that has sent nothing for this long pings: twice within the idle timeout, and before common
/// proxies give a silent connection up (50 s in HAProxy's examples, 60 s in nginx).
pub const HEARTBEAT: Duration = Duration::from_secs(45);
/// Entries sent and nothing acknowledged for this long: the link carries nothing, start over.
pub const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
/// How often an origin writes down what is acknowledged while entries flow, and trims behind it. For a
/// device that publishes ten times a second it takes nine in ten of these writes off its disk.
pub const RECORD_INTERVAL: Duration = Duration::from_secs(1);
/// The longest `blockMs`: below the idle limit of common proxies (60 s).
pub const BLOCK_MAX: Duration = Duration::from_secs(30);
/// The least that a service sends away for when it stops, or while its Redis is in trouble: neither is
/// often over sooner.
pub const RECONNECT_WAIT_MIN: Duration = Duration::from_secs(1);
/// Over how long those who are sent away together are asked to come back, if there are no more than a
/// thousand: with what an agent adds all are back within 4.4 s.
pub const RECONNECT_SPREAD: Duration = Duration::from_millis(2500);
/// What each client adds to that where there are more: ten thousand are back within 30 s.
pub const RECONNECT_SPREAD_PER_CLIENT: Duration = Duration::from_micros(2300);
/// What an agent adds at random to a wait that it was told, as a part of it: many are told the same second.
pub const RECONNECT_JITTER: f64 = 0.25;
/// The most that a server's word on when to come back is obeyed.
pub const RETRY_HINT_MAX: Duration = Duration::from_secs(60 * 60);

// ---- WebSocket frames -------------------------------------------------------------------------

/// Frames of one WebSocket message beside one for each `FRAGMENT_BYTES` of it.
pub const FRAGMENTS_MAX: u64 = 64;
/// No library or proxy cuts messages into smaller pieces: a TCP segment holds more.
pub const FRAGMENT_BYTES: u64 = 512;
/// Control frames (pings, pongs) at once, and after which time one more. Each ping costs an answer;
/// browsers and libraries send two a minute.
pub const CONTROL_FRAMES_BURST: u32 = 64;
/// After this time one more control frame may come.
pub const CONTROL_FRAME_INTERVAL: Duration = Duration::from_millis(250);

// ---- Auth -------------------------------------------------------------------------------------

/// Bytes of a device's own secret, least and most. 24 random bytes cannot be guessed; bcrypt reads 72.
pub const SECRET_BYTES: (usize, usize) = (24, 72);
