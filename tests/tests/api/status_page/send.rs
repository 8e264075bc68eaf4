//! Sending from the page: only if the setting allows it, and only from the page itself.

use http::Method;
use serde_json::{Value, json};
use spoke_tests::{api::Answer, cloud::out, entries::fields, single_service::Stand};

use super::{client_with_session, hub};

/// Sends what a browser sends from the page, with changed headers; an empty value removes one.
async fn post(stand: &Stand, client: &str, body: &Value, change: &[(&str, &str)]) -> Answer {
    let admin = stand.service.admin();
    let origin = format!("http://{}", admin.address());
    let mut request = admin.request(Method::POST, &format!("/clients/{client}/send"));
    let mut headers = vec![("content-type", "application/json"), ("origin", &origin)];
    headers.retain(|(name, _)| change.iter().all(|(other, _)| other != name));
    headers.extend(change.iter().filter(|(_, value)| !value.is_empty()));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    admin.call(request.body(body.to_string())).await
}

fn entry() -> Value {
    json!({ "fields": [["topic", "test"], ["payload", "héllo\n"]] })
}

#[tokio::test]
async fn an_entry_sent_from_the_page_goes_into_the_clients_out_stream() {
    let stand = hub(&[("page", "send")]).await;
    client_with_session(&stand, "dev1", "1").await;

    let sent = post(&stand, "dev1", &entry(), &[]).await.ok();

    let stored = stand.redis.entries(&out("dev1")).await;
    assert_eq!((sent["id"].as_str(), stored.len()), (Some(stored[0].id.as_str()), 1));
    assert_eq!(stored[0].fields, fields([("topic", "test"), ("payload", "héllo\n")]));
    let unknown = post(&stand, "nobody", &entry(), &[]).await.refusal();
    assert_eq!(unknown, (404, "not-found".to_owned()));
    for body in [json!({}), json!({ "fields": [] }), json!({ "fields": [["seq", "1-1"]] })] {
        let refused = post(&stand, "dev1", &body, &[]).await.refusal();
        assert_eq!(refused, (400, "malformed".to_owned()), "{body}");
    }
    let large = json!({ "fields": [["a", "x".repeat(100_000)]] });
    assert_eq!(post(&stand, "dev1", &large, &[]).await.status, 413);
    assert_eq!(stand.redis.length(&out("dev1")).await, 1);
}

#[tokio::test]
async fn no_other_site_can_send() {
    let stand = hub(&[("page", "send")]).await;
    client_with_session(&stand, "dev1", "1").await;
    for change in [
        [("origin", "http://evil.example")].as_slice(),
        &[("origin", "null")],
        &[("origin", "")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("content-type", "text/plain")],
        &[("content-type", "application/x-www-form-urlencoded")],
        &[("host", "evil.example"), ("origin", "http://evil.example")],
    ] {
        let answer = post(&stand, "dev1", &entry(), change).await;
        assert!(matches!(answer.status, 403 | 415 | 421), "{change:?}: {answer:?}");
    }
    assert_eq!(stand.redis.length(&out("dev1")).await, 0);
}

#[tokio::test]
async fn a_read_only_page_cannot_send() {
    let stand = hub(&[]).await;
    client_with_session(&stand, "dev1", "1").await;
    let refused = post(&stand, "dev1", &entry(), &[]).await.refusal();
    assert_eq!(refused, (403, "read-only".to_owned()));
    assert_eq!(stand.redis.length(&out("dev1")).await, 0);
    assert!(!stand.service.admin().get("/clients/dev1").await.text.contains("<form id=\"send\""));
}
