//! Invalid bodies, paths and methods, against a real router.

use axum::{
    body::{Body, to_bytes},
    extract::DefaultBodyLimit,
    routing::{get, post},
};
use http::{Request, header::ALLOW};
use serde::Deserialize;
use tower::ServiceExt;

use super::*;

#[derive(Deserialize)]
struct Named {
    a: String,
}

fn app() -> Router {
    let echo = |JsonOrForm(body): JsonOrForm<Named>| async move { Json(json!({ "a": body.a })) };
    let router = Router::new()
        .route("/echo", post(echo))
        .route("/both", get(|| async {}).delete(|| async {}))
        .layer(DefaultBodyLimit::max(64));
    fallback(router)
}

async fn send(method: &str, path: &str, content_type: &str, body: &str) -> (Response, Value) {
    let request = Request::builder().method(method).uri(path).header("content-type", content_type);
    let response = app().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, 1 << 16).await.unwrap();
    (Response::from_parts(parts, Body::empty()), serde_json::from_slice(&bytes).unwrap())
}

#[tokio::test]
async fn a_body_is_parsed_as_json_or_as_a_form() {
    for (content_type, body) in [
        ("application/json", r#"{"a":"1 2"}"#),
        ("Application/JSON; charset=utf-8", r#"{"a":"1 2"}"#),
        ("application/vnd.x+json", r#"{"a":"1 2"}"#),
        ("application/x-www-form-urlencoded", "a=1+2"),
    ] {
        let (response, answer) = send("POST", "/echo", content_type, body).await;
        assert_eq!(response.status(), StatusCode::OK, "{content_type}");
        assert_eq!(answer, json!({ "a": "1 2" }), "{content_type}");
    }
}

#[tokio::test]
async fn an_invalid_body_is_refused_with_an_api_error() {
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(64));
    let long_form = format!("a={}", "x".repeat(64));
    for (content_type, body, status, reason) in [
        ("application/json", "{", 400, "malformed"),
        ("application/json", "", 400, "malformed"),
        ("application/json", "[1]", 400, "malformed"),
        ("application/json", r#"{"a":1}"#, 400, "malformed"),
        ("application/x-www-form-urlencoded", "a=1&a=2&a", 400, "malformed"),
        ("application/json", &long, 413, "too-large"),
        ("application/x-www-form-urlencoded", &long_form, 413, "too-large"),
        ("text/plain", "{}", 415, "unsupported-media-type"),
        ("", "{}", 415, "unsupported-media-type"),
    ] {
        let (response, answer) = send("POST", "/echo", content_type, body).await;
        assert_eq!(response.status().as_u16(), status, "{content_type} {body}: {answer}");
        assert_eq!(answer["code"], status, "{content_type} {body}");
        assert_eq!(answer["reason"], reason, "{content_type} {body}");
        assert!(answer["message"].is_string(), "{content_type} {body}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused_with_an_api_error() {
    let (response, answer) = send("GET", "/nowhere", "", "").await;
    assert_eq!((response.status().as_u16(), &answer["reason"]), (404, &json!("not-found")));
    let (response, answer) = send("POST", "/both", "", "").await;
    assert_eq!(
        (response.status().as_u16(), &answer["reason"]),
        (405, &json!("method-not-allowed"))
    );
    let allowed = response.headers()[ALLOW].to_str().unwrap();
    assert!(allowed.contains("GET") && allowed.contains("DELETE"), "{allowed}");
}

#[test]
fn the_body_has_code_message_and_reason_and_seq_only_if_set() {
    let refusal = ApiError::new(StatusCode::CONFLICT, "duplicate", "had it");
    let plain = json!({ "code": 409, "message": "had it", "reason": "duplicate" });
    assert_eq!(refusal.body(), plain);
    let body = refusal.with_seq(Seq::new(7, 1)).body();
    assert_eq!(body["seq"], "7-1");
}

#[test]
fn retry_after_is_at_least_a_second() {
    for (seconds, header) in [(0, "1"), (1, "1"), (90, "90")] {
        let refusal = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "later");
        let response = refusal.retry_after(seconds).into_response();
        assert_eq!(response.headers()[RETRY_AFTER], header);
    }
    let refusal = ApiError::new(StatusCode::FORBIDDEN, "refused", "no");
    assert!(!refusal.into_response().headers().contains_key(RETRY_AFTER));
}
