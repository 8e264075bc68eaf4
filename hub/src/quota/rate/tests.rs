use super::*;
use crate::limits::CLIENT_RATE;
use spoke_protocol::limits::{PROGRESS_TIMEOUT, RATE_BYTES_MIN};

const RESERVE: MemoryReserve = MemoryReserve { percent: 10, entries: 100, bytes: 32 * 1024 };
/// The client's own rate, where the reserve is tested.
const OWN: EntryRate = EntryRate::UNLIMITED;
const MIB: u64 = 1024 * 1024;
const MAX: u64 = 100 * MIB;

fn client(name: &str) -> ClientId {
    name.parse().unwrap()
}

fn load(entries: u64, bytes: u64) -> BatchLoad {
    BatchLoad { entries, bytes }
}

fn rates(used: u64, now: Instant) -> ClientRates {
    let mut rates = ClientRates::new(RESERVE, now);
    rates.handle_usage(MemoryUsage { used, max: MAX }, now);
    rates
}

fn held(wait: Duration, is_first: bool) -> RateDecision {
    RateDecision::Wait { wait, cause: ThrottleCause::Memory, is_first }
}

fn is_admitted(decision: &RateDecision) -> bool {
    matches!(decision, RateDecision::Go { .. })
}

#[test]
fn below_the_reserve_no_client_waits_however_much_it_sends() {
    let now = Instant::now();
    for (used, max) in [(MAX / 2, MAX), (MAX / 100 * 89, MAX), (u64::MAX / 2, 0)] {
        let mut rates = ClientRates::new(RESERVE, now);
        assert_eq!(rates.handle_usage(MemoryUsage { used, max }, now), None);
        for _ in 0..1000 {
            assert!(is_admitted(&rates.handle_load(&client("dev1"), OWN, load(1000, MIB), now)));
        }
    }
}

#[test]
fn in_the_reserve_a_greedy_client_waits_and_a_quiet_one_does_not() {
    let mut now = Instant::now();
    let mut rates = rates(MAX / 2, now);
    // For 60 s one client fills Redis, and another one adds 50 small entries per second.
    for _ in 0..60 {
        for _ in 0..50 {
            rates.handle_load(&client("greedy"), OWN, load(1000, MIB), now);
            rates.handle_load(&client("quiet"), OWN, load(1, 100), now);
            now += Duration::from_millis(20);
        }
    }
    let full = MemoryUsage { used: MAX / 100 * 91, max: MAX };
    assert_eq!(rates.handle_usage(full, now), Some(true));
    let (mut greedy, mut quiet) = (0, 0);
    for _ in 0..60 {
        for _ in 0..50 {
            greedy += u64::from(is_admitted(&rates.handle_load(
                &client("greedy"),
                OWN,
                load(100, 100),
                now,
            )));
            quiet += u64::from(is_admitted(&rates.handle_load(
                &client("quiet"),
                OWN,
                load(1, 100),
                now,
            )));
            now += Duration::from_millis(20);
        }
    }
    assert_eq!(quiet, 3000, "each of its entries is admitted at once");
    assert!((45..=48).contains(&greedy), "{greedy} batches in 60 s, each worth one second");
}

#[test]
fn a_greedy_client_waits_for_a_bounded_time_and_then_sends_at_its_rate() {
    let now = Instant::now();
    let mut rates = rates(MAX / 2, now);
    for _ in 0..1000 {
        rates.handle_load(&client("dev1"), OWN, load(1000, MIB), now);
    }
    rates.handle_usage(MemoryUsage { used: MAX, max: MAX }, now);
    let first = rates.handle_load(&client("dev1"), OWN, load(1, 1), now);
    let wait = RESERVE_DEBT_MAX - RESERVE_BURST;
    assert_eq!(first, held(wait, true));
    let again = rates.handle_load(&client("dev1"), OWN, load(1, 1), now);
    assert_eq!(again, held(wait, false), "only the first is marked");
    let later = now + wait;
    assert!(is_admitted(&rates.handle_load(&client("dev1"), OWN, load(1000, 512 * 1024), later)));
    let next = rates.handle_load(&client("dev1"), OWN, load(1, 1), later);
    let batch = Duration::from_secs(16);
    assert_eq!(next, held(batch, false));
}

#[test]
fn the_end_of_throttling_is_reported_once_per_client() {
    let now = Instant::now();
    let mut rates = rates(MAX, now);
    while is_admitted(&rates.handle_load(&client("dev1"), OWN, load(100, 1), now)) {}
    let later = now + Duration::from_secs(3);
    let below = MemoryUsage { used: MAX / 2, max: MAX };
    assert_eq!(rates.handle_usage(below, later), Some(false));
    let held_for = Some(Duration::from_secs(3));
    let over = rates.handle_load(&client("dev1"), OWN, load(1, 1), later);
    assert_eq!(over, RateDecision::Go { was_held_for: held_for });
    let next = rates.handle_load(&client("dev1"), OWN, load(1, 1), later);
    assert_eq!(next, RateDecision::Go { was_held_for: None });
}

