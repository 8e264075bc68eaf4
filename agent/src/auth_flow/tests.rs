//! The decisions of the flow, as tables and properties.

use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_700_000_000_000;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const REFUSED: AuthAnswer = AuthAnswer::Refused { date_ms: Some(NOW) };
const SESSION: AuthAnswer = AuthAnswer::Session { ttl: DAY };
const NEW_DEVICE: AuthFlowStart = AuthFlowStart { is_registered: false, token: None };
const REGISTERED: AuthFlowStart = AuthFlowStart { is_registered: true, token: None };

fn with_token(age: Duration) -> AuthFlowStart {
    let issued_at_ms = NOW - age.as_millis() as u64;
    let expires_at_ms = issued_at_ms + DAY.as_millis() as u64;
    AuthFlowStart {
        is_registered: true,
        token: Some(TokenLifetime { issued_at_ms, expires_at_ms }),
    }
}

fn register() -> AuthStep {
    AuthStep::Register { at_ms: NOW }
}

fn wait(refused: AuthRefusal) -> AuthStep {
    AuthStep::Wait(AuthWait::Refused(refused))
}

/// Returns the step before the first answer and the step after each answer.
fn steps_for(
    known: AuthFlowStart,
    one_time: OneTimeSecretPresence,
    answers: &[AuthAnswer],
) -> Vec<AuthStep> {
    let mut flow = AuthFlow::new(known);
    let mut steps = vec![flow.poll_step(NOW, one_time)];
    for answer in answers {
        flow.handle_answer(steps[steps.len() - 1], *answer, NOW);
        steps.push(flow.poll_step(NOW, one_time));
    }
    steps
}

