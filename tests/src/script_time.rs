//! How long this machine's Redis is held by the least that takes a batch in: what a bound in milliseconds is
//! measured against, since machines differ by more than our scripts do.

use std::time::Duration;

use redis::{RedisResult, Value};
use spoke_protocol::limits::{
    BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, ENTRY_FIELDS_MAX, ENTRY_VALUE_BYTES_MAX, FIELD_BYTES_MIN,
};

use crate::redis::RedisServer;

/// How long a call may hold Redis on a machine of today.
const CALL_MAX: Duration = Duration::from_millis(5);
/// The same as a multiple of the least, on a slower one.
const TIMES_THE_LEAST: u32 = 2;
/// The shortest of so many: others on the machine make a call longer, never shorter.
const TIMES: usize = 8;

/// Unpacks a batch and adds its entries, and no more.
const LEAST: &str = "
    local list, at = cmsgpack.unpack(ARGV[1]), 1
    while list[at] do
      redis.call('XADD', KEYS[1], '*', unpack(list, at + 2, at + 1 + list[at + 1]))
      at = at + 2 + list[at + 1]
    end";

/// A batch by its number of entries, of fields in each, and of bytes in each value.
pub type Batch = (usize, usize, usize);

/// Batches as large as they may be, each in its own way.
pub const FULL: [Batch; 5] = [
    (1, 1, ENTRY_VALUE_BYTES_MAX - 1024),
    (1, ENTRY_FIELDS_MAX, 1),
    (BATCH_ENTRIES_MAX, 1, BATCH_BYTES_MAX / BATCH_ENTRIES_MAX - 16),
    (BATCH_ENTRIES_MAX, BATCH_BYTES_MAX / FIELD_BYTES_MIN / BATCH_ENTRIES_MAX, 0),
    (BATCH_BYTES_MAX / FIELD_BYTES_MIN / ENTRY_FIELDS_MAX, ENTRY_FIELDS_MAX, 0),
];

/// Such a batch as append.lua takes it.
///
/// # Panics
/// Never: memory takes all.
pub fn packed((entries, fields, bytes): Batch) -> Vec<u8> {
    let value = vec![b'x'; bytes];
    let mut packed = Vec::new();
    rmp::encode::write_array_len(&mut packed, (entries * (2 + 2 * fields)) as u32)
        .expect("memory takes all");
    for n in 0..entries {
        rmp::encode::write_str(&mut packed, &format!("6-{n}")).expect("memory takes all");
        rmp::encode::write_uint(&mut packed, 2 * fields as u64).expect("memory takes all");
        for field in 0..fields {
            rmp::encode::write_str(&mut packed, &format!("f{field}")).expect("memory takes all");
            rmp::encode::write_str_len(&mut packed, bytes as u32).expect("memory takes all");
            packed.extend_from_slice(&value);
        }
    }
    packed
}

/// How long a call may hold this Redis that takes in such a batch.
///
/// # Panics
/// When Redis refuses.
pub async fn most(redis: &RedisServer, batch: Batch) -> Duration {
    const KEY: &str = "pace:x";
    let packed = packed(batch);
    let least = shortest(redis, async || {
        let mut eval = redis::cmd("EVAL");
        eval.arg(LEAST).arg(1).arg(KEY).arg(&packed);
        eval.query_async(&mut redis.connection()).await
    })
    .await;
    redis.command::<u64>(&["DEL", KEY]).await;
    CALL_MAX.max(TIMES_THE_LEAST * least)
}

/// How long a script holds Redis, as its log tells: the shortest of some calls.
///
/// # Panics
/// When Redis refuses, or does not log them.
pub async fn shortest(redis: &RedisServer, call: impl AsyncFn() -> RedisResult<Value>) -> Duration {
    let mut shortest = Duration::MAX;
    redis.command::<()>(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]).await;
    for _ in 0..TIMES {
        redis.command::<()>(&["SLOWLOG", "RESET"]).await;
        call().await.expect("it is no error");
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
