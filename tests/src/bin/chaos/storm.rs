//! Injects the faults of a schedule: those of one process or link one after the other, all others
//! concurrently.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use rand::{SeedableRng, rngs::StdRng};
use redis::{RedisResult, cmd};
use spoke_tests::{
    chaos::fault::{Fault, Kind, Place},
    proxy::Proxy,
};
use tokio_util::sync::CancellationToken;

use crate::{
    host::{Damage, Host},
    world::World,
};

/// Less than any Redis here uses, so that every write is refused.
const FULL: &str = "1mb";
/// An address where nothing listens.
const NOWHERE: [&str; 2] = ["127.0.0.1", "1"];
/// How many of the next connections are cut in the middle of a transfer.
const CUTS: u32 = 3;

/// Waits this long, or until the load is over.
pub(crate) async fn wait(ms: u64, over: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(ms)) => {}
        () = over.cancelled() => {}
    }
}

/// Injects the faults until the load is over, ends those that still last, and returns the number of faults
/// by name.
pub(crate) async fn run_schedule(
    world: &World,
    faults: Vec<Fault>,
    over: &CancellationToken,
) -> BTreeMap<String, usize> {
    let begun = Instant::now();
    let mut lanes: BTreeMap<_, Vec<Fault>> = BTreeMap::new();
    for fault in faults {
        lanes.entry((fault.place, can_overlap(fault.kind), fault.which)).or_default().push(fault);
    }
    let lanes = lanes.into_values().map(|faults| lane(world, faults, begun, over));
    let mut made = BTreeMap::new();
    for name in join_all(lanes).await.concat() {
        *made.entry(name).or_default() += 1;
    }
    made
}

/// Returns whether the fault can overlap others of the same place.
fn can_overlap(kind: Kind) -> bool {
    matches!(kind, Kind::Trim | Kind::Delete | Kind::Revoke | Kind::Expire)
}

async fn lane(
    world: &World,
    faults: Vec<Fault>,
    begun: Instant,
    over: &CancellationToken,
) -> Vec<String> {
    let mut made = Vec::new();
    for fault in faults {
        let at = begun + Duration::from_millis(fault.at_ms);
        tokio::select! {
            () = tokio::time::sleep_until(at.into()) => {}
            () = over.cancelled() => break,
        }
        inject(world, &fault, over).await;
        made.push(fault.name());
    }
    made
}

/// Injects one fault, and ends it.
pub(crate) async fn inject(world: &World, fault: &Fault, over: &CancellationToken) {
    world.journal.note(&format!("begin {} of {}: {fault:?}", fault.name(), fault.which + 1));
    make(world, fault, over).await;
    world.journal.note(&format!("end {} of {}", fault.name(), fault.which + 1));
}

async fn make(world: &World, fault: &Fault, over: &CancellationToken) {
    let which = fault.which;
    match fault.place {
        Place::Link => link(world, fault, over).await,
        Place::Agent => agent(world, fault, over).await,
        Place::Hub => hub(world, fault, over).await,
        Place::Auth => auth(world, fault, over).await,
        Place::DeviceRedis => {
            let redis = &world.devices[which].redis;
            let origin = fault.at_ms as usize % redis.origins.len();
            host(redis, origin, fault, over).await;
        }
        Place::CloudRedis => host(&world.cloud, which, fault, over).await,
        Place::AuthRedis => host(&world.auth_redis, which, fault, over).await,
    }
}

/// A fault of a link. One that loses bytes ends with a cut, since a TCP connection cannot continue without
/// them.
async fn link(world: &World, fault: &Fault, over: &CancellationToken) {
    let device = &world.devices[fault.which];
    let link = &device.link;
    let lasts = wait(fault.lasts_ms, over);
    match fault.kind {
        Kind::HalfOpen => {
            link.strand();
            lasts.await;
        }
        Kind::BlackHole => {
            link.black_hole();
            lasts.await;
        }
        Kind::LostAnswers => {
            link.lose_downstream();
            lasts.await;
        }
        Kind::Slow => {
            link.delay(Duration::from_millis(fault.amount));
            lasts.await;
            link.delay(Duration::ZERO);
            return;
        }
        Kind::Offline | Kind::TrimOffline => {
            link.refuse();
            link.cut();
            lasts.await;
            if fault.kind == Kind::TrimOffline {
                device.redis.trim(0, fault.amount).await;
            }
        }
        Kind::FullOffline => {
            link.refuse();
            link.cut();
            wait(fault.lasts_ms, over).await;
            // Redis may be down, or killed in the meantime: then no limit is set.
            let is_full = set(&device.redis, "maxmemory", FULL).await.is_ok();
            link.restore();
            lasts.await;
            if is_full {
                note_failure(world, set(&device.redis, "maxmemory", "0").await);
            }
            return;
        }
        Kind::NoWebsocket => {
            link.refuse_upgrades();
            link.cut();
            lasts.await;
        }
        _ => cut(link, fault),
    }
    link.cut();
    link.restore();
}

fn cut(link: &Proxy, fault: &Fault) {
    let random = StdRng::seed_from_u64(fault.at_ms);
    link.cut_after(random, 1..fault.amount.max(2), CUTS);
    link.cut();
}