#[test]
fn memory_usage_around_the_edge_of_the_reserve_does_not_end_throttling() {
    let now = Instant::now();
    let mut rates = rates(MAX / 2, now);
    let mut handle_percent = |percent| {
        let used = MAX / 100 * percent;
        rates.handle_usage(MemoryUsage { used, max: MAX }, now)
    };
    assert_eq!(handle_percent(89), None);
    assert_eq!(handle_percent(90), Some(true));
    assert_eq!(
        [handle_percent(89), handle_percent(91), handle_percent(88), handle_percent(90)],
        [None; 4]
    );
    assert_eq!(handle_percent(87), Some(false));
    assert_eq!(handle_percent(89), None);
}

#[test]
fn redis_memory_is_read_once_a_second_and_before_the_reserve_can_be_reached() {
    let now = Instant::now();
    let mut rates = ClientRates::new(RESERVE, now);
    let small = load(1, 100);
    assert!(rates.is_look_due(small, now), "memory was never read");
    rates.handle_usage(MemoryUsage { used: MAX / 2, max: MAX }, now);
    assert!(!rates.is_look_due(small, now));
    assert!(rates.is_look_due(small, now + USAGE_INTERVAL.0));
    for _ in 0..19 {
        assert!(!rates.is_look_due(load(1000, MIB), now));
        rates.handle_load(&client("dev1"), OWN, load(1000, MIB), now);
    }
    assert!(rates.is_look_due(load(1000, MIB), now), "twice the added bytes may reach the reserve");
    rates.handle_usage(MemoryUsage { used: MAX / 100 * 80, max: MAX }, now);
    assert!(
        rates.is_look_due(small, now + USAGE_INTERVAL.1),
        "more often when more memory is used"
    );
}

#[test]
fn clients_without_debt_are_forgotten() {
    let mut now = Instant::now();
    let mut rates = rates(MAX / 2, now);
    for n in 0..10 * REMEMBERED {
        rates.handle_load(&client(&format!("dev{n}")), OWN, load(1, 1), now);
        now += Duration::from_millis(2);
    }
    assert!(rates.clients.len() <= REMEMBERED + 500, "{}", rates.clients.len());
}

#[test]
fn a_client_at_ten_times_its_rate_is_slowed_to_it_and_its_neighbour_does_not_wait() {
    let own = EntryRate { entries: 100, bytes: 1_000_000 };
    let begun = Instant::now();
    let (mut now, mut sent, mut rates) = (begun, 0, ClientRates::new(RESERVE, begun));
    while now < begun + Duration::from_secs(60) {
        for _ in 0..10 {
            let decision = rates.handle_load(&client("greedy"), own, load(10, 1000), now);
            sent += if is_admitted(&decision) { 10 } else { 0 };
            if let RateDecision::Wait { cause, .. } = decision {
                assert_eq!(cause, ThrottleCause::Rate);
            }
        }
        assert!(is_admitted(&rates.handle_load(&client("quiet"), own, load(9, 1000), now)));
        now += Duration::from_millis(100);
    }
    let allowed = 100 * (60 + CLIENT_RATE_BURST.as_secs());
    assert!((allowed - 10..=allowed + 20).contains(&sent), "{sent} of {allowed}");
    assert_eq!(rates.throttled(ThrottleCause::Rate), 1);
    assert_eq!(rates.throttled(ThrottleCause::Memory), 0);
}

#[test]
fn a_large_entry_waits_for_a_bounded_time_whether_its_rate_or_the_reserve_is_small() {
    let least = EntryRate { entries: 1, bytes: RATE_BYTES_MIN };
    for (used, own) in [(MAX, OWN), (0, least)] {
        let (mut now, mut longest) = (Instant::now(), Duration::ZERO);
        let mut rates = rates(used, now);
        for _ in 0..100 {
            if let RateDecision::Wait { wait, .. } =
                rates.handle_load(&client("dev1"), own, load(1, MIB), now)
            {
                longest = longest.max(wait);
                now += wait;
            }
        }
        assert!(longest < PROGRESS_TIMEOUT / 3 * 2, "{longest:?}");
    }
}

#[test]
fn the_default_rate_lets_a_fast_device_send_its_backlog() {
    let (mut now, mut rates) = (Instant::now(), ClientRates::new(RESERVE, Instant::now()));
    // Twice what an agent was measured to send, for ten seconds.
    for _ in 0..1800 {
        let batch = load(1000, 150_000);
        assert!(is_admitted(&rates.handle_load(&client("dev1"), CLIENT_RATE, batch, now)));
        now += Duration::from_micros(5600);
    }
}
