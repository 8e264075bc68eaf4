//! Questions to Redis servers and Sentinels that may be down or hang.

use std::time::Duration;

use redis::{AsyncConnectionConfig, FromRedisValue, aio::MultiplexedConnection, cmd};

/// How long a server that runs takes to answer at most.
pub const SILENCE: Duration = Duration::from_millis(500);
/// The name by which the Sentinels know the primary.
pub const MASTER: &str = "mymaster";

/// Connects to a server that may be down, or have been started again by someone else.
pub async fn connect(port: u16) -> Option<MultiplexedConnection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).ok()?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(SILENCE))
        .set_response_timeout(Some(SILENCE));
    client.get_multiplexed_async_connection_with_config(&config).await.ok()
}

/// Runs a command given as words on a connection of its own, if the server answers and does not refuse.
pub async fn asked<T: FromRedisValue>(port: u16, words: &[&str]) -> Option<T> {
    let mut connection = connect(port).await?;
    cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.ok()
}

/// The port of the primary that a Sentinel names.
pub async fn named_by(sentinel: u16) -> Option<u16> {
    let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER];
    let (_, port): (String, String) = asked(sentinel, &words).await?;
    port.parse().ok()
}
