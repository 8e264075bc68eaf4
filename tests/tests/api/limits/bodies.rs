//! HTTP bodies at their limits.

use serde_json::json;
use spoke_tests::{service::Kind, single_service::Stand};

const BODY_MAX: usize = 4 * 1024 * 1024;

/// A batch of one small entry, padded with blanks to this many bytes.
fn padded(seq: &str, bytes: usize) -> String {
    let mut body = json!({ "entries": [{ "seq": seq, "fields": [["a", "b"]] }] }).to_string();
    body.extend(std::iter::repeat_n(' ', bytes - body.len()));
    body
}

#[tokio::test]
async fn a_body_of_four_mebibytes_is_accepted_and_one_byte_more_is_not() {
    let stand = Stand::start(Kind::Hub, &[]).await;
    let dev1 = stand.client("dev1").await;
    let kind = "application/json";
    dev1.post_body("/xadd", kind, padded("1-0", BODY_MAX)).await.ok();
    let over = dev1.post_body("/xadd", kind, padded("2-0", BODY_MAX + 1)).await;
    assert_eq!(over.refusal(), (413, "too-large".to_owned()));
    assert_eq!(dev1.get("/seq").await.ok()["seq"], "1-0");
}

#[tokio::test]
async fn the_largest_entry_fits_a_body_in_its_longest_encoding() {
    let stand = Stand::start(Kind::Hub, &[]).await;
    let dev1 = stand.client("dev1").await;
    // A line feed takes two bytes in JSON. The entry is accepted nevertheless.
    let body = json!({ "seq": "1-0", "fields": [["blob", "\n".repeat(1024 * 1024)]] });
    dev1.post_json("/xadd", &body).await.ok();
    let entries = stand.redis.entries("spoke-hub:in:x").await;
    assert_eq!(entries[0].fields[3].1.len(), 1024 * 1024);
}

#[tokio::test]
async fn auth_accepts_a_body_of_eight_kibibytes_and_no_more() {
    let stand = Stand::start(Kind::Auth, &[]).await;
    let body = |bytes: usize| {
        let mut body = json!({ "client": "dev1", "secret": "s".repeat(32) }).to_string();
        body.extend(std::iter::repeat_n(' ', bytes - body.len()));
        body
    };
    let kind = "application/json";
    let at_limit = stand.api().post_body("/login", kind, body(8 * 1024)).await;
    assert_eq!(at_limit.refusal(), (401, "refused".to_owned()));
    let over = stand.api().post_body("/login", kind, body(8 * 1024 + 1)).await;
    assert_eq!(over.refusal(), (413, "too-large".to_owned()));
}

#[tokio::test]
async fn an_endless_chunked_body_is_cut_off() {
    let stand = Stand::start(Kind::Hub, &[]).await;
    let dev1 = stand.client("dev1").await;
    let token = dev1.token().unwrap();
    let mut request = format!(
        "POST /xadd HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for _ in 0..600 {
        request.extend(b"2000\r\n");
        request.extend([b' '; 0x2000]);
        request.extend(b"\r\n");
    }
    let answer = dev1.raw(&request).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    dev1.get("/seq").await.ok();
}