#[test]
fn each_initial_state_takes_the_expected_steps() {
    use AuthRefusal::{Login, NoOneTimeSecret, Registration};
    use AuthStep::{Connect, LogIn, Refresh};
    use OneTimeSecretPresence::{Missing, Present};
    let fresh = with_token(Duration::from_secs(60));
    let old = with_token(Duration::from_secs(13 * 60 * 60));
    let ended = with_token(Duration::from_secs(60 * 60 * 24 * 21));
    type FlowCase =
        (&'static str, AuthFlowStart, OneTimeSecretPresence, Vec<AuthAnswer>, Vec<AuthStep>);
    let table: Vec<FlowCase> = vec![
        (
            "a new device",
            NEW_DEVICE,
            Present,
            vec![AuthAnswer::Registered, SESSION],
            vec![register(), LogIn, Connect],
        ),
        (
            "the answer to an earlier registration was lost",
            NEW_DEVICE,
            Present,
            vec![REFUSED, SESSION],
            vec![register(), LogIn, Connect],
        ),
        (
            "a wrong one-time secret",
            NEW_DEVICE,
            Present,
            vec![REFUSED, REFUSED],
            vec![register(), LogIn, wait(Registration)],
        ),
        (
            "no one-time secret",
            NEW_DEVICE,
            Missing,
            vec![REFUSED],
            vec![LogIn, wait(NoOneTimeSecret)],
        ),
        ("the file registered is lost", NEW_DEVICE, Missing, vec![SESSION], vec![LogIn, Connect]),
        ("a registered device", REGISTERED, Missing, vec![SESSION], vec![LogIn, Connect]),
        (
            "registered, with a leftover one-time secret",
            REGISTERED,
            Present,
            vec![SESSION],
            vec![LogIn, Connect],
        ),
        (
            "provisioned again",
            REGISTERED,
            Present,
            vec![REFUSED, AuthAnswer::Registered, SESSION],
            vec![LogIn, register(), LogIn, Connect],
        ),
        (
            "registered and still refused",
            REGISTERED,
            Present,
            vec![REFUSED, AuthAnswer::Registered, REFUSED],
            vec![LogIn, register(), LogIn, wait(Login)],
        ),
        ("revoked", REGISTERED, Missing, vec![REFUSED], vec![LogIn, wait(NoOneTimeSecret)]),
        ("a fresh token", fresh, Missing, vec![], vec![Connect]),
        ("half of the token lifetime is over", old, Missing, vec![SESSION], vec![Refresh, Connect]),
        ("auth is down", old, Missing, vec![AuthAnswer::Unreachable], vec![Refresh, Connect]),
        (
            "auth is busy",
            old,
            Missing,
            vec![AuthAnswer::Busy { retry_after: None }],
            vec![Refresh, Connect],
        ),
        (
            "auth is down after weeks offline",
            ended,
            Missing,
            vec![AuthAnswer::Unreachable],
            vec![Refresh, Connect],
        ),
        (
            "offline for weeks",
            ended,
            Missing,
            vec![REFUSED, SESSION],
            vec![Refresh, LogIn, Connect],
        ),
        (
            "revoked with a token",
            old,
            Missing,
            vec![REFUSED, REFUSED],
            vec![Refresh, LogIn, wait(NoOneTimeSecret)],
        ),
    ];
    for (name, known, one_time, answers, steps) in table {
        assert_eq!(steps_for(known, one_time, &answers), steps, "{name}");
    }
}

#[test]
fn after_a_temporary_failure_the_flow_waits_and_tries_again() {
    let seven_seconds = Some(Duration::from_secs(7));
    for (answer, expected) in [
        (AuthAnswer::Busy { retry_after: seven_seconds }, AuthWait::Busy(seven_seconds)),
        (AuthAnswer::Unreachable, AuthWait::Unreachable),
        (AuthAnswer::Odd, AuthWait::Odd),
        // An answer that does not match the request.
        (AuthAnswer::Registered, AuthWait::Odd),
    ] {
        let mut flow = AuthFlow::new(REGISTERED);
        flow.handle_answer(AuthStep::LogIn, answer, NOW);
        assert_eq!(flow.poll_step(NOW, OneTimeSecretPresence::Missing), AuthStep::Wait(expected));
        flow.handle_waited();
        assert_eq!(flow.poll_step(NOW, OneTimeSecretPresence::Missing), AuthStep::LogIn);
    }
}

#[test]
fn a_wrong_clock_is_corrected_by_the_refusals_date_and_registration_retried_once() {
    for true_now in [NOW - 86_400_000 * 365, NOW + 3_600_000] {
        let refused = AuthAnswer::Refused { date_ms: Some(true_now) };
        let mut flow = AuthFlow::new(NEW_DEVICE);
        flow.handle_answer(register(), refused, NOW);
        // The device's own clock advances.
        let second = flow.poll_step(NOW + 500, OneTimeSecretPresence::Present);
        assert_eq!(second, AuthStep::Register { at_ms: true_now + 500 });
        flow.handle_answer(second, AuthAnswer::Refused { date_ms: Some(true_now + 60_000) }, NOW);
        assert_eq!(flow.poll_step(NOW, OneTimeSecretPresence::Present), AuthStep::LogIn);
    }
}

#[test]
fn a_refusal_within_the_same_step_or_without_a_date_is_not_retried() {
    for date_ms in [Some(NOW), None] {
        let mut flow = AuthFlow::new(NEW_DEVICE);
        flow.handle_answer(register(), AuthAnswer::Refused { date_ms }, NOW);
        assert_eq!(flow.poll_step(NOW, OneTimeSecretPresence::Present), AuthStep::LogIn);
    }
}

#[test]
fn a_saved_token_that_the_hub_rejects_is_replaced_at_once() {
    let mut flow = AuthFlow::new(with_token(Duration::ZERO));
    flow.handle_unauthorized(flow.serial());
    assert_eq!(flow.poll_step(NOW, OneTimeSecretPresence::Missing), AuthStep::LogIn);
}

#[test]
fn a_new_token_that_the_hub_rejects_is_a_refusal_and_the_next_login_waits() {
    let mut flow = AuthFlow::new(REGISTERED);
    flow.handle_answer(AuthStep::LogIn, SESSION, NOW);
    flow.handle_unauthorized(flow.serial());
    assert_eq!(flow.poll_step(NOW, OneTimeSecretPresence::Missing), wait(AuthRefusal::Hub));
    flow.handle_waited();
    assert_eq!(flow.poll_step(NOW, OneTimeSecretPresence::Missing), AuthStep::LogIn);
}

#[test]
fn a_rejected_older_token_does_not_discard_the_refreshed_one() {
    let mut flow = AuthFlow::new(REGISTERED);
    flow.handle_answer(AuthStep::LogIn, SESSION, NOW);
    let first = flow.serial();
    flow.handle_welcomed();
    flow.handle_answer(AuthStep::Refresh, SESSION, NOW);
    assert_eq!(flow.handle_unauthorized(first), RejectedToken::Older);
    assert_eq!(flow.poll_step(NOW, OneTimeSecretPresence::Missing), AuthStep::Connect);
    assert_eq!(flow.handle_unauthorized(flow.serial()), RejectedToken::Current);
    assert_eq!(flow.poll_step(NOW, OneTimeSecretPresence::Missing), AuthStep::LogIn);
}

#[test]
fn a_new_token_is_used_before_it_is_refreshed_however_short_its_lifetime() {
    let mut flow = AuthFlow::new(REGISTERED);
    flow.handle_answer(AuthStep::LogIn, AuthAnswer::Session { ttl: Duration::ZERO }, NOW);
    assert_eq!(flow.poll_step(NOW, OneTimeSecretPresence::Missing), AuthStep::Connect);
    flow.handle_half_life();
    assert_eq!(flow.poll_step(NOW, OneTimeSecretPresence::Missing), AuthStep::Refresh);
}

#[test]
fn a_token_is_refreshed_at_its_half_life_or_if_the_clock_was_set_back() {
    let lifetime = with_token(Duration::ZERO).token.unwrap();
    assert!(!lifetime.is_refresh_due(NOW));
    assert!(!lifetime.is_refresh_due(lifetime.refresh_at_ms() - 1));
    assert!(lifetime.is_refresh_due(lifetime.refresh_at_ms()));
    assert!(lifetime.is_refresh_due(NOW - 1));
}

fn any_answer() -> impl Strategy<Value = AuthAnswer> {
    prop_oneof![
        Just(AuthAnswer::Registered),
        (0u64..100_000).prop_map(|secs| AuthAnswer::Session { ttl: Duration::from_secs(secs) }),
        any::<Option<u64>>().prop_map(|date_ms| AuthAnswer::Refused { date_ms }),
        any::<Option<u32>>().prop_map(|secs| AuthAnswer::Busy {
            retry_after: secs.map(|secs| Duration::from_secs(secs.into()))
        }),
        Just(AuthAnswer::Unreachable),
        Just(AuthAnswer::Odd),
    ]
}

fn any_known() -> impl Strategy<Value = AuthFlowStart> {
    let lifetime = any::<Option<(u64, u64)>>().prop_map(|token| {
        token.map(|(issued_at_ms, expires_at_ms)| TokenLifetime { issued_at_ms, expires_at_ms })
    });
    (any::<bool>(), lifetime)
        .prop_map(|(is_registered, token)| AuthFlowStart { is_registered, token })
}

proptest! {
    #[test]
    fn any_answers_lead_to_a_next_step_and_a_bounded_number_of_requests(
        known in any_known(),
        answers in prop::collection::vec(any_answer(), 0..40),
        has_one_time in any::<bool>(),
        now in any::<u64>(),
    ) {
        let one_time = match has_one_time {
            true => OneTimeSecretPresence::Present,
            false => OneTimeSecretPresence::Missing,
        };
        let mut flow = AuthFlow::new(known);
        let mut requests = 0;
        for answer in answers {
            let step = flow.poll_step(now, one_time);
            match step {
                AuthStep::Register { .. } | AuthStep::LogIn | AuthStep::Refresh => {
                    requests += 1;
                    prop_assert!(requests <= 6, "too many requests without a wait");
                    let is_register = matches!(step, AuthStep::Register { .. });
                    prop_assert!(has_one_time || !is_register);
                    flow.handle_answer(step, answer, now);
                }
                AuthStep::Connect => {
                    prop_assert!(flow.lifetime().is_some());
                    flow.handle_unauthorized(flow.serial());
                }
                AuthStep::Wait(_) => {
                    requests = 0;
                    flow.handle_waited();
                }
            }
        }
    }
}
