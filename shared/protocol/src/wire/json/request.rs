//! A text frame of `spoke.v1.json`.
//!
//! The payload stays text until the code that knows its type reads it. Rejected: a JSON tree, which loses order
//! and repetitions, and makes sixty bytes of two.

use serde::Deserialize;
use serde_json::value::RawValue;

/// `{"type", "id", "payload"}`.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct RequestBody<'a> {
    /// The request type, as the text of a JSON string.
    #[serde(borrow, rename = "type")]
    kind: &'a RawValue,
    /// Any value; the answer has the same.
    #[serde(borrow, default)]
    pub id: Option<&'a RawValue>,
    /// The payload of the request type.
    #[serde(borrow, default)]
    pub payload: Option<&'a RawValue>,
}

/// A text that is not a request.
#[derive(Debug)]
pub struct InvalidRequest<'a> {
    /// Its `id`, if it has one.
    pub id: Option<&'a RawValue>,
    /// The fault.
    pub error: serde_json::Error,
}

#[derive(Deserialize)]
struct RequestId<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
}

impl<'a> RequestBody<'a> {
    /// Parses a text.
    ///
    /// # Errors
    /// [`InvalidRequest`] if it is not a request.
    pub fn read(text: &'a str) -> Result<Self, InvalidRequest<'a>> {
        serde_json::from_str(text).map_err(|error| {
            let named: Option<RequestId> = serde_json::from_str(text).ok();
            InvalidRequest { id: named.and_then(|named| named.id), error }
        })
    }

    /// Returns the request type; none if it is not a string, or longer than any type.
    pub fn kind(&self) -> Option<String> {
        (self.kind.get().len() <= 64).then(|| serde_json::from_str(self.kind.get()).ok())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_and_id_of_a_request_keep_their_text() {
        let text = r#"{"payload":{"b":1,"a": 1e400,"b":[ ]},"type":"\u0065cho","id":[1, 2]}"#;
        let request = RequestBody::read(text).unwrap();
        assert_eq!(request.kind().as_deref(), Some("echo"));
        assert_eq!(request.id.unwrap().get(), "[1, 2]");
        assert_eq!(request.payload.unwrap().get(), r#"{"b":1,"a": 1e400,"b":[ ]}"#);
    }

    #[test]
    fn an_invalid_request_gives_its_id_if_it_has_one() {
        for (text, id) in [
            (r#"{"id":7}"#, Some("7")),
            (r#"{"id":7,"type":}"#, None),
            ("[]", None),
            ("", None),
            ("7", None),
        ] {
            let misread = RequestBody::read(text).unwrap_err();
            assert_eq!(misread.id.map(RawValue::get), id, "{text}");
            assert!(!misread.error.to_string().is_empty());
        }
        for text in [r#"{"type":7}"#.to_owned(), format!(r#"{{"type":"{}"}}"#, "x".repeat(100))] {
            assert_eq!(RequestBody::read(&text).unwrap().kind(), None);
        }
    }
}
