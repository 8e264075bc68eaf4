//! Probes whether a Redis accepts writes, so that its health is known while nothing is written, and follows the primary
//! that Sentinels or the nodes of a cluster name.

use std::{io, time::Duration};

use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Redis, StoreError};
use crate::{
    limits::{DISCOVERY_INTERVAL, PROBE_INTERVAL, PROBE_INTERVAL_DOWN, PROBE_TIMEOUT},
    partitions::Partitions,
};
use spoke_diagnostics::error_chain;

/// Probes this Redis until `ended`: rarely while it is healthy, often while it is not, and at once where another node of a
/// cluster has it.
pub async fn watch(redis: Redis, ended: CancellationToken) {
    let mut map = redis.router().map(|router| router.map());
    loop {
        let wait = match probe(&redis).await {
            Ok(()) => PROBE_INTERVAL,
            Err(_) => PROBE_INTERVAL_DOWN,
        };
        let owner = redis.slot_owner();
        let moved = async {
            let Some(map) = &mut map else { return std::future::pending().await };
            while map.changed().await.is_ok() && redis.slot_owner() == owner {}
        };
        tokio::select! {
            () = ended.cancelled() => return,
            () = sleep(wait) => {}
            () = moved => {}
            () = redis.health().began(), if wait == PROBE_INTERVAL => sleep(PROBE_INTERVAL_DOWN).await,
        }
    }
}

/// A node of a cluster that hangs is down long before a command gives up: others are not, and it is shown.
async fn probe(redis: &Redis) -> Result<(), StoreError> {
    if !redis.is_clustered() {
        return redis.probe().await;
    }
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no reply in time").into();
    let probed = timeout(PROBE_TIMEOUT, redis.probe()).await;
    probed.unwrap_or_else(|_| Err(late())).inspect_err(|error| redis.health().handle_error(error))
}

/// Follows the primary that is named, until `ended`. A server that hangs closes no connection: it is left as soon as
/// another one is named.
pub async fn follow_primary(redis: Redis, ended: CancellationToken) {
    match redis.router() {
        Some(_) => follow_cluster(redis, ended).await,
        None => follow_sentinels(redis, ended).await,
    }
}

async fn follow_sentinels(redis: Redis, ended: CancellationToken) {
    let mut look = interval(DISCOVERY_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = ended.cancelled() => return,
            _ = look.tick() => {}
            () = redis.new_primary_announced() => {}
        }
        if let Some(address) = redis.leave_old_primary().await {
            info!(%address, "redis primary changed; reconnecting");
            // Its success lets all other connections follow.
            let _ = redis.probe().await;
        }
    }
}

async fn follow_cluster(redis: Redis, ended: CancellationToken) {
    let Some(router) = redis.router() else { return };
    let mut look = interval(DISCOVERY_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = router.map();
    let mut before = known.borrow_and_update().primaries();
    loop {
        tokio::select! {
            () = ended.cancelled() => return,
            _ = look.tick() => {}
            // Thousands of commands may find out at once.
            () = router.look_wanted() => sleep(LOOK_DELAY).await,
        }
        let _ = router.look().await;
        let primaries = known.borrow_and_update().primaries();
        if primaries != before {
            if !before.is_empty() {
                let primaries: Vec<_> = primaries.iter().map(ToString::to_string).collect();
                info!(primaries = primaries.join(" "), "redis cluster primaries changed");
            }
            before = primaries;
        }
    }
}

/// After a node has said that a slot has moved, other slots follow within milliseconds.
const LOOK_DELAY: Duration = Duration::from_millis(20);

/// Logs how many partitions of a cluster are down, when that begins, gets worse and ends, until `ended`.
pub async fn log_partitions(partitions: Partitions, ended: CancellationToken) {
    // The most since all were up.
    let mut most = 0;
    loop {
        let problems: Vec<String> =
            partitions.all().iter().filter_map(|it| it.redis.health().problem()).collect();
        let count = problems.len();
        match problems.first() {
            Some(error) if count > most => {
                let partitions = partitions.all().len();
                warn!(error, count, partitions, "partitions of the redis cluster are down");
                most = count;
            }
            None if most > 0 => {
                info!("all partitions of the redis cluster accept writes again");
                most = 0;
            }
            _ => {}
        }
        tokio::select! {
            () = ended.cancelled() => return,
            () = sleep(PROBE_INTERVAL_DOWN) => {}
        }
    }
}

/// Checks that a Redis accepts writes now.
///
/// # Errors
/// The problem, for a person.
pub async fn ready(redis: &Redis) -> Result<(), String> {
    match timeout(PROBE_TIMEOUT, redis.probe()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error_chain(&error)),
        Err(_) => Err(format!("redis did not reply within {} s", PROBE_TIMEOUT.as_secs())),
    }
}
