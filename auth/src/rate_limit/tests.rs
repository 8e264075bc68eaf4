//! Which attempts are throttled, and which are not.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn settings() -> RateLimitSettings {
    RateLimitSettings {
        login_burst: 4,
        login_per_minute: 6,
        register_burst: 2,
        register_per_minute: 3,
        address_burst: 8,
        address_per_minute: 60,
        failures_free: 2,
        failure_wait_seconds_max: 100,
        address_failures_free: 5,
    }
}

fn attempt(action: AuthAction, address: &str, client: &str) -> AuthAttempt {
    let address: IpAddr = address.parse().unwrap();
    let precheck = Precheck::Failed;
    AuthAttempt { action, peer: address.into(), client: client.parse().ok(), precheck }
}

fn prechecked(attempt: AuthAttempt) -> AuthAttempt {
    AuthAttempt { precheck: Precheck::Passed, ..attempt }
}

/// An attempt that fails.
fn fail(limiter: &mut RateLimiter, attempt: &AuthAttempt, now: Instant) {
    limiter.admit(attempt, now).unwrap();
}

/// An attempt that does not fail, if it is admitted.
fn pass(
    limiter: &mut RateLimiter,
    attempt: &AuthAttempt,
    now: Instant,
) -> Result<(), RateLimitError> {
    limiter.admit(attempt, now)?;
    limiter.handle_no_verdict(attempt, now);
    Ok(())
}

fn login(address: &str, client: &str) -> AuthAttempt {
    attempt(AuthAction::Login, address, client)
}

fn limiter() -> RateLimiter {
    RateLimiter::new(&settings(), 1000)
}

#[test]
fn registrations_of_a_client_share_one_limit_across_all_addresses() {
    let (mut limiter, now) = (limiter(), Instant::now());
    let register =
        |last: u8, client| attempt(AuthAction::Register, &format!("192.0.2.{last}"), client);
    (1..=2).for_each(|last| pass(&mut limiter, &register(last, "dev1"), now).unwrap());
    let error = pass(&mut limiter, &register(9, "dev1"), now).unwrap_err();
    assert_eq!(error.kind, LimitKind::ClientRate);
    assert_eq!(error.wait, Duration::from_secs(20));
    pass(&mut limiter, &register(9, "dev2"), now).unwrap();
    limiter.admit(&register(9, "dev1"), now + error.wait).unwrap();
}

#[test]
fn logins_from_other_addresses_never_lock_a_client_out() {
    let (mut limiter, now) = (limiter(), Instant::now());
    for last in 1..=200 {
        let foreign = login(&format!("192.0.2.{last}"), "dev1");
        while limiter.admit(&foreign, now).is_ok() {}
    }
    let own = login("198.51.100.1", "dev1");
    (0..4).for_each(|_| pass(&mut limiter, &own, now).unwrap());
    let error = pass(&mut limiter, &own, now).unwrap_err();
    assert_eq!((error.kind, error.wait.as_secs()), (LimitKind::ClientRate, 10));
}

#[test]
fn an_address_is_throttled_whatever_client_names_it_uses() {
    let (mut limiter, now) = (limiter(), Instant::now());
    for n in 0..8 {
        pass(&mut limiter, &login("192.0.2.1", &format!("dev{n}")), now).unwrap();
    }
    let error = pass(&mut limiter, &login("192.0.2.1", "dev9"), now).unwrap_err();
    assert_eq!(error.kind, LimitKind::AddressRate);
    assert_eq!(error.wait, Duration::from_secs(1));
    pass(&mut limiter, &login("192.0.2.2", "dev9"), now).unwrap();
}

#[test]
fn an_ipv6_prefix_of_64_bits_counts_as_one_address() {
    let net = |text: &str| PeerNet::from(text.parse::<IpAddr>().unwrap());
    assert_eq!(net("2001:db8:1:2::1"), net("2001:db8:1:2:ffff::9"));
    assert_ne!(net("2001:db8:1:2::1"), net("2001:db8:1:3::1"));
    assert_eq!(net("::ffff:192.0.2.1"), net("192.0.2.1"));
    assert_ne!(net("192.0.2.1"), net("192.0.2.2"));
}

