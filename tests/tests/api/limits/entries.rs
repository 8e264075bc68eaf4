//! Entries at their limits: the largest that is carried, and the smallest that is not.

use spoke_tests::{
    checker::{assert_same, expected},
    cloud::{Cloud, IN, out},
    device::{DEAD, Device, OUT},
    entries::{Fields, every_byte, fields},
    wait::eventually_is,
};

const MEBIBYTE: usize = 1024 * 1024;

fn with_fields(count: usize) -> Fields {
    fields((0..count).map(|i| (format!("f{i}"), "v")))
}

fn of_size(bytes: usize) -> Fields {
    fields([("blob", every_byte(bytes))])
}

/// The largest possible entry: 128 names of a kibibyte, and a mebibyte of values.
fn largest() -> Fields {
    let name = |i: usize| format!("{i:03}").into_bytes().into_iter().cycle().take(1024).collect();
    (0..128).map(|i| (name(i), every_byte(MEBIBYTE / 128))).collect()
}

/// Entries at and beyond each limit, with whether they are carried.
fn limit_cases() -> Vec<(&'static str, Fields, bool)> {
    let name = |length: usize| fields([("n".repeat(length), "v")]);
    vec![
        ("128 fields", with_fields(128), true),
        ("129 fields", with_fields(129), false),
        ("1 MiB", of_size(MEBIBYTE), true),
        ("1 MiB and a byte", of_size(MEBIBYTE + 1), false),
        ("a name of 1 KiB", name(1024), true),
        ("a name of 1 KiB and a byte", name(1025), false),
        ("the largest of all", largest(), true),
    ]
}

#[tokio::test]
async fn entries_at_the_limits_are_carried_up_and_those_beyond_become_dead_letters() {
    for transport in ["ws", "http"] {
        let cloud = Cloud::start().await;
        let device = Device::start_with(&cloud, "dev1", &[("transport", transport)]).await;
        let (mut good, mut bad) = (Vec::new(), 0);
        for (_, fields, is_carried) in limit_cases() {
            let added = device.redis.add_all(OUT, &[fields]).await;
            if is_carried {
                good.extend(added);
            } else {
                bad += 1;
            }
        }
        device.carried_both_ways(&cloud).await;
        assert_same(transport, &expected(&good, Some(1)), &cloud.carried("dev1").await);
        assert_eq!(device.redis.length(DEAD).await, bad);
    }
}

#[tokio::test]
async fn entries_at_the_limits_are_carried_down_and_those_beyond_become_dead_letters() {
    for transport in ["ws", "http"] {
        let cloud = Cloud::start().await;
        let device = Device::start_with(&cloud, "dev1", &[("transport", transport)]).await;
        let (mut good, mut bad) = (Vec::new(), 0);
        for (_, fields, is_carried) in limit_cases() {
            let added = cloud.redis.add_all(&out("dev1"), &[fields]).await;
            if is_carried {
                good.extend(added);
            } else {
                bad += 1;
            }
        }
        let length = good.len();
        eventually_is("the valid entries to arrive", length, async || {
            device.redis.length(spoke_tests::device::IN).await
        })
        .await;
        assert_same(transport, &expected(&good, None), &device.carried().await);
        assert_eq!(cloud.redis.length("spoke-hub:dead:x").await, bad);
    }
}

#[tokio::test]
async fn a_hundred_of_the_largest_entries_are_carried_both_ways() {
    for transport in ["ws", "http"] {
        let cloud = Cloud::start().await;
        let device = Device::start_with(&cloud, "dev1", &[("transport", transport)]).await;
        // Both streams together are near the shipped limit of a device.
        device.redis.command::<()>(&["CONFIG", "SET", "maxmemory", "512mb"]).await;
        let all: Vec<_> = (0..50).map(|_| largest()).collect();
        let up = device.redis.add_all(OUT, &all).await;
        let down = cloud.redis.add_all(&out("dev1"), &all).await;
        device.carried_both_ways(&cloud).await;
        assert_same("up", &expected(&up, Some(1)), &cloud.carried("dev1").await);
        assert_same("down", &expected(&down, None), &device.carried().await);
    }
}

#[tokio::test]
async fn a_client_with_the_longest_name_is_served() {
    let cloud = Cloud::start().await;
    let name = format!("N{}", "._-x".repeat(16)).chars().take(64).collect::<String>();
    let device = Device::start(&cloud, &name).await;
    let up = device.redis.add_all(OUT, &[with_fields(1)]).await;
    cloud.redis.add(&out(&name), &with_fields(1)).await;
    device.carried_both_ways(&cloud).await;
    assert_same("up", &expected(&up, Some(1)), &cloud.carried(&name).await);
}

