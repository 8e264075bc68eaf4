//! The time that a minimal script holds this machine's Redis for a batch. Bounds in milliseconds are
//! relative to it, since machines differ by more than our scripts do.

use std::time::Duration;

use redis::{RedisResult, Value};
use spoke_protocol::limits::{
    BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, ENTRY_FIELDS_MAX, ENTRY_VALUE_BYTES_MAX, FIELD_BYTES_MIN,
};

use crate::redis::RedisServer;

/// The longest time that a call may hold Redis on a current machine.
const CALL_MAX: Duration = Duration::from_millis(5);
/// The same on a slower machine, as a multiple of the minimal script's time.
const TIMES_THE_MINIMUM: u32 = 2;
/// The number of calls, of which the shortest counts: other processes only make a call longer.
const TIMES: usize = 8;

/// The minimal script: unpacks a batch and adds its entries.
const MINIMAL_SCRIPT: &str = "
    local list, at = cmsgpack.unpack(ARGV[1]), 1
    while list[at] do
      redis.call('XADD', KEYS[1], '*', unpack(list, at + 2, at + 1 + list[at + 1]))
      at = at + 2 + list[at + 1]
    end";

/// The number of entries of a batch, of fields in each entry, and of bytes in each value.
pub type Batch = (usize, usize, usize);

/// Batches of the maximum size, each at another limit.
pub const FULL: [Batch; 5] = [
    (1, 1, ENTRY_VALUE_BYTES_MAX - 1024),
    (1, ENTRY_FIELDS_MAX, 1),
    (BATCH_ENTRIES_MAX, 1, BATCH_BYTES_MAX / BATCH_ENTRIES_MAX - 16),
    (BATCH_ENTRIES_MAX, BATCH_BYTES_MAX / FIELD_BYTES_MIN / BATCH_ENTRIES_MAX, 0),
    (BATCH_BYTES_MAX / FIELD_BYTES_MIN / ENTRY_FIELDS_MAX, ENTRY_FIELDS_MAX, 0),
];

/// Encodes such a batch in the form that append.lua takes.
///
/// # Panics
/// Never: a write to memory cannot fail.
pub fn packed((entries, fields, bytes): Batch) -> Vec<u8> {
    let value = vec![b'x'; bytes];
    let mut packed = Vec::new();
    rmp::encode::write_array_len(&mut packed, (entries * (2 + 2 * fields)) as u32)
        .expect("memory can be written");
    for n in 0..entries {
        rmp::encode::write_str(&mut packed, &format!("6-{n}")).expect("memory can be written");
        rmp::encode::write_uint(&mut packed, 2 * fields as u64).expect("memory can be written");
        for field in 0..fields {
            rmp::encode::write_str(&mut packed, &format!("f{field}"))
                .expect("memory can be written");
            rmp::encode::write_str_len(&mut packed, bytes as u32).expect("memory can be written");
            packed.extend_from_slice(&value);
        }
    }
    packed
}

/// Returns how long a call that appends such a batch may hold this Redis.
///
/// # Panics
/// If Redis refuses.
pub async fn limit(redis: &RedisServer, batch: Batch) -> Duration {
    const KEY: &str = "pace:x";
    let packed = packed(batch);
    let minimum = shortest(redis, async || {
        let mut eval = redis::cmd("EVAL");
        eval.arg(MINIMAL_SCRIPT).arg(1).arg(KEY).arg(&packed);
        eval.query_async(&mut redis.connection()).await
    })
    .await;
    redis.command::<u64>(&["DEL", KEY]).await;
    CALL_MAX.max(TIMES_THE_MINIMUM * minimum)
}

/// Returns how long a script holds Redis according to its slow log: the shortest of several calls.
///
/// # Panics
/// If Redis refuses, or does not log them.
pub async fn shortest(redis: &RedisServer, call: impl AsyncFn() -> RedisResult<Value>) -> Duration {
    let mut shortest = Duration::MAX;
    redis.command::<()>(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]).await;
    for _ in 0..TIMES {
        redis.command::<()>(&["SLOWLOG", "RESET"]).await;
        call().await.expect("the script succeeds");
        let log: Vec<Vec<Value>> = redis.command(&["SLOWLOG", "GET", "16"]).await;
        let micros = log.iter().filter_map(|entry| match (&entry[2], &entry[3]) {
            (Value::Int(micros), command) if format!("{command:?}").contains("EVAL") => {
                Some(micros.unsigned_abs())
            }
            _ => None,
        });
        let took = micros.max().expect("the call is in the log");
        shortest = shortest.min(Duration::from_micros(took));
    }
    shortest
}
