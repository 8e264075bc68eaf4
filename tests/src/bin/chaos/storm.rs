//! Makes the faults of a schedule: those of one process or link one after the other, all others beside.

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

/// Below what any Redis of ours uses, so every write is refused.
const FULL: &str = "1mb";
/// Where nobody listens.
const NOWHERE: [&str; 2] = ["127.0.0.1", "1"];
/// How many of the next connections are cut in the midst of what they carry.
const CUTS: u32 = 3;

/// Waits so long, or until the load is over.
pub(crate) async fn hold(ms: u64, over: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(ms)) => {}
        () = over.cancelled() => {}
    }
}

/// Makes the faults until the load is over, ends those that last still, and gives how many there were
/// of each name.
pub(crate) async fn rage(
    world: &World,
    faults: Vec<Fault>,
    over: &CancellationToken,
) -> BTreeMap<String, usize> {
    let begun = Instant::now();
    let mut lanes: BTreeMap<_, Vec<Fault>> = BTreeMap::new();
    for fault in faults {
        lanes.entry((fault.place, is_soft(fault.kind), fault.which)).or_default().push(fault);
    }
    let lanes = lanes.into_values().map(|faults| lane(world, faults, begun, over));
    let mut made = BTreeMap::new();
    for name in join_all(lanes).await.concat() {
        *made.entry(name).or_default() += 1;
    }
    made
}

/// It needs no process for itself.
fn is_soft(kind: Kind) -> bool {
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
        note_and_make(world, &fault, over).await;
        made.push(fault.name());
    }
    made
}

/// Makes one, and ends it.
pub(crate) async fn note_and_make(world: &World, fault: &Fault, over: &CancellationToken) {
    world.journal.note(&format!("begin {} of {}: {fault:?}", fault.name(), fault.which + 1));
    make(world, fault, over).await;
    world.journal.note(&format!("end {} of {}", fault.name(), fault.which + 1));
}

async fn make(world: &World, fault: &Fault, over: &CancellationToken) {
    let which = fault.which;
    match fault.place {
        Place::Link => strain(world, fault, over).await,
        Place::Agent => agent(world, fault, over).await,
        Place::Hub => hub(world, fault, over).await,
        Place::Auth => auth(world, fault, over).await,
        Place::DeviceRedis => host(&world.devices[which].redis, 0, fault, over).await,
        Place::CloudRedis => host(&world.cloud, which, fault, over).await,
        Place::AuthRedis => host(&world.auth_redis, which, fault, over).await,
    }
}

/// A link. What took bytes away ends with a cut, since a TCP connection never goes on without them.
async fn strain(world: &World, fault: &Fault, over: &CancellationToken) {
    let device = &world.devices[fault.which];
    let link = &device.link;
    let lasts = hold(fault.lasts_ms, over);
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
            hold(fault.lasts_ms, over).await;
            // It may be down, or killed meanwhile: then there is no limit.
            let is_full = set(&device.redis, "maxmemory", FULL).await.is_ok();
            link.restore();
            lasts.await;
            if is_full {
                told(world, set(&device.redis, "maxmemory", "0").await);
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
        // It may end by itself meanwhile, but not while it is stopped.
        agent.lock().await.process().inspect(|process| process.pause());
        hold(fault.lasts_ms, over).await;
        agent.lock().await.process().inspect(|process| process.resume());
        return;
    }
    if fault.kind == Kind::Unmounted {
        let mut agent = agent.lock().await;
        agent.kill9();
        agent.unmount();
        agent.start();
        hold(fault.lasts_ms, over).await;
        return agent.mount();
    }
    agent.lock().await.kill9();
    hold(fault.lasts_ms, over).await;
    agent.lock().await.start();
}

async fn hub(world: &World, fault: &Fault, over: &CancellationToken) {
    let hub = &world.hubs[fault.which];
    if fault.kind == Kind::Pause {
        hub.lock().await.service.process().pause();
        hold(fault.lasts_ms, over).await;
        hub.lock().await.service.process().resume();
        return;
    }
    {
        let mut hub = hub.lock().await;
        hub.is_up = false;
        // Its port may soon be another's.
        world.balancer.retarget(fault.which, None);
        match fault.kind {
            Kind::Roll => drop(hub.service.terminate().await),
            _ => hub.service.kill9(),
        }
    }
    hold(fault.lasts_ms, over).await;
    let mut hub = hub.lock().await;
    hub.service.restart().await;
    hub.is_up = true;
    world.balancer.retarget(fault.which, Some(hub.service.address()));
}

async fn auth(world: &World, fault: &Fault, over: &CancellationToken) {
    let auth = &world.auth;
    match fault.kind {
        Kind::Revoke | Kind::Expire => {
            let client = &world.devices[fault.which].name;
            told(world, end_sessions(&world.auth_redis, client, fault.amount).await);
        }
        Kind::Cut => cut(&world.auth_link, fault),
        Kind::Pause => {
            auth.lock().await.service.process().pause();
            hold(fault.lasts_ms, over).await;
            auth.lock().await.service.process().resume();
        }
        _ => {
            {
                let mut auth = auth.lock().await;
                auth.is_up = false;
                auth.service.kill9();
            }
            hold(fault.lasts_ms, over).await;
            let mut auth = auth.lock().await;
            auth.service.restart().await;
            auth.is_up = true;
            world.auth_link.retarget(auth.service.address());
        }
    }
}

/// Now, or after so many milliseconds.
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
    let lasts = hold(fault.lasts_ms, over);
    let damage = match fault.kind {
        Kind::Pause => {
            host.pause().await;
            lasts.await;
            return host.resume().await;
        }
        // They need a Redis that is up; where it is not there is nothing to trim, fill or delete.
        Kind::Full | Kind::NoReplicas => {
            let (setting, bad) = match fault.kind {
                Kind::Full => ("maxmemory", FULL),
                _ => ("min-replicas-to-write", "1"),
            };
            if set(host, setting, bad).await.is_ok() {
                lasts.await;
                taken(set(host, setting, "0").await);
            }
            return;
        }
        Kind::Demote => {
            // One that answers reads, or one that answers nothing.
            let stale = if fault.amount == 1 { "yes" } else { "no" };
            taken(set(host, "replica-serve-stale-data", stale).await);
            taken(host.query::<()>(cmd("REPLICAOF").arg(&NOWHERE)).await);
            lasts.await;
            return taken(host.query::<()>(cmd("REPLICAOF").arg("NO").arg("ONE")).await);
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

/// Nobody else kills a Redis while this one's faults are made one after the other.
fn taken(done: RedisResult<()>) {
    done.expect("a Redis that is not killed takes a setting");
}

/// What could not be done because a Redis was down is no fault then.
fn told(world: &World, done: RedisResult<()>) {
    if let Err(error) = done {
        world.journal.note(&format!("not done: {error}"));
    }
}
