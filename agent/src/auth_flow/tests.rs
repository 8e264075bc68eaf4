use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_700_000_000_000;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const NO: Answer = Answer::Refused { date_ms: Some(NOW) };
const SESSION: Answer = Answer::Session { ttl: DAY };
const NEW: Known = Known { is_registered: false, token: None };
const REGISTERED: Known = Known { is_registered: true, token: None };

fn kept(age: Duration) -> Known {
    let issued_at_ms = NOW - age.as_millis() as u64;
    let expires_at_ms = issued_at_ms + DAY.as_millis() as u64;
    Known { is_registered: true, token: Some(Lifetime { issued_at_ms, expires_at_ms }) }
}

fn register() -> Step {
    Step::Register { at_ms: NOW }
}

fn wait(refused: Refused) -> Step {
    Step::Wait(Wait::Refused(refused))
}

/// Walks through the answers and gives all steps, the one after the last answer included.
fn walk(known: Known, one_time: OneTime, answers: &[Answer]) -> Vec<Step> {
    let mut enrolment = Enrolment::new(known);
    let mut steps = vec![enrolment.poll_step(NOW, one_time)];
    for answer in answers {
        enrolment.handle_answer(steps[steps.len() - 1], *answer, NOW);
        steps.push(enrolment.poll_step(NOW, one_time));
    }
    steps
}

#[test]
fn each_start_takes_the_way_that_is_likely_to_work() {
    use OneTime::{AtHand, Missing};
    use Refused::{Login, NoOneTimeSecret, Registration};
    use Step::{Connect, LogIn, Refresh};
    let fresh = kept(Duration::from_secs(60));
    let old = kept(Duration::from_secs(13 * 60 * 60));
    let ended = kept(Duration::from_secs(60 * 60 * 24 * 21));
    type Walk = (&'static str, Known, OneTime, Vec<Answer>, Vec<Step>);
    let table: Vec<Walk> = vec![
        (
            "a new device",
            NEW,
            AtHand,
            vec![Answer::Registered, SESSION],
            vec![register(), LogIn, Connect],
        ),
        (
            "an answer that got lost",
            NEW,
            AtHand,
            vec![NO, SESSION],
            vec![register(), LogIn, Connect],
        ),
        (
            "a wrong one-time secret",
            NEW,
            AtHand,
            vec![NO, NO],
            vec![register(), LogIn, wait(Registration)],
        ),
        ("no one-time secret", NEW, Missing, vec![NO], vec![LogIn, wait(NoOneTimeSecret)]),
        ("the registered file is lost", NEW, Missing, vec![SESSION], vec![LogIn, Connect]),
        ("a registered device", REGISTERED, Missing, vec![SESSION], vec![LogIn, Connect]),
        (
            "its one-time secret still lies about",
            REGISTERED,
            AtHand,
            vec![SESSION],
            vec![LogIn, Connect],
        ),
        (
            "provisioned again",
            REGISTERED,
            AtHand,
            vec![NO, Answer::Registered, SESSION],
            vec![LogIn, register(), LogIn, Connect],
        ),
        (
            "registered and still refused",
            REGISTERED,
            AtHand,
            vec![NO, Answer::Registered, NO],
            vec![LogIn, register(), LogIn, wait(Login)],
        ),
        ("revoked", REGISTERED, Missing, vec![NO], vec![LogIn, wait(NoOneTimeSecret)]),
        ("a fresh token", fresh, Missing, vec![], vec![Connect]),
        ("half its life is over", old, Missing, vec![SESSION], vec![Refresh, Connect]),
        ("auth is down", old, Missing, vec![Answer::Unreachable], vec![Refresh, Connect]),
        (
            "auth is busy",
            old,
            Missing,
            vec![Answer::Busy { retry_after: None }],
            vec![Refresh, Connect],
        ),
        (
            "auth is down for weeks",
            ended,
            Missing,
            vec![Answer::Unreachable],
            vec![Refresh, Connect],
        ),
        ("offline for weeks", ended, Missing, vec![NO, SESSION], vec![Refresh, LogIn, Connect]),
        (
            "revoked with a token",
            old,
            Missing,
            vec![NO, NO],
            vec![Refresh, LogIn, wait(NoOneTimeSecret)],
        ),
    ];
    for (name, known, one_time, answers, steps) in table {
        assert_eq!(walk(known, one_time, &answers), steps, "{name}");
    }
}

#[test]
fn what_passes_by_itself_is_waited_for_and_tried_again() {
    let seven = Some(Duration::from_secs(7));
    for (answer, expected) in [
        (Answer::Busy { retry_after: seven }, Wait::Busy(seven)),
        (Answer::Unreachable, Wait::Unreachable),
        (Answer::Odd, Wait::Odd),
        // Answers that do not belong to the question.
        (Answer::Registered, Wait::Odd),
    ] {
        let mut enrolment = Enrolment::new(REGISTERED);
        enrolment.handle_answer(Step::LogIn, answer, NOW);
        assert_eq!(enrolment.poll_step(NOW, OneTime::Missing), Step::Wait(expected));
        enrolment.handle_waited();
        assert_eq!(enrolment.poll_step(NOW, OneTime::Missing), Step::LogIn);
    }
}

#[test]
fn a_wrong_clock_is_mended_by_the_date_of_the_refusal_and_tried_once_more() {
    for true_now in [NOW - 86_400_000 * 365, NOW + 3_600_000] {
        let no = Answer::Refused { date_ms: Some(true_now) };
        let mut enrolment = Enrolment::new(NEW);
        enrolment.handle_answer(register(), no, NOW);
        // The device's own clock goes on meanwhile.
        let second = enrolment.poll_step(NOW + 500, OneTime::AtHand);
        assert_eq!(second, Step::Register { at_ms: true_now + 500 });
        enrolment.handle_answer(second, Answer::Refused { date_ms: Some(true_now + 60_000) }, NOW);
        assert_eq!(enrolment.poll_step(NOW, OneTime::AtHand), Step::LogIn);
    }
}

#[test]
fn a_refusal_within_the_same_step_or_without_a_date_is_no_reason_to_try_again() {
    for date_ms in [Some(NOW), None] {
        let mut enrolment = Enrolment::new(NEW);
        enrolment.handle_answer(register(), Answer::Refused { date_ms }, NOW);
        assert_eq!(enrolment.poll_step(NOW, OneTime::AtHand), Step::LogIn);
    }
}

#[test]
fn a_token_that_the_hub_took_once_is_replaced_at_once() {
    let mut enrolment = Enrolment::new(kept(Duration::ZERO));
    enrolment.handle_unauthorized(enrolment.serial());
    assert_eq!(enrolment.poll_step(NOW, OneTime::Missing), Step::LogIn);
}

#[test]
fn a_new_token_that_the_hub_refuses_is_a_matter_for_a_person() {
    let mut enrolment = Enrolment::new(REGISTERED);
    enrolment.handle_answer(Step::LogIn, SESSION, NOW);
    enrolment.handle_unauthorized(enrolment.serial());
    assert_eq!(enrolment.poll_step(NOW, OneTime::Missing), wait(Refused::Hub));
    enrolment.handle_waited();
    assert_eq!(enrolment.poll_step(NOW, OneTime::Missing), Step::LogIn);
}

#[test]
fn the_end_of_an_older_token_leaves_the_refreshed_one_alone() {
    let mut enrolment = Enrolment::new(REGISTERED);
    enrolment.handle_answer(Step::LogIn, SESSION, NOW);
    let first = enrolment.serial();
    enrolment.handle_welcomed();
    enrolment.handle_answer(Step::Refresh, SESSION, NOW);
    assert_eq!(enrolment.handle_unauthorized(first), Which::Older);
    assert_eq!(enrolment.poll_step(NOW, OneTime::Missing), Step::Connect);
    assert_eq!(enrolment.handle_unauthorized(enrolment.serial()), Which::Present);
    assert_eq!(enrolment.poll_step(NOW, OneTime::Missing), Step::LogIn);
}

#[test]
fn a_new_token_is_used_before_it_is_refreshed_however_short_its_life() {
    let mut enrolment = Enrolment::new(REGISTERED);
    enrolment.handle_answer(Step::LogIn, Answer::Session { ttl: Duration::ZERO }, NOW);
    assert_eq!(enrolment.poll_step(NOW, OneTime::Missing), Step::Connect);
    enrolment.handle_half_life();
    assert_eq!(enrolment.poll_step(NOW, OneTime::Missing), Step::Refresh);
}

#[test]
fn a_clock_that_was_set_back_is_a_reason_to_refresh() {
    let lifetime = kept(Duration::ZERO).token.unwrap();
    assert!(!lifetime.is_refresh_due(NOW));
    assert!(!lifetime.is_refresh_due(lifetime.refresh_at_ms() - 1));
    assert!(lifetime.is_refresh_due(lifetime.refresh_at_ms()));
    assert!(lifetime.is_refresh_due(NOW - 1));
}

fn any_answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        Just(Answer::Registered),
        (0u64..100_000).prop_map(|secs| Answer::Session { ttl: Duration::from_secs(secs) }),
        any::<Option<u64>>().prop_map(|date_ms| Answer::Refused { date_ms }),
        any::<Option<u32>>().prop_map(|secs| Answer::Busy {
            retry_after: secs.map(|secs| Duration::from_secs(secs.into()))
        }),
        Just(Answer::Unreachable),
        Just(Answer::Odd),
    ]
}

