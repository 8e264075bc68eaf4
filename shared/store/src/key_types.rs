//! What keys have to hold, and which one does not.

use redis::{Value, pipe};

use super::{Redis, StoreError, decode, error::WrongKey};

/// Names the key that holds something else than it should, where that is what went wrong: Redis itself does
/// not say which of a script's keys it was.
pub(super) async fn named<T>(
    redis: &Redis,
    keys: &[(&str, &'static str)],
    result: Result<T, StoreError>,
) -> Result<T, StoreError> {
    let source = match result {
        Err(StoreError::WrongType { at: None, source }) => source,
        result => return result,
    };
    let mut types = pipe();
    keys.iter().for_each(|(key, _)| {
        types.cmd("TYPE").arg(key);
    });
    let found: Result<Vec<Value>, _> = types.query_async(&mut redis.connection()).await;
    let found = found.unwrap_or_default().into_iter().map(decode::text);
    let at = keys.iter().zip(found).find_map(|((key, needed), found)| {
        let found = found.ok().filter(|found| found != "none" && found != needed)?;
        Some(WrongKey { key: (*key).to_owned(), found, expected: needed })
    });
    Err(StoreError::WrongType { at, source })
}