#[test]
fn a_session_attempt_counts_a_tenth_of_one_that_runs_bcrypt() {
    let (mut limiter, now) = (limiter(), Instant::now());
    let session = attempt(AuthAction::Session, "192.0.2.1", "");
    for _ in 0..80 {
        pass(&mut limiter, &session, now).unwrap();
    }
    assert_eq!(pass(&mut limiter, &session, now).unwrap_err().wait, Duration::from_millis(100));
}

#[test]
fn a_throttled_attempt_is_not_counted() {
    let (mut limiter, now) = (limiter(), Instant::now());
    let attempt = attempt(AuthAction::Register, "192.0.2.1", "dev1");
    (0..2).for_each(|_| pass(&mut limiter, &attempt, now).unwrap());
    let first = pass(&mut limiter, &attempt, now).unwrap_err();
    for _ in 0..100 {
        assert_eq!(pass(&mut limiter, &attempt, now).unwrap_err().wait, first.wait);
    }
}

#[test]
fn failures_throttle_only_that_client_at_that_address_for_that_action() {
    let (mut limiter, now) = (limiter(), Instant::now());
    let failing = login("192.0.2.1", "dev1");
    (0..3).for_each(|_| fail(&mut limiter, &failing, now));
    let error = pass(&mut limiter, &failing, now).unwrap_err();
    assert_eq!((error.kind, error.wait.as_secs()), (LimitKind::ClientFailures, 1));

    pass(&mut limiter, &login("192.0.2.2", "dev1"), now).unwrap();
    pass(&mut limiter, &login("192.0.2.1", "dev2"), now).unwrap();
    pass(&mut limiter, &attempt(AuthAction::Register, "192.0.2.1", "dev1"), now).unwrap();
    pass(&mut limiter, &attempt(AuthAction::Session, "192.0.2.1", ""), now).unwrap();
    limiter.admit(&failing, now + error.wait).unwrap();
}

#[test]
fn failures_under_many_client_names_throttle_the_address() {
    let (mut limiter, now) = (limiter(), Instant::now());
    for n in 0..6 {
        fail(&mut limiter, &login("192.0.2.1", &format!("dev{n}")), now);
    }
    let error = pass(&mut limiter, &login("192.0.2.1", "new"), now).unwrap_err();
    assert_eq!(error.kind, LimitKind::AddressFailures);
    pass(&mut limiter, &login("192.0.2.2", "new"), now).unwrap();
}

#[test]
fn a_success_forgives_the_client_but_not_the_address() {
    let (mut limiter, now) = (limiter(), Instant::now());
    let attempt = login("192.0.2.1", "dev1");
    (0..3).for_each(|_| fail(&mut limiter, &attempt, now));
    assert!(limiter.admit(&attempt, now).is_err());
    limiter.handle_success(&attempt, now);
    pass(&mut limiter, &attempt, now).unwrap();
    (0..3).for_each(|_| fail(&mut limiter, &login("192.0.2.1", "dev2"), now));
    fail(&mut limiter, &login("192.0.2.1", "dev3"), now);
    let error = pass(&mut limiter, &attempt, now).unwrap_err();
    assert_eq!(error.kind, LimitKind::AddressFailures);
}

#[test]
fn idle_keys_are_evicted() {
    let mut limiter = RateLimiter::new(&settings(), 16);
    let mut now = Instant::now();
    for n in 0..200 {
        now += Duration::from_secs(30);
        pass(&mut limiter, &login(&format!("192.0.2.{n}"), &format!("dev{n}")), now).unwrap();
        assert!(limiter.keys() <= 16);
    }
}