#[tokio::test]
async fn the_in_stream_keeps_about_in_max_len_entries() {
    let settings = spoke_tests::cloud::Settings {
        hub: &[("in_max_len", "500"), ("in_trim", "all"), ("in_min_age_seconds", "0")],
        auth: &[],
    };
    let cloud = Cloud::start_with(settings).await;
    let device = Device::start(&cloud, "dev1").await;
    let all: Vec<_> = (0..3000).map(spoke_tests::entries::numbered).collect();
    let up = device.redis.add_all(OUT, &all).await;
    // Redis removes whole nodes of a hundred entries.
    let last = up.last().map(|entry| entry.id.clone());
    spoke_tests::wait::eventually_true("the oldest entries to be trimmed", async || {
        let found = cloud.redis.entries(IN).await;
        let is_last = found.last().and_then(|entry| entry.text("seq")) == last;
        is_last && (500..=700).contains(&found.len())
    })
    .await;
    let found = cloud.carried("dev1").await;
    let newest = &up[up.len() - found.len()..];
    assert_same("the newest", &expected(newest, Some(1)), &found);
}

#[tokio::test]
async fn trimmed_unread_entries_are_counted_and_recent_entries_are_kept() {
    let settings = |age| spoke_tests::cloud::Settings {
        hub: [&[("in_max_len", "500"), ("in_trim", "all"), ("in_min_age_seconds", age)][..]]
            .concat()
            .leak(),
        auth: &[],
    };
    let all: Vec<_> = (0..3000).map(spoke_tests::entries::numbered).collect();

    let cloud = Cloud::start_with(settings("3600")).await;
    let device = Device::start(&cloud, "dev1").await;
    let up = device.redis.add_all(OUT, &all).await;
    device.carried_both_ways(&cloud).await;
    tokio::time::sleep(2 * spoke_hub::limits::TRIM_INTERVAL).await;
    assert_same("all recent entries", &expected(&up, Some(1)), &cloud.carried("dev1").await);

    let cloud = Cloud::start_with(settings("0")).await;
    let create = ["XGROUP", "CREATE", IN, "billing", "$", "MKSTREAM"];
    let _: redis::Value = cloud.redis.command(&create).await;
    let device = Device::start(&cloud, "dev1").await;
    device.redis.add_all(OUT, &all).await;
    spoke_tests::wait::eventually_true("the loss to be counted", async || {
        let remaining = cloud.redis.length(IN).await;
        let counted = cloud.redis.hash("spoke-hub:trim:h").await;
        let unread: usize = counted.get("unread").map_or(0, |text| text.parse().unwrap());
        remaining > 0 && unread > 0 && unread == 3000 - remaining && remaining <= 700
    })
    .await;
    let lines = cloud.redis.entries("spoke-hub:lost:x").await;
    let field = |name: &str| lines[0].text(name).unwrap();
    assert_eq!((lines.len(), &*field("client"), &*field("cause")), (1, "*", "trimmed-unread"));
    spoke_tests::wait::eventually_true("the loss to be logged", async || {
        cloud.hub.log().contains("unread entries trimmed")
    })
    .await;
}

#[tokio::test]
async fn only_what_every_group_has_acknowledged_is_trimmed_and_the_log_names_the_group_that_is_behind()
 {
    let settings = spoke_tests::cloud::Settings {
        hub: &[("in_max_len", "500"), ("in_min_age_seconds", "0")],
        auth: &[],
    };
    let cloud = Cloud::start_with(settings).await;
    let device = Device::start(&cloud, "dev1").await;
    let all: Vec<_> = (0..3000).map(spoke_tests::entries::numbered).collect();
    let up = device.redis.add_all(OUT, &all).await;
    device.carried_both_ways(&cloud).await;
    let logged = async |words: &str| {
        spoke_tests::wait::eventually_true(words, async || cloud.hub.log().contains(words)).await;
    };
    logged(r#""group":"none""#).await;
    assert_same("without a group", &expected(&up, Some(1)), &cloud.carried("dev1").await);

    for group in ["billing", "slow"] {
        cloud.redis.command::<()>(&["XGROUP", "CREATE", IN, group, "0"]).await;
    }
    let read = async |group: &str, count: &str| -> Vec<String> {
        let read = ["XREADGROUP", "GROUP", group, "c", "COUNT", count, "STREAMS", IN, ">"];
        let streams: Vec<(String, Vec<(String, redis::Value)>)> = cloud.redis.command(&read).await;
        streams.into_iter().flat_map(|(_, entries)| entries).map(|(id, _)| id).collect()
    };
    let ack = async |group: &str, ids: &[String]| {
        let mut ack = redis::cmd("XACK");
        cloud.redis.query::<()>(ack.arg(IN).arg(group).arg(ids)).await;
    };
    let ids = read("billing", "3000").await;
    ack("billing", &ids).await;
    let first = read("slow", "1000").await;
    // Entry 400 of the slow group is pending.
    ack("slow", &first[..400]).await;
    ack("slow", &first[401..]).await;
    spoke_tests::wait::eventually_true("the entries before it to be trimmed", async || {
        cloud.redis.length(IN).await < 2700
    })
    .await;
    tokio::time::sleep(2 * spoke_hub::limits::TRIM_INTERVAL).await;
    let left = cloud.carried("dev1").await;
    assert!(left.len() >= 2600, "entry 400 is trimmed: {} are left", left.len());

    ack("slow", &first[400..401]).await;
    let rest = read("slow", "3000").await;
    ack("slow", &rest).await;
    logged("unread entries no longer prevent trimming of the in stream").await;
    assert!((500..=1000).contains(&cloud.redis.length(IN).await));
    assert_eq!(cloud.redis.length("spoke-hub:lost:x").await, 0);
}
