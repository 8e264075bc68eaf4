//! A relay to a Redis that swallows what Redis says unasked: its hints are lost, and nothing else is.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::redis_relay::Relay;

/// The relay; its connections end with it.
pub struct Deaf {
    relay: Relay,
    swallowed: Arc<AtomicU64>,
}

impl Deaf {
    /// A relay to the Redis at this port of the loopback.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start(redis: u16) -> Self {
        let swallowed = Arc::new(AtomicU64::new(0));
        let counted = swallowed.clone();
        let relay = Relay::start(redis, move |mut says, mut hears| {
            let swallowed = counted.clone();
            async move { pass_answers(&mut says, &mut hears, &swallowed).await }
        });
        Self { relay: relay.await, swallowed }
    }

    /// The URL of the Redis behind it.
    pub fn url(&self) -> String {
        self.relay.url()
    }

    /// How many hints it has swallowed.
    pub fn swallowed(&self) -> u64 {
        self.swallowed.load(Ordering::Relaxed)
    }
}

async fn pass_answers(
    says: &mut (impl AsyncReadExt + Unpin),
    hears: &mut (impl AsyncWriteExt + Unpin),
    swallowed: &AtomicU64,
) -> std::io::Result<()> {
    let mut unread = Vec::new();
    while says.read_buf(&mut unread).await? > 0 {
        while let Some(length) = value_length(&unread) {
            let value: Vec<u8> = unread.drain(..length).collect();
            match value[0] {
                b'>' => drop(swallowed.fetch_add(1, Ordering::Relaxed)),
                _ => hears.write_all(&value).await?,
            }
        }
    }
    Ok(())
}

/// Bytes of the whole RESP3 value at the front; none while some of it is missing.
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
