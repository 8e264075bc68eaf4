//! Finds the key that has the wrong type.

use redis::{Value, pipe};

use super::{Redis, StoreError, decode, error::WrongKey};

/// Adds the key to a [`StoreError::WrongType`]. Redis does not say which of a script's keys it is, so the types
/// of all `keys` are compared with the expected ones.
pub(super) async fn name_wrong_key<T>(
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
    let at = keys.iter().zip(found).find_map(|((key, expected), found)| {
        let found = found.ok().filter(|found| found != "none" && found != expected)?;
        Some(WrongKey { key: (*key).to_owned(), found, expected })
    });
    Err(StoreError::WrongType { at, source })
}
