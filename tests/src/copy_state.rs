//! The state of a copy, in its hash.

use crate::redis::RedisServer;

/// The field of the hash.
pub const FIELD: &str = "in";

/// Returns epoch and seq of the cursor in this hash; none without one.
///
/// # Panics
/// If Redis fails or the state has another form.
pub async fn cursor(redis: &RedisServer, hash: &str) -> Option<(u64, String)> {
    redis.command::<Option<String>>(&["HGET", hash, FIELD]).await.map(|text| parsed(&text))
}

/// Parses epoch and seq of the cursor.
///
/// # Panics
/// If the state has another form.
pub fn parsed(state: &str) -> (u64, String) {
    let mut parts = state.split(' ');
    let epoch = parts.next().and_then(|epoch| epoch.parse().ok()).expect("an epoch comes first");
    (epoch, parts.next().expect("the seq follows").to_owned())
}

/// Changes the time of the last batch to 0.
///
/// # Panics
/// If Redis fails or the state has another form.
pub async fn forget_time(redis: &RedisServer, hash: &str) {
    let state: String = redis.command(&["HGET", hash, FIELD]).await;
    let mut parts: Vec<_> = state.split(' ').collect();
    *parts.get_mut(3).expect("the time is the fourth part") = "0";
    redis.command::<()>(&["HSET", hash, FIELD, &parts.join(" ")]).await;
}
