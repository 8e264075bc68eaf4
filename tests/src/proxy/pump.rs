//! Carries the bytes of one direction of a connection under the network's current conditions.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{ReadHalf, WriteHalf},
};

use super::{CHUNK, Carry, Direction, Network, handshake_only::Handshake};

/// The connection is to be cut.
pub(super) struct Cut;

pub(super) async fn pump(
    network: &Network,
    direction: Direction,
    (budget, all): (Option<u64>, &AtomicU64),
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
) -> Result<(), Cut> {
    let mut conditions = network.conditions.subscribe();
    let mut left = budget.unwrap_or(u64::MAX);
    let mut has_lost = false;
    let is_limited = direction == Direction::Up && network.now().carry == Carry::HandshakeOnly;
    let mut handshake = is_limited.then(Handshake::default);
    let mut chunk = vec![0; CHUNK];
    loop {
        let mut length = from.read(&mut chunk).await.map_err(|_| Cut)?;
        let now = *conditions.wait_for(|now| now.carry != Carry::Nothing).await.map_err(|_| Cut)?;
        if now.carry == Carry::UpOnly && direction == Direction::Down {
            has_lost = true;
            if length == 0 {
                return Err(Cut);
            }
            continue;
        }
        if has_lost {
            return Err(Cut);
        }
        if let Some(handshake) = handshake.as_mut().filter(|_| length > 0) {
            length = handshake.pass(&chunk[..length]);
            if length == 0 {
                continue;
            }
        }
        if length == 0 {
            to.shutdown().await.map_err(|_| Cut)?;
            return Ok(());
        }
        if !now.delay.is_zero() {
            tokio::time::sleep(now.delay).await;
        }
        let both = all.load(Ordering::Relaxed);
        let part = length.min(usize::try_from(left.min(both)).unwrap_or(usize::MAX));
        all.store(both - part as u64, Ordering::Relaxed);
        to.write_all(&chunk[..part]).await.map_err(|_| Cut)?;
        network.bytes[direction as usize].fetch_add(part as u64, Ordering::Relaxed);
        left -= part as u64;
        if part < length && left > 0 {
            return Err(Cut);
        }
        if left == 0 {
            network.cut_by_plan.fetch_add(1, Ordering::Relaxed);
            return Err(Cut);
        }
    }
}
