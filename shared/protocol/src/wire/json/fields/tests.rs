use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(text: &str) -> Result<Vec<Field>, String> {
    serde_json::from_str::<Fields>(text).map(|fields| fields.0).map_err(|error| error.to_string())
}

fn own(pairs: &[(&[u8], &[u8])]) -> Vec<Field> {
    let bytes = Bytes::copy_from_slice;
    pairs.iter().map(|(name, value)| (bytes(name), bytes(value))).collect()
}

#[test]
fn fields_are_pairs_or_an_object_and_keep_order_and_duplicates() {
    assert_eq!(
        read(r#"[["b","1"],["a","2"],["b","3"]]"#).unwrap(),
        own(&[(b"b", b"1"), (b"a", b"2"), (b"b", b"3"),])
    );
    assert_eq!(
        read(r#"{"b":"1","a":{"b64":"/w=="},"b":"3"}"#).unwrap(),
        own(&[(b"b", b"1"), (b"a", b"\xff"), (b"b", b"3"),])
    );
    assert_eq!(read(r#"[[{"b64":"AA=="},"x"]]"#).unwrap(), own(&[(b"\0", b"x")]));
    assert_eq!(read(r#"[[{"\u0062\u00364":"AA=="},"\n"]]"#).unwrap(), own(&[(b"\0", b"\n")]));
}

#[test]
fn invalid_fields_are_refused_with_a_reason() {
    let table = [
        (r#"["a","b"]"#, ""),
        (r#"[["a"]]"#, "invalid length 1"),
        (r#"[["a","b","c"]]"#, ""),
        (r#"[["a",1]]"#, "a string or {\"b64\": \"…\"}"),
        (r#"{"a":null}"#, "a string or {\"b64\": \"…\"}"),
        (r#"{"a":{"b64":"?"}}"#, "not base64"),
        (r#"{"a":{"hex":"00"}}"#, "the one key b64"),
        (r#"{"a":{"b64":"AA==","x":"y"}}"#, "the one key b64"),
        (r#""a""#, "pairs or as an object"),
        ("7", "pairs or as an object"),
    ];
    for (text, problem) in table {
        let error = read(text).unwrap_err();
        assert!(error.contains(problem), "{text}: {error}");
    }
}

#[test]
fn a_value_is_a_string_unless_it_is_not_utf_8_or_base64_is_shorter() {
    let json_of =
        |bytes: &'static [u8]| serde_json::to_value(ByteString(Bytes::from_static(bytes))).unwrap();
    assert_eq!(json_of(b"two\nlines \"quoted\""), json!("two\nlines \"quoted\""));
    assert_eq!(json_of("é".as_bytes()), json!("é"));
    assert_eq!(json_of(b"\xff"), json!({"b64": "/w=="}));
    assert_eq!(json_of(&[0; 30]), json!({"b64": STANDARD.encode([0; 30])}));
}

proptest! {
    #[test]
    fn fields_round_trip_through_json_in_about_the_size_of_base64(
        fields in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..50), prop::collection::vec(0u8..40, 0..50)),
            0..6)
    ) {
        let fields: Vec<_> = fields.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
        let text = serde_json::to_string(&Fields(fields.clone())).unwrap();
        let most = |bytes: &Bytes| bytes.len().div_ceil(3) * 4 + 14;
        let bound: usize = fields.iter().map(|(n, v)| most(n) + most(v)).sum();
        prop_assert!(text.len() <= bound + 2);
        prop_assert_eq!(serde_json::from_str::<Fields>(&text).unwrap().0, fields);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in r#"[\[\]{}",:b64=\\a0 ]{0,80}"#) {
        let _ = serde_json::from_str::<Fields>(&text);
    }
}