fn any_known() -> impl Strategy<Value = Known> {
    let lifetime = any::<Option<(u64, u64)>>().prop_map(|token| {
        token.map(|(issued_at_ms, expires_at_ms)| Lifetime { issued_at_ms, expires_at_ms })
    });
    (any::<bool>(), lifetime).prop_map(|(is_registered, token)| Known { is_registered, token })
}

proptest! {
    #[test]
    fn whatever_auth_says_there_is_a_next_step_and_never_a_storm(
        known in any_known(),
        answers in prop::collection::vec(any_answer(), 0..40),
        has_one_time in any::<bool>(),
        now in any::<u64>(),
    ) {
        let one_time = if has_one_time { OneTime::AtHand } else { OneTime::Missing };
        let mut enrolment = Enrolment::new(known);
        let mut asked = 0;
        for answer in answers {
            let step = enrolment.poll_step(now, one_time);
            match step {
                Step::Register { .. } | Step::LogIn | Step::Refresh => {
                    asked += 1;
                    prop_assert!(asked <= 6, "too many questions without a wait");
                    let is_register = matches!(step, Step::Register { .. });
                    prop_assert!(has_one_time || !is_register);
                    enrolment.handle_answer(step, answer, now);
                }
                Step::Connect => {
                    prop_assert!(enrolment.lifetime().is_some());
                    enrolment.handle_unauthorized(enrolment.serial());
                }
                Step::Wait(_) => {
                    asked = 0;
                    enrolment.handle_waited();
                }
            }
        }
    }
}