#[test]
fn keys_that_throttle_are_not_evicted_for_a_new_one() {
    let mut limiter = RateLimiter::new(&settings(), 8);
    let now = Instant::now();
    for n in 0..12 {
        let attempt = attempt(AuthAction::Session, &format!("192.0.2.{n}"), "");
        while pass(&mut limiter, &attempt, now).is_ok() {}
    }
    let error = pass(&mut limiter, &login("198.51.100.1", "late"), now).unwrap_err();
    assert_eq!(error.kind, LimitKind::NoRoom);
    assert!(limiter.keys() <= 8);
    let much_later = now + Duration::from_secs(600);
    limiter.admit(&login("198.51.100.1", "late"), much_later).unwrap();
}

#[test]
fn attempts_in_progress_count_as_failures_until_they_succeed() {
    let (mut limiter, now) = (limiter(), Instant::now());
    let many: Vec<_> = (0..8).map(|n| login("192.0.2.1", &format!("dev{n}"))).collect();
    let admitted: Vec<_> =
        many.iter().filter(|attempt| limiter.admit(attempt, now).is_ok()).collect();
    assert_eq!(admitted.len(), 6, "five failures are free, and the sixth adds a wait");
    admitted.iter().for_each(|attempt| limiter.handle_success(attempt, now));
    limiter.admit(&login("192.0.2.1", "dev9"), now).unwrap();
}

#[test]
fn attempts_that_failed_the_precheck_never_throttle_one_that_passed() {
    for action in [AuthAction::Register, AuthAction::Login, AuthAction::Session] {
        let (mut limiter, now) = (RateLimiter::new(&settings(), 8), Instant::now());
        for n in 0..40 {
            for name in ["dev1", &format!("unknown{n}")] {
                let _ = limiter.admit(&attempt(action, "192.0.2.1", name), now);
                let _ = limiter.admit(&attempt(action, &format!("192.0.2.{n}"), name), now);
            }
        }
        let own = prechecked(attempt(action, "192.0.2.1", "dev1"));
        limiter.admit(&own, now).unwrap();
    }
}

#[test]
fn prechecked_attempts_have_limits_of_their_own() {
    let (mut limiter, now) = (limiter(), Instant::now());
    let own = prechecked(attempt(AuthAction::Register, "192.0.2.1", "dev1"));
    (0..2).for_each(|_| pass(&mut limiter, &own, now).unwrap());
    assert_eq!(limiter.admit(&own, now).unwrap_err().kind, LimitKind::ClientRate);
    pass(&mut limiter, &prechecked(attempt(AuthAction::Register, "192.0.2.1", "dev2")), now)
        .unwrap();
    // One in 65,536 wrong secrets passes the precheck, so these are limited, too.
    let guess = prechecked(login("192.0.2.1", "dev1"));
    (0..3).for_each(|_| fail(&mut limiter, &guess, now));
    assert_eq!(limiter.admit(&guess, now).unwrap_err().kind, LimitKind::ClientFailures);
}

proptest! {
    #[test]
    fn a_flood_of_other_names_never_resets_a_throttled_client(
        flood in prop::collection::vec((0u8..=255, 0u16..500, any::<bool>()), 50..400)
    ) {
        let mut limiter = RateLimiter::new(&settings(), 32);
        let now = Instant::now();
        let throttled = login("198.51.100.1", "throttled");
        let failing = login("198.51.100.1", "failing");
        (0..4).for_each(|_| pass(&mut limiter, &throttled, now).unwrap());
        (0..3).for_each(|_| fail(&mut limiter, &failing, now));
        let before = pass(&mut limiter, &failing, now).unwrap_err();
        for (last, name, fails) in flood {
            let other = login(&format!("192.0.2.{last}"), &format!("dev{name}"));
            let _ = match fails {
                true => limiter.admit(&other, now),
                false => pass(&mut limiter, &other, now),
            };
            prop_assert!(limiter.keys() <= 32);
        }
        prop_assert_eq!(pass(&mut limiter, &throttled, now).unwrap_err().kind, LimitKind::ClientRate);
        prop_assert_eq!(pass(&mut limiter, &failing, now).unwrap_err().wait, before.wait);
    }
}
