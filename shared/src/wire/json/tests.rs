use serde_json::{Value, json};

use super::*;

const HELLO: &str = r#"{"version":"0.1.0",
    "origin":{"epoch":2,"start":"0-0","first":"3-0","last":"9-1","added":7,"acked":"5-0"},
    "cursor":{"epoch":1,"seq":"4-0","digest":"000102030405060708090a0b0c0d0e0f"},
    "instance":"0123456789abcdef"}"#;

#[test]
fn a_greeting_says_what_hello_says() {
    let form: HelloForm = serde_json::from_str(HELLO).unwrap();
    assert_eq!(serde_json::to_value(&form).unwrap(), serde_json::from_str::<Value>(HELLO).unwrap());
    assert_eq!(form.instance, Some(Instance(0x0123_4567_89ab_cdef)));
    let (origin, cursor) = (Origin::from(form.origin), Cursor::from(form.cursor));
    assert_eq!((origin.epoch, origin.last, origin.added), (Epoch(2), Seq::new(9, 1), 7));
    let digest = Digest([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    assert_eq!(
        cursor,
        Cursor { epoch: Epoch(1), seq: Seq::new(4, 0), digest: Some(digest), ..Cursor::default() }
    );
}

#[test]
fn a_greeting_may_say_more_than_this_version_knows() {
    let more = HELLO.replace(r#""added":7"#, r#""added":7,"mood":"fine""#);
    serde_json::from_str::<HelloForm>(&more).unwrap();
}

#[test]
fn a_proof_that_is_none_is_refused_rather_than_passed_over() {
    for bad in [r#""00""#, r#""zz0102030405060708090a0b0c0d0e0f""#, "7"] {
        let hello = HELLO.replace(r#""000102030405060708090a0b0c0d0e0f""#, bad);
        assert!(serde_json::from_str::<HelloForm>(&hello).is_err(), "{bad}");
    }
    let without = json!({ "epoch": 0, "seq": "0-0" });
    let cursor: CursorForm = serde_json::from_value(without.clone()).unwrap();
    assert_eq!(serde_json::to_value(cursor).unwrap(), without);
}

#[test]
fn what_the_hub_grants_never_passes_our_own_limits_nor_falls_to_nothing() {
    let form = |n: usize| GrantedForm {
        window_batches: n,
        batch_entries: n,
        batch_bytes: n,
        entry_fields: n,
        entry_value_bytes: n,
    };
    assert_eq!(Granted::from(form(usize::MAX)), Granted::default());
    let least = Granted {
        window_batches: 1,
        batch_entries: 1,
        batch_bytes: 1,
        entry: EntryLimits { fields: 1, value_bytes: 1 },
    };
    assert_eq!(Granted::from(form(0)), least);
}
