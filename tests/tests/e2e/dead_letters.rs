//! Poison entries do not block: an entry that can never be carried becomes a dead letter with its reason,
//! and the stream continues.

use spoke_tests::{
    checker::{Carried, expected},
    cloud::{Cloud, out},
    device::{DEAD, Device, OUT},
    entries::{Fields, Stored, every_byte, fields, numbered},
    wait::eventually_is,
};

const TRANSPORTS: [&str; 2] = ["ws", "http"];

/// Entries that can never leave a device, with the reason.
fn poison() -> Vec<(&'static str, Fields)> {
    let many = (0..129).map(|i| (format!("f{i}"), "v"));
    let large = every_byte(1024 * 1024 + 1);
    let halves = (every_byte(1024 * 1024), b"x".to_vec());
    vec![
        ("reserved-field", fields([("client", "dev2"), ("a", "b")])),
        ("reserved-field", fields([("a", "b"), ("epoch", "9")])),
        ("reserved-field", fields([("a", "b"), ("seq", "1-1"), ("a", "c")])),
        ("too-many-fields", fields(many)),
        ("too-large", fields([("blob", large)])),
        ("too-large", fields([("blob", halves.0), ("x", halves.1)])),
        ("too-large", fields([("n".repeat(1025), "long name")])),
    ]
}

/// The fields that a dead letter of this entry must have.
fn letter(entry: &Stored, reason: &str) -> Fields {
    let mut letter = fields([("seq", entry.id.as_str()), ("reason", reason)]);
    letter.extend(entry.fields.iter().cloned());
    letter
}

async fn dead(device: &Device) -> Vec<Fields> {
    device.redis.entries(DEAD).await.into_iter().map(|entry| entry.fields).collect()
}

#[tokio::test]
async fn poison_entries_become_unchanged_dead_letters_and_the_next_ones_are_carried() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let device = Device::start_with(&cloud, "dev1", &[("transport", transport)]).await;
        let (mut letters, mut good) = (Vec::new(), Vec::new());
        for (n, (reason, fields)) in poison().into_iter().enumerate() {
            let bad = device.redis.add_all(OUT, &[fields, numbered(n)]).await;
            letters.push(letter(&bad[0], reason));
            good.push(bad[1].clone());
        }

        device.carried_both_ways(&cloud).await;

        assert_eq!(cloud.carried("dev1").await, expected(&good, Some(1)), "{transport}");
        let found = dead(&device).await;
        assert_eq!(found.len(), letters.len(), "{transport}");
        for (found, letter) in found.iter().zip(&letters) {
            let reason = String::from_utf8_lossy(&letter[1].1).into_owned();
            assert!(found == letter, "{transport}: the dead letter of {reason} was changed");
        }
        assert_eq!(device.redis.length(OUT).await, 2 * letters.len(), "the origin is not changed");
    }
}

#[tokio::test]
async fn a_poison_entry_at_the_end_becomes_a_dead_letter_at_once_and_only_once() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let mut device = Device::start_with(&cloud, "dev1", &[("transport", transport)]).await;
        device.redis.add(OUT, &fields([("client", "dev2")])).await;
        eventually_is("the dead letter", 1, async || device.redis.length(DEAD).await).await;
        for _ in 0..3 {
            device.stop_agent().await;
            device.start_agent();
            cloud.hub_proxy.cut();
        }
        device.redis.add(OUT, &numbered(1)).await;
        device.carried_both_ways(&cloud).await;
        assert_eq!(dead(&device).await.len(), 1, "{transport}: a second dead letter was written");
        assert_eq!(cloud.carried("dev1").await.len(), 1);
    }
}

#[tokio::test]
async fn thousands_of_poison_entries_do_not_block_the_stream() {
    let cloud = Cloud::start().await;
    let device = Device::start(&cloud, "dev1").await;
    let entries: Vec<_> = (0..3000)
        .map(|n| if n % 3 == 0 { numbered(n) } else { fields([("seq", n.to_string())]) })
        .collect();
    let added = device.redis.add_all(OUT, &entries).await;
    let good: Vec<_> = added.iter().step_by(3).cloned().collect();
    device.redis.add(OUT, &numbered(3000)).await;
    device.carried_both_ways(&cloud).await;
    let carried = cloud.carried("dev1").await;
    assert_eq!(carried[..1000], expected(&good, Some(1))[..]);
    assert_eq!(dead(&device).await.len(), 2000);
}

#[tokio::test]
async fn status_counts_dead_letters() {
    let cloud = Cloud::start().await;
    let device = Device::start(&cloud, "dev1").await;
    for _ in 0..3 {
        device.redis.add(OUT, &fields([("seq", "1-1")])).await;
    }
    device.redis.add(OUT, &numbered(1)).await;
    device.carried_both_ways(&cloud).await;
    let status = device.command(&["status", "--json"]).await.json();
    assert_eq!(status["redis"]["deadLetters"], 3, "{status}");
    let text = device.command(&["status"]).await.done().stdout;
    let line = text.lines().find(|line| line.contains("dead letters"));
    assert!(line.is_some_and(|line| line.contains('3')), "{text}");
}

#[tokio::test]
async fn entries_that_can_never_go_down_become_dead_letters_at_the_hub() {
    for transport in TRANSPORTS {
        let cloud = Cloud::start().await;
        let device = Device::start_with(&cloud, "dev1", &[("transport", transport)]).await;
        let stream = out("dev1");
        let bad = cloud.redis.add(&stream, &fields([("seq", "1-1"), ("a", "b")])).await;
        // `client` and `epoch` are not reserved on a device, so these entries may go down.
        let allowed = fields([("client", "x"), ("epoch", "y")]);
        let good = cloud.redis.add_all(&stream, &[allowed]).await;

        device.carried_both_ways(&cloud).await;

        let expected: Vec<Carried> = expected(&good, None);
        assert_eq!(device.carried().await, expected, "{transport}");
        let dead = cloud.redis.entries("spoke-hub:dead:x").await;
        assert_eq!(dead.len(), 1, "{transport}");
        assert_eq!(dead[0].text("seq").as_ref(), Some(&bad));
        assert_eq!(dead[0].text("client").as_deref(), Some("dev1"));
        assert_eq!(dead[0].text("reason").as_deref(), Some("reserved-field"));
    }
}
