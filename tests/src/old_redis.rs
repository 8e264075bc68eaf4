//! A relay that makes a Redis report version 6, since an older Redis is not available everywhere.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
};

use crate::redis_relay::Relay;

/// The relay. Its connections end when it is dropped.
pub struct OldRedis {
    relay: Relay,
    is_old: Arc<watch::Sender<bool>>,
}

impl OldRedis {
    /// Starts a relay to the Redis at this loopback port, which reports its real version until `set_old`.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start(redis: u16) -> Self {
        let is_old = Arc::new(watch::Sender::new(false));
        let version = is_old.clone();
        let relay = Relay::start(redis, move |mut from_redis, mut to_client| {
            let mut changes = version.subscribe();
            let is_old = *changes.borrow_and_update();
            async move {
                tokio::select! {
                    passed = pass_answers(&mut from_redis, &mut to_client, is_old) => passed,
                    _ = changes.changed() => Ok(()),
                }
            }
        });
        Self { relay: relay.await, is_old }
    }

    /// Returns the URL of the relay.
    pub fn url(&self) -> String {
        self.relay.url()
    }

    /// Closes all connections; new ones report version 6, or the real version again.
    pub fn set_old(&self, is_old: bool) {
        self.is_old.send_replace(is_old);
    }
}

async fn pass_answers(
    from_redis: &mut (impl AsyncReadExt + Unpin),
    to_client: &mut (impl AsyncWriteExt + Unpin),
    is_old: bool,
) -> std::io::Result<()> {
    const VERSION: &[u8] = b"\r\nversion\r\n$";
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from_redis.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let answer = &mut buffer[..length];
        let found = answer.windows(VERSION.len()).position(|part| part == VERSION);
        if let Some(at) = found.filter(|_| is_old) {
            let digit = answer[at + VERSION.len()..].iter().position(|byte| *byte == b'\n');
            answer[at + VERSION.len() + digit.expect("a length has a line") + 1] = b'6';
        }
        to_client.write_all(answer).await?;
    }
}
