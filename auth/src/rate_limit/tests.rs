//! Who is held back, and who is not because of it.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn settings() -> ThrottleSettings {
    ThrottleSettings {
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

fn visit(action: Action, address: &str, client: &str) -> Visit {
    let address: IpAddr = address.parse().unwrap();
    let standing = Standing::Stranger;
    Visit { action, site: address.into(), client: client.parse().ok(), standing }
}

fn likely(visit: Visit) -> Visit {
    Visit { standing: Standing::Likely, ..visit }
}

/// A visit that fails.
fn fail(throttle: &mut Throttle, visit: &Visit, now: Instant) {
    throttle.admit(visit, now).unwrap();
}

/// A visit that does not fail, if it is let pass.
fn pass(throttle: &mut Throttle, visit: &Visit, now: Instant) -> Result<(), Refused> {
    throttle.admit(visit, now)?;
    throttle.handle_no_verdict(visit, now);
    Ok(())
}

fn login(address: &str, client: &str) -> Visit {
    visit(Action::Login, address, client)
}

fn throttle() -> Throttle {
    Throttle::new(&settings(), 1000)
}

#[test]
fn a_client_is_held_back_from_registering_wherever_it_comes_from() {
    let (mut throttle, now) = (throttle(), Instant::now());
    let register = |last: u8, client| visit(Action::Register, &format!("192.0.2.{last}"), client);
    (1..=2).for_each(|last| pass(&mut throttle, &register(last, "dev1"), now).unwrap());
    let refused = pass(&mut throttle, &register(9, "dev1"), now).unwrap_err();
    assert_eq!(refused.because, Because::ClientRate);
    assert_eq!(refused.wait, Duration::from_secs(20));
    pass(&mut throttle, &register(9, "dev2"), now).unwrap();
    throttle.admit(&register(9, "dev1"), now + refused.wait).unwrap();
}

#[test]
fn nobody_can_lock_a_client_out_by_logging_in_under_its_name() {
    let (mut throttle, now) = (throttle(), Instant::now());
    for last in 1..=200 {
        let theirs = login(&format!("192.0.2.{last}"), "dev1");
        while throttle.admit(&theirs, now).is_ok() {}
    }
    let own = login("198.51.100.1", "dev1");
    (0..4).for_each(|_| pass(&mut throttle, &own, now).unwrap());
    let refused = pass(&mut throttle, &own, now).unwrap_err();
    assert_eq!((refused.because, refused.wait.as_secs()), (Because::ClientRate, 10));
}

#[test]
fn an_address_is_held_back_whatever_names_it_gives() {
    let (mut throttle, now) = (throttle(), Instant::now());
    for n in 0..8 {
        pass(&mut throttle, &login("192.0.2.1", &format!("dev{n}")), now).unwrap();
    }
    let refused = pass(&mut throttle, &login("192.0.2.1", "dev9"), now).unwrap_err();
    assert_eq!(refused.because, Because::AddressRate);
    assert_eq!(refused.wait, Duration::from_secs(1));
    pass(&mut throttle, &login("192.0.2.2", "dev9"), now).unwrap();
}

#[test]
fn a_site_with_ipv6_is_one_address() {
    let site = |text: &str| PeerNet::from(text.parse::<IpAddr>().unwrap());
    assert_eq!(site("2001:db8:1:2::1"), site("2001:db8:1:2:ffff::9"));
    assert_ne!(site("2001:db8:1:2::1"), site("2001:db8:1:3::1"));
    assert_eq!(site("::ffff:192.0.2.1"), site("192.0.2.1"));
    assert_ne!(site("192.0.2.1"), site("192.0.2.2"));
}

#[test]
fn a_visit_to_a_session_counts_a_tenth_of_one_that_runs_bcrypt() {
    let (mut throttle, now) = (throttle(), Instant::now());
    let session = visit(Action::Session, "192.0.2.1", "");
    for _ in 0..80 {
        pass(&mut throttle, &session, now).unwrap();
    }
    assert_eq!(pass(&mut throttle, &session, now).unwrap_err().wait, Duration::from_millis(100));
}

#[test]
fn who_has_to_wait_is_not_charged_for_asking() {
    let (mut throttle, now) = (throttle(), Instant::now());
    let visit = visit(Action::Register, "192.0.2.1", "dev1");
    (0..2).for_each(|_| pass(&mut throttle, &visit, now).unwrap());
    let first = pass(&mut throttle, &visit, now).unwrap_err();
    for _ in 0..100 {
        assert_eq!(pass(&mut throttle, &visit, now).unwrap_err().wait, first.wait);
    }
}

#[test]
fn failures_bar_the_client_from_that_address_and_that_action_only() {
    let (mut throttle, now) = (throttle(), Instant::now());
    let failing = login("192.0.2.1", "dev1");
    (0..3).for_each(|_| fail(&mut throttle, &failing, now));
    let refused = pass(&mut throttle, &failing, now).unwrap_err();
    assert_eq!((refused.because, refused.wait.as_secs()), (Because::ClientFailures, 1));

    pass(&mut throttle, &login("192.0.2.2", "dev1"), now).unwrap();
    pass(&mut throttle, &login("192.0.2.1", "dev2"), now).unwrap();
    pass(&mut throttle, &visit(Action::Register, "192.0.2.1", "dev1"), now).unwrap();
    pass(&mut throttle, &visit(Action::Session, "192.0.2.1", ""), now).unwrap();
    throttle.admit(&failing, now + refused.wait).unwrap();
}

#[test]
fn guesses_at_many_names_bar_the_address() {
    let (mut throttle, now) = (throttle(), Instant::now());
    for n in 0..6 {
        fail(&mut throttle, &login("192.0.2.1", &format!("dev{n}")), now);
    }
    let refused = pass(&mut throttle, &login("192.0.2.1", "new"), now).unwrap_err();
    assert_eq!(refused.because, Because::AddressFailures);
    pass(&mut throttle, &login("192.0.2.2", "new"), now).unwrap();
}

#[test]
fn a_success_forgives_the_client_and_not_the_address() {
    let (mut throttle, now) = (throttle(), Instant::now());
    let visit = login("192.0.2.1", "dev1");
    (0..3).for_each(|_| fail(&mut throttle, &visit, now));
    assert!(throttle.admit(&visit, now).is_err());
    throttle.handle_success(&visit, now);
    pass(&mut throttle, &visit, now).unwrap();
    (0..3).for_each(|_| fail(&mut throttle, &login("192.0.2.1", "dev2"), now));
    fail(&mut throttle, &login("192.0.2.1", "dev3"), now);
    let refused = pass(&mut throttle, &visit, now).unwrap_err();
    assert_eq!(refused.because, Because::AddressFailures);
}

#[test]
fn idle_keys_make_room_and_nothing_is_lost() {
    let mut throttle = Throttle::new(&settings(), 16);
    let mut now = Instant::now();
    for n in 0..200 {
        now += Duration::from_secs(30);
        pass(&mut throttle, &login(&format!("192.0.2.{n}"), &format!("dev{n}")), now).unwrap();
        assert!(throttle.keys() <= 16);
    }
}

#[test]
fn a_flood_that_is_all_held_back_leaves_no_room_for_one_more() {
    let mut throttle = Throttle::new(&settings(), 8);
    let now = Instant::now();
    for n in 0..12 {
        let visit = visit(Action::Session, &format!("192.0.2.{n}"), "");
        while pass(&mut throttle, &visit, now).is_ok() {}
    }
    let refused = pass(&mut throttle, &login("198.51.100.1", "late"), now).unwrap_err();
    assert_eq!(refused.because, Because::NoRoom);
    assert!(throttle.keys() <= 8);
    let much_later = now + Duration::from_secs(600);
    throttle.admit(&login("198.51.100.1", "late"), much_later).unwrap();
}

#[test]
fn visits_in_hand_count_as_failures_until_they_succeed() {
    let (mut throttle, now) = (throttle(), Instant::now());
    let many: Vec<_> = (0..8).map(|n| login("192.0.2.1", &format!("dev{n}"))).collect();
    let admitted: Vec<_> = many.iter().filter(|visit| throttle.admit(visit, now).is_ok()).collect();
    assert_eq!(admitted.len(), 6, "five are free, and the sixth bars the way");
    admitted.iter().for_each(|visit| throttle.handle_success(visit, now));
    throttle.admit(&login("192.0.2.1", "dev9"), now).unwrap();
}

#[test]
fn nothing_that_strangers_do_holds_back_one_who_is_likely() {
    for action in [Action::Register, Action::Login, Action::Session] {
        let (mut throttle, now) = (Throttle::new(&settings(), 8), Instant::now());
        for n in 0..40 {
            for name in ["dev1", &format!("made-up{n}")] {
                let _ = throttle.admit(&visit(action, "192.0.2.1", name), now);
                let _ = throttle.admit(&visit(action, &format!("192.0.2.{n}"), name), now);
            }
        }
        let own = likely(visit(action, "192.0.2.1", "dev1"));
        throttle.admit(&own, now).unwrap();
    }
}

#[test]
fn one_who_is_likely_is_measured_by_itself() {
    let (mut throttle, now) = (throttle(), Instant::now());
    let own = likely(visit(Action::Register, "192.0.2.1", "dev1"));
    (0..2).for_each(|_| pass(&mut throttle, &own, now).unwrap());
    assert_eq!(throttle.admit(&own, now).unwrap_err().because, Because::ClientRate);
    pass(&mut throttle, &likely(visit(Action::Register, "192.0.2.1", "dev2")), now).unwrap();
    // One in 65,536 wrong secrets looks likely, so these are measured, too.
    let guess = likely(login("192.0.2.1", "dev1"));
    (0..3).for_each(|_| fail(&mut throttle, &guess, now));
    assert_eq!(throttle.admit(&guess, now).unwrap_err().because, Because::ClientFailures);
}

proptest! {
    #[test]
    fn a_flood_of_other_names_never_sets_a_held_back_client_free(
        flood in prop::collection::vec((0u8..=255, 0u16..500, any::<bool>()), 50..400)
    ) {
        let mut throttle = Throttle::new(&settings(), 32);
        let now = Instant::now();
        let held = login("198.51.100.1", "held");
        let failing = login("198.51.100.1", "failing");
        (0..4).for_each(|_| pass(&mut throttle, &held, now).unwrap());
        (0..3).for_each(|_| fail(&mut throttle, &failing, now));
        let before = pass(&mut throttle, &failing, now).unwrap_err();
        for (last, name, fails) in flood {
            let other = login(&format!("192.0.2.{last}"), &format!("dev{name}"));
            let _ = match fails {
                true => throttle.admit(&other, now),
                false => pass(&mut throttle, &other, now),
            };
            prop_assert!(throttle.keys() <= 32);
        }
        prop_assert_eq!(pass(&mut throttle, &held, now).unwrap_err().because, Because::ClientRate);
        prop_assert_eq!(pass(&mut throttle, &failing, now).unwrap_err().wait, before.wait);
    }
}
