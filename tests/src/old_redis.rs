//! A relay to a Redis that makes it say that it is of version 6, since no older one can be had everywhere.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
};

use crate::redis_relay::Relay;

/// The relay; its connections end with it.
pub struct Aged {
    relay: Relay,
    is_old: Arc<watch::Sender<bool>>,
}

impl Aged {
    /// A relay to the Redis at this port of the loopback, which says what it is until `set_old`.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start(redis: u16) -> Self {
        let is_old = Arc::new(watch::Sender::new(false));
        let version = is_old.clone();
        let relay = Relay::start(redis, move |mut says, mut hears| {
            let mut changes = version.subscribe();
            let is_old = *changes.borrow_and_update();
            async move {
                tokio::select! {
                    passed = pass_answers(&mut says, &mut hears, is_old) => passed,
                    _ = changes.changed() => Ok(()),
                }
            }
        });
        Self { relay: relay.await, is_old }
    }

    /// The URL of the Redis behind it.
    pub fn url(&self) -> String {
        self.relay.url()
    }

    /// Closes all connections; on new ones it is of version 6, or again what it is.
    pub fn set_old(&self, is_old: bool) {
        self.is_old.send_replace(is_old);
    }
}

async fn pass_answers(
    says: &mut (impl AsyncReadExt + Unpin),
    hears: &mut (impl AsyncWriteExt + Unpin),
    is_old: bool,
) -> std::io::Result<()> {
    const VERSION: &[u8] = b"\r\nversion\r\n$";
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = says.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let answer = &mut buffer[..length];
        let found = answer.windows(VERSION.len()).position(|part| part == VERSION);
        if let Some(at) = found.filter(|_| is_old) {
            let digit = answer[at + VERSION.len()..].iter().position(|byte| *byte == b'\n');
            answer[at + VERSION.len() + digit.expect("a length has a line") + 1] = b'6';
        }
        hears.write_all(answer).await?;
    }
}