async fn agent(world: &World, fault: &Fault, over: &CancellationToken) {
    let agent = &world.devices[fault.which].agent;
    if fault.kind == Kind::Pause {
        // The agent may have ended on its own, but it cannot end while it is stopped.
        agent.lock().await.process().inspect(|process| process.pause());
        wait(fault.lasts_ms, over).await;
        agent.lock().await.process().inspect(|process| process.resume());
        return;
    }
    if fault.kind == Kind::Unmounted {
        let mut agent = agent.lock().await;
        agent.kill9();
        agent.unmount();
        agent.start();
        wait(fault.lasts_ms, over).await;
        return agent.mount();
    }
    agent.lock().await.kill9();
    wait(fault.lasts_ms, over).await;
    agent.lock().await.start();
}

async fn hub(world: &World, fault: &Fault, over: &CancellationToken) {
    let hub = &world.hubs[fault.which];
    if fault.kind == Kind::Pause {
        hub.lock().await.service.process().pause();
        wait(fault.lasts_ms, over).await;
        hub.lock().await.service.process().resume();
        return;
    }
    {
        let mut hub = hub.lock().await;
        hub.is_up = false;
        // Another process may soon use its port.
        world.balancer.retarget(fault.which, None);
        match fault.kind {
            Kind::Roll => drop(hub.service.terminate().await),
            _ => hub.service.kill9(),
        }
    }
    wait(fault.lasts_ms, over).await;
    let mut hub = hub.lock().await;
    hub.service.restart().await;
    hub.is_up = true;
    world.balancer.retarget(fault.which, Some(hub.service.address()));
}

async fn auth(world: &World, fault: &Fault, over: &CancellationToken) {
    let auth = &world.auth;
    match fault.kind {
        Kind::Revoke | Kind::Expire => {
            let client = &world.clients[fault.which].name;
            note_failure(world, end_sessions(&world.auth_redis, client, fault.amount).await);
        }
        Kind::Cut => cut(&world.auth_link, fault),
        Kind::Pause => {
            auth.lock().await.service.process().pause();
            wait(fault.lasts_ms, over).await;
            auth.lock().await.service.process().resume();
        }
        _ => {
            {
                let mut auth = auth.lock().await;
                auth.is_up = false;
                auth.service.kill9();
            }
            wait(fault.lasts_ms, over).await;
            let mut auth = auth.lock().await;
            auth.service.restart().await;
            auth.is_up = true;
            world.auth_link.retarget(auth.service.address());
        }
    }
}

/// Ends the sessions of a client after this many milliseconds.
async fn end_sessions(redis: &Host, client: &str, after_ms: u64) -> RedisResult<()> {
    let keys: Vec<String> = redis.query(cmd("KEYS").arg("spoke-auth:session:*")).await?;
    for key in keys {
        let owner: Option<String> = redis.query(cmd("HGET").arg(&key).arg("client")).await?;
        if owner.as_deref() == Some(client) {
            redis.query::<()>(cmd("PEXPIRE").arg(&key).arg(after_ms)).await?;
        }
    }
    Ok(())
}

async fn host(host: &Host, which: usize, fault: &Fault, over: &CancellationToken) {
    let lasts = wait(fault.lasts_ms, over);
    let damage = match fault.kind {
        Kind::Pause => {
            host.pause().await;
            lasts.await;
            return host.resume().await;
        }
        // These need a Redis that is up; otherwise there is nothing to do.
        Kind::Full | Kind::NoReplicas => {
            let (setting, bad) = match fault.kind {
                Kind::Full => ("maxmemory", FULL),
                _ => ("min-replicas-to-write", "1"),
            };
            if set(host, setting, bad).await.is_ok() {
                lasts.await;
                require(set(host, setting, "0").await);
            }
            return;
        }
        Kind::Demote => {
            // A replica that answers reads, or one that answers nothing.
            let stale = if fault.amount == 1 { "yes" } else { "no" };
            require(set(host, "replica-serve-stale-data", stale).await);
            require(host.query::<()>(cmd("REPLICAOF").arg(&NOWHERE)).await);
            lasts.await;
            return require(host.query::<()>(cmd("REPLICAOF").arg("NO").arg("ONE")).await);
        }
        Kind::FailOver => return host.fail_over().await,
        Kind::Trim => return host.trim(which, fault.amount).await,
        Kind::Delete => return drop(host.delete(which, fault.amount).await),
        Kind::Truncate => Damage::Truncated(fault.amount),
        Kind::Wipe => Damage::Wiped,
        _ => Damage::None,
    };
    host.crash(damage, fault.clock_back_ms, lasts).await;
}

async fn set(host: &Host, setting: &str, value: &str) -> RedisResult<()> {
    host.query(cmd("CONFIG").arg("SET").arg(setting).arg(value)).await
}

/// Requires success: faults of one Redis never overlap, so it cannot have been killed.
fn require(done: RedisResult<()>) {
    done.expect("a running Redis accepts a setting");
}

/// Notes a fault that could not be injected because Redis was down.
fn note_failure(world: &World, done: RedisResult<()>) {
    if let Err(error) = done {
        world.journal.note(&format!("not done: {error}"));
    }
}
