//! HTTP/2 and HTTP/1.1, chosen by the client's ALPN offer.

use bytes::Bytes;
use serde_json::{Value, json};
use spoke_tests::{certificates::Certificates, cloud::admit, service::Kind, single_service::Stand};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::tls::connect;

async fn stand(kind: Kind, files: &Certificates) -> Stand {
    let tls = files.settings();
    Stand::start(kind, &[(tls[0].0, &tls[0].1), (tls[1].0, &tls[1].1)]).await
}

/// The expectation about a connection.
const OPEN: &str = "the connection is open";

/// Sends one request over HTTP/2.
async fn ask(
    sender: &mut h2::client::SendRequest<Bytes>,
    request: http::request::Builder,
    body: &Value,
) -> (u16, Value) {
    let mut ready = sender.clone().ready().await.expect(OPEN);
    let request = request.body(()).expect("a valid request");
    let (answer, mut stream) = ready.send_request(request, body.is_null()).expect(OPEN);
    if !body.is_null() {
        stream.send_data(body.to_string().into(), true).expect(OPEN);
    }
    let answer = answer.await.expect(OPEN);
    let (status, mut body) = (answer.status().as_u16(), answer.into_body());
    let mut text = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.expect(OPEN);
        let _ = body.flow_control().release_capacity(part.len());
        text.extend_from_slice(&part);
    }
    (status, serde_json::from_slice(&text).unwrap_or_default())
}

#[tokio::test]
async fn both_services_speak_http_2_and_multiplex_requests_on_one_connection() {
    let folder = tempfile::tempdir().unwrap();
    let files = Certificates::make(folder.path());
    let hub = stand(Kind::Hub, &files).await;
    let token = admit(&hub.redis, "dev1").await;
    let stream = connect(&files, hub.service.address(), &[b"h2"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let url = |path: &str| format!("https://{}{path}", hub.service.address());
    let get = |path: &str| {
        http::Request::get(url(path)).header("authorization", format!("Bearer {token}"))
    };
    // This read waits for new entries, and other requests do not wait for it.
    let mut waiting = sender.clone();
    let poll = get("/xread?seq=0-0&count=1&blockMs=20000");
    let poll = tokio::spawn(async move { ask(&mut waiting, poll, &Value::Null).await });
    let post = || {
        let request = http::Request::post(url("/xadd")).header("content-type", "application/json");
        request.header("authorization", format!("Bearer {token}"))
    };
    for n in 1..=20 {
        let entry = json!({ "seq": format!("{n}-0"), "fields": { "n": n.to_string() } });
        assert_eq!(ask(&mut sender, post(), &entry).await.0, 200);
    }
    assert_eq!(ask(&mut sender, get("/seq"), &Value::Null).await.1["seq"], "20-0");
    assert_eq!(hub.redis.length("spoke-hub:in:x").await, 20);
    hub.redis.command::<String>(&["XADD", "spoke-hub:out:dev1:x", "*", "a", "b"]).await;
    let (status, polled) = poll.await.unwrap();
    assert_eq!((status, polled["entries"].as_array().map(Vec::len)), (200, Some(1)), "{polled}");
    // A WebSocket cannot be opened over HTTP/2.
    let (status, refusal) = ask(&mut sender, get("/sync"), &Value::Null).await;
    assert!((400..500).contains(&status) && refusal["reason"].is_string(), "{status} {refusal}");
    connection.abort();

    let auth = stand(Kind::Auth, &files).await;
    let stream = connect(&files, auth.service.address(), &[b"h2"]).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let url = format!("https://{}/login", auth.service.address());
    let request = http::Request::post(url).header("content-type", "application/json");
    let body = json!({ "client": "nobody", "secret": "a-secret-that-nobody-has" });
    let (status, refusal) = ask(&mut sender, request, &body).await;
    assert_eq!((status, &refusal["reason"]), (401, &json!("refused")));
    connection.abort();
}

#[tokio::test]
async fn clients_that_offer_no_alpn_or_http_1_1_get_http_1_1() {
    let folder = tempfile::tempdir().unwrap();
    let files = Certificates::make(folder.path());
    let auth = stand(Kind::Auth, &files).await;
    for alpn in [&[][..], &[&b"http/1.1"[..]]] {
        let mut stream = connect(&files, auth.service.address(), alpn).await.unwrap();
        let request = b"GET /nowhere HTTP/1.1\r\nhost: auth\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{alpn:?}: {answer}");
    }
}
