//! Three Sentinels promote a replica: the services, and an agent, follow without a hand.

use std::time::{Duration, Instant};

use spoke_tests::{
    cloud::{Cloud, IN, LOST, Settings, now_ms, out, provision},
    device::{Device, IN as DEVICE_IN, OUT},
    sentinels::SentinelGroup,
    wait::{PATIENCE, eventually},
};

use super::numbers::{add, wait_for_numbers};

/// How soon a service uses the new primary, once a Sentinel names it.
const FOLLOWS: Duration = Duration::from_secs(1);
/// How soon everything works again: an agent waits before it comes back.
const RECOVERY: Duration = Duration::from_secs(5);
/// How soon an entry is delivered then: only a hint is as fast.
const LIVE: Duration = Duration::from_millis(400);
/// The default retry settings of a device.
const RETRIES: [(&str, &str); 2] = [("retry_first_ms", "500"), ("retry_longest_ms", "60000")];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Killed,
    Hung,
    DemotedByHand,
}

impl Fault {
    const ALL: [Self; 3] = [Self::Killed, Self::Hung, Self::DemotedByHand];

    async fn strike(self, group: &mut SentinelGroup) {
        match self {
            Self::Killed => group.servers[0].kill9(),
            Self::Hung => group.servers[0].pause(),
            Self::DemotedByHand => group.fail_over().await,
        }
    }
}

#[tokio::test]
async fn hub_and_auth_follow_the_sentinels_to_the_new_primary_and_lose_nothing() {
    for fault in Fault::ALL {
        let mut group = SentinelGroup::start().await;
        let url = group.url();
        let settings = Settings { hub: &[("redis", &url)], auth: &[("redis", &url)] };
        let cloud = Cloud::start_with(settings).await;
        let mut device = Device::without_agent(&cloud, "dev1", &RETRIES).await;
        provision(&group.servers[0], "dev1", now_ms() + 3_600_000).await;
        device.start_agent();
        add(&device.redis, OUT, (0, 99)).await;
        wait_for_numbers(&group.servers[0], IN, 99, PATIENCE, "the entries before").await;

        let struck = Instant::now();
        fault.strike(&mut group).await;
        add(&device.redis, OUT, (100, 199)).await;
        let primary = group.promoted().await;
        let named = Instant::now();
        for (what, admin) in [("the hub", cloud.hub.admin()), ("auth", cloud.auth.admin())] {
            let left = FOLLOWS.saturating_sub(named.elapsed());
            eventually(&format!("{fault:?}: {what} to be ready"), left, async || {
                let answer = admin.get("/readyz").await;
                if answer.status == 200 { Ok(()) } else { Err(answer) }
            })
            .await;
        }
        let ready = struck.elapsed();
        let left = RECOVERY.saturating_sub(named.elapsed());
        wait_for_numbers(primary, IN, 199, left, &format!("{fault:?}: the entries behind")).await;
        println!(
            "{fault:?}: named after {:?}, ready after {ready:?}, all carried after {:?}",
            named - struck,
            struck.elapsed()
        );
        for n in 0..2 {
            add(primary, &out("dev1"), (n, n)).await;
            wait_for_numbers(&device.redis, DEVICE_IN, n, LIVE, &format!("{fault:?}: down")).await;
        }
        assert_eq!(primary.length(LOST).await, 0, "{fault:?}: nothing is lost");
    }
}

#[tokio::test]
async fn an_agent_follows_the_sentinels_of_its_own_redis() {
    for fault in Fault::ALL {
        let cloud = Cloud::start().await;
        let mut group = SentinelGroup::start().await;
        let url = group.url();
        let own = [RETRIES[0], RETRIES[1], ("redis", &*url)];
        let _device = Device::start_with(&cloud, "dev1", &own).await;
        add(&group.servers[0], OUT, (0, 99)).await;
        wait_for_numbers(&cloud.redis, IN, 99, PATIENCE, "the entries before").await;

        fault.strike(&mut group).await;
        add(&cloud.redis, &out("dev1"), (0, 99)).await;
        let primary = group.promoted().await;
        let named = Instant::now();
        add(primary, OUT, (100, 199)).await;
        let what = format!("{fault:?}: the entries down");
        wait_for_numbers(primary, DEVICE_IN, 99, RECOVERY, &what).await;
        let left = RECOVERY.saturating_sub(named.elapsed());
        wait_for_numbers(&cloud.redis, IN, 199, left, &format!("{fault:?}: the entries up")).await;
        add(primary, OUT, (200, 200)).await;
        wait_for_numbers(&cloud.redis, IN, 200, LIVE, &format!("{fault:?}: up")).await;
    }
}
