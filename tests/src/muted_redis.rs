//! A relay to a Redis that drops push messages: hints are lost, and nothing else is.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::redis_relay::Relay;

/// The relay. Its connections end when it is dropped.
pub struct MutedRedis {
    relay: Relay,
    dropped_hints: Arc<AtomicU64>,
}

impl MutedRedis {
    /// Starts a relay to the Redis at this loopback port.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start(redis: u16) -> Self {
        let dropped_hints = Arc::new(AtomicU64::new(0));
        let counted = dropped_hints.clone();
        let relay = Relay::start(redis, move |mut from_redis, mut to_client| {
            let dropped_hints = counted.clone();
            async move { pass_answers(&mut from_redis, &mut to_client, &dropped_hints).await }
        });
        Self { relay: relay.await, dropped_hints }
    }

    /// Returns the URL of the relay.
    pub fn url(&self) -> String {
        self.relay.url()
    }

    /// Returns how many hints it has dropped.
    pub fn dropped_hints(&self) -> u64 {
        self.dropped_hints.load(Ordering::Relaxed)
    }
}

async fn pass_answers(
    from_redis: &mut (impl AsyncReadExt + Unpin),
    to_client: &mut (impl AsyncWriteExt + Unpin),
    dropped_hints: &AtomicU64,
) -> std::io::Result<()> {
    let mut unread = Vec::new();
    while from_redis.read_buf(&mut unread).await? > 0 {
        while let Some(length) = value_length(&unread) {
            let value: Vec<u8> = unread.drain(..length).collect();
            match value[0] {
                b'>' => drop(dropped_hints.fetch_add(1, Ordering::Relaxed)),
                _ => to_client.write_all(&value).await?,
            }
        }
    }
    Ok(())
}

/// The length in bytes of the RESP3 value at the front; `None` while part of it is missing.
fn value_length(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let number = || std::str::from_utf8(&bytes[1..line - 2]).ok()?.parse::<i64>().ok();
    let parts = match bytes[0] {
        b'$' | b'=' | b'!' => {
            let length = number()?;
            let whole = if length < 0 { line } else { line + length as usize + 2 };
            return (bytes.len() >= whole).then_some(whole);
        }
        b'*' | b'~' | b'>' => number()?.max(0),
        b'%' => 2 * number()?,
        b'|' => 2 * number()? + 1,
        _ => 0,
    };
    (0..parts).try_fold(line, |at, _| Some(at + value_length(bytes.get(at..)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_as_long_as_its_parts() {
        let values = [
            "+OK\r\n",
            "$-1\r\n",
            "$2\r\n\r\n\r\n",
            ">2\r\n+a\r\n*1\r\n$1\r\nk\r\n",
            "%1\r\n:1\r\n_\r\n",
        ];
        for value in values {
            let followed = format!("{value}+OK\r\n");
            assert_eq!(value_length(followed.as_bytes()), Some(value.len()), "{value:?}");
            assert_eq!(value_length(&value.as_bytes()[..value.len() - 1]), None, "{value:?}");
        }
    }
}
