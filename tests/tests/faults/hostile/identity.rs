//! Another client's name or token in every place of a request.

use http::Method;
use serde_json::{Value, json};
use spoke_protocol::wire::frame::SUBPROTOCOL;
use spoke_store::session_tokens::{digest, session_key};
use spoke_tests::{
    api::{Answer, Api},
    cloud::{IN, admit},
    single_service::Stand,
    websocket::{JSON_SUBPROTOCOL, Offer, Socket, hello, open, session},
};

use crate::hostile::{auth, hub, register};

const SECRET: &str = "for-dev2-only";
const DEV2_OUT: &str = "spoke-hub:out:dev2:x";

/// Two clients; dev2 has something in each of its streams, and must have the same at the end.
struct Neighbours {
    stand: Stand,
    dev1: Api,
    before: Vec<String>,
}

impl Neighbours {
    async fn new() -> Self {
        let stand = hub(&[]).await;
        let (dev1, dev2) = (stand.client("dev1").await, stand.client("dev2").await);
        let fields = spoke_tests::entries::fields([("note", SECRET)]);
        let id = stand.redis.add(DEV2_OUT, &fields).await;
        dev2.post_json("/xadd", &one("9-0")).await.ok();
        dev2.get("/xread").await.ok();
        dev2.get(&format!("/xread?seq={id}")).await.ok();
        let before = snapshot(&stand).await;
        Self { stand, dev1, before }
    }

    /// Asserts that dev2's data is neither in the answer nor changed.
    async fn assert_untouched(&self, what: &str, answer: &str) {
        assert!(!answer.contains(SECRET), "{what}: the answer contains dev2's entry: {answer}");
        assert_eq!(snapshot(&self.stand).await, self.before, "{what}: dev2's data has changed");
    }

    async fn assert_refused(&self, what: &str, answer: &Answer, status: u16) {
        assert_eq!(answer.refusal().0, status, "{what}: {answer:?}");
        self.assert_untouched(what, &answer.text).await;
    }
}

/// Everything that the hub keeps about dev2.
async fn snapshot(stand: &Stand) -> Vec<String> {
    let mut state: Vec<_> = stand.redis.hash("spoke-hub:client:dev2:h").await.into_iter().collect();
    state.sort();
    let mut snapshot = vec![format!("{state:?}")];
    let inbound = stand.redis.entries(IN).await.into_iter();
    let theirs = inbound.filter(|entry| entry.text("client").as_deref() == Some("dev2"));
    for entry in theirs.chain(stand.redis.entries(DEV2_OUT).await) {
        snapshot.push(format!("{entry:?}"));
    }
    let keys: Vec<String> = stand.redis.command(&["KEYS", "spoke-hub:*"]).await;
    let known = |key: &&String| {
        !["spoke-hub:in:x", "spoke-hub:lost:x", "spoke-hub:identity"].contains(&key.as_str())
    };
    let mut keys: Vec<_> =
        keys.iter().filter(known).filter(|key| !key.contains(":dev1:")).cloned().collect();
    keys.sort();
    snapshot.extend(keys);
    snapshot
}

fn one(seq: &str) -> Value {
    json!({ "seq": seq, "fields": [["n", seq]] })
}

const ROUTES: [(Method, &str); 5] = [
    (Method::GET, "/seq"),
    (Method::POST, "/xadd"),
    (Method::GET, "/xread"),
    (Method::POST, "/session"),
    (Method::GET, "/sync"),
];

#[tokio::test]
async fn another_clients_name_in_a_header_gives_no_access() {
    let both = Neighbours::new().await;
    for (method, path) in ROUTES {
        for (name, value) in [
            ("spoke-client", "dev2"),
            ("client", "dev2"),
            ("x-client", "dev2"),
            ("x-forwarded-user", "dev2"),
            ("x-remote-user", "dev2"),
            ("x-original-url", "/xread?client=dev2"),
            ("forwarded", "for=dev2;by=dev2"),
            ("cookie", "client=dev2; token=dev2"),
            ("from", "dev2"),
            ("sec-websocket-protocol", "spoke.v1.json, dev2"),
        ] {
            let request = both.dev1.request(method.clone(), path).header(name, value);
            let answer = both.dev1.call(request.json(&json!({}))).await;
            both.assert_untouched(&format!("{path} with {name}"), &answer.text).await;
        }
        for authorization in ["Bearer dev2", "Basic ZGV2MjpkZXYy", "dev2", "Bearer"] {
            let request = both.stand.api().request(method.clone(), path);
            let request = request.header("authorization", authorization).json(&json!({}));
            let answer = both.dev1.call(request).await;
            both.assert_refused(&format!("{path} as {authorization}"), &answer, 401).await;
        }
    }
}

#[tokio::test]
async fn another_clients_name_in_a_query_or_a_path_gives_no_access() {
    let both = Neighbours::new().await;
    for (method, path) in ROUTES {
        for query in [
            "client=dev2",
            "seq=0-0&client=dev2",
            "key=spoke-hub:out:dev2:x",
            "seq=0-0%26client=dev2",
            "%63lient=dev2",
            "seq=0-0;client=dev2",
            "client[]=dev2",
        ] {
            let request = both.dev1.request(method.clone(), &format!("{path}?{query}"));
            let answer = both.dev1.call(request.json(&json!({}))).await;
            both.assert_untouched(&format!("{path}?{query}"), &answer.text).await;
        }
        for suffix in
            ["/dev2", "/../dev2", "%2Fdev2", "%3Fclient=dev2", "%00dev2", ";client=dev2", ":dev2:x"]
        {
            // Written by hand: a library would normalise the path.
            let token = both.dev1.token().unwrap();
            let close = [("connection", "close")];
            let request = crate::hostile::request(
                method.as_str(),
                &format!("{path}{suffix}"),
                Some(token),
                &close,
            );
            let answer = both.dev1.raw(&request).await;
            assert!(answer.starts_with("HTTP/1.1 404"), "{path}{suffix}: {answer}");
            both.assert_untouched(&format!("{path}{suffix}"), &answer).await;
        }
    }
}

#[tokio::test]
async fn another_clients_name_in_a_body_is_refused_or_ignored() {
    let both = Neighbours::new().await;
    let mut one_named = one("1-0");
    one_named["client"] = json!("dev2");
    let batch = |entry: Value| json!({ "entries": [entry] });
    let mut batch_named = batch(one("1-0"));
    batch_named["client"] = json!("dev2");
    for body in [
        one_named.clone(),
        batch(one_named),
        batch_named,
        json!({ "seq": "1-0", "fields": [["n", "1"]], "key": DEV2_OUT }),
        json!({ "seq": "1-0", "fields": [["n", "1"]], "generation": 1 }),
    ] {
        let answer = both.dev1.post_json("/xadd", &body).await;
        both.assert_refused(&body.to_string(), &answer, 400).await;
    }
    for name in [json!("client"), json!({ "b64": "Y2xpZW50" }), json!("epoch"), json!("seq")] {
        let entry = json!({ "seq": "1-0", "fields": [["n", "1"], [name, "dev2"]] });
        let answer = both.dev1.post_json("/xadd", &entry).await;
        both.assert_refused(&entry.to_string(), &answer, 400).await;
        assert_eq!(answer.refusal().1, "reserved-field");
    }
    // Fields as an object too, and in a batch, of which the other entry is taken.
    let entries = json!([{ "seq": "1-0", "fields": { "client": "dev2" } }, one("2-0")]);
    let added = both.dev1.post_json("/xadd", &json!({ "entries": entries })).await.ok();
    assert_eq!(added["refused"][0]["reason"], "reserved-field", "{added}");
    both.assert_untouched("a batch", &added.to_string()).await;
    let origin = json!({ "epoch": 1, "start": "0-0", "first": "0-0", "last": "0-0", "added": 0, "acked": "0-0" });
    let cursor = json!({ "epoch": 0, "seq": "0-0" });
    let session = json!({ "version": "dev2", "client": "dev2", "key": DEV2_OUT, "origin": origin, "cursor": cursor });
    let welcome = both.dev1.post_json("/session", &session).await.ok();
    assert_eq!(welcome["cursor"]["seq"], "2-0", "the cursor is dev1's own: {welcome}");
    both.assert_untouched("a session", &welcome.to_string()).await;
}

#[tokio::test]
async fn another_clients_name_over_a_websocket_gives_no_access() {
    let both = Neighbours::new().await;
    let (address, token) = (both.stand.service.address(), both.dev1.token().unwrap());
    let mut socket = open(address, token, JSON_SUBPROTOCOL).await;
    for (kind, payload) in [
        ("id", json!({ "client": "dev2" })),
        ("xread", json!({ "client": "dev2" })),
        ("xread", json!({ "key": DEV2_OUT })),
        ("xread", json!({ "seq": "0-0", "epoch": 1, "Client": "dev2" })),
        ("xread", json!("dev2")),
        ("xread", Value::Null),
        ("xadd", json!({ "client": "dev2", "seq": "1-0", "fields": [["n", "1"]] })),
        ("xadd", json!({ "seq": "1-0", "fields": { "client": "dev2" } })),
        ("echo", json!({ "client": "dev2" })),
        ("xread:dev2", json!({})),
        (DEV2_OUT, json!({})),
    ] {
        let answer = socket.ask(kind, "x", payload.clone()).await;
        both.assert_untouched(&format!("{kind} {payload}"), &answer.to_string()).await;
    }
    let subprotocols = [
        vec![JSON_SUBPROTOCOL, "dev2"],
        vec![JSON_SUBPROTOCOL, "client.dev2", token],
        vec![SUBPROTOCOL, token],
        vec!["dev2", JSON_SUBPROTOCOL, token],
    ];
    for subprotocols in subprotocols {
        let offered = subprotocols.iter().map(ToString::to_string).collect();
        let offer = Offer { subprotocols: offered, ..Offer::default() };
        let answer = Socket::connect(address, &offer).await.expect_err("no token, no session");
        both.assert_refused(&format!("{subprotocols:?}"), &answer, 401).await;
    }
    let hello = spoke_protocol::message::Hello { version: "dev2".to_owned(), ..hello() };
    let (mut frames, _) = session(address, token, hello).await;
    let received = frames.frames_until_quiet(std::time::Duration::from_millis(300)).await;
    assert!(received.is_empty(), "dev1 received what is not its own: {received:?}");
    both.assert_untouched("a HELLO", "").await;
}

#[tokio::test]
async fn a_token_that_is_not_valid_in_this_fleet_gives_no_access() {
    let both = Neighbours::new().await;
    let live = admit(&both.stand.redis, "dev2").await;
    let revoked = admit(&both.stand.redis, "dev2").await;
    both.stand.redis.command::<()>(&["DEL", &session_key("spoke-auth", &digest(&revoked))]).await;
    let invalid_client = admit(&both.stand.redis, "..").await;
    let own = both.dev1.token().unwrap();
    let tokens = [
        ("none", String::new()),
        ("revoked", revoked),
        ("of a client with an invalid name", invalid_client),
        ("a valid token's digest", digest(&live)),
        ("a valid token in capitals", live.to_uppercase()),
        ("a valid token cut short", live[..live.len() - 1].to_owned()),
        ("a valid token with one more digit", format!("{live}0")),
        ("two", format!("{own} {live}")),
        ("a pattern", "*".to_owned()),
        ("a key", session_key("spoke-auth", &digest(&live))),
    ];
    for (method, path) in ROUTES {
        for (what, token) in &tokens {
            let request = both.stand.api().with_token(token).request(method.clone(), path);
            let answer = both.dev1.call(request.json(&json!({}))).await;
            assert!(matches!(answer.status, 401 | 503), "{path}, {what}: {answer:?}");
            both.assert_untouched(&format!("{path}, {what}"), &answer.text).await;
        }
        for name in ["token", "access_token", "ToKeN", "sessionToken", "session_token", "bearer"] {
            let request =
                both.stand.api().request(method.clone(), &format!("{path}?{name}={live}"));
            let answer = both.dev1.call(request.json(&json!({}))).await;
            both.assert_refused(&format!("{path}?{name}"), &answer, 400).await;
        }
    }
    assert!(!both.stand.service.log().contains(&live), "a token is in the log");
}

#[tokio::test]
async fn a_session_can_refresh_and_end_only_itself_whatever_client_the_request_names() {
    let (stand, _) = auth(&[]).await;
    let (own, theirs) = (register(&stand, "dev1").await, register(&stand, "dev2").await);
    let client_of = async |token: &str| -> Option<String> {
        let key = session_key("spoke-auth", &digest(token));
        stand.redis.command(&["HGET", &key, "client"]).await
    };
    // Whatever else the body contains, the refreshed token belongs to the same client.
    for body in
        [json!({ "client": "dev2" }), json!({ "token": theirs }), json!({ "sessionToken": theirs })]
    {
        let renewed = stand.api().with_token(&own).post_json("/refresh", &body).await.ok();
        let token = renewed["sessionToken"].as_str().unwrap();
        assert_eq!(client_of(token).await.as_deref(), Some("dev1"), "{body}");
    }
    let answer = stand
        .api()
        .with_token(&own)
        .post_json("/logout", &json!({ "client": "dev2", "token": theirs }))
        .await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(client_of(&own).await, None);
    assert_eq!(
        client_of(&theirs).await.as_deref(),
        Some("dev2"),
        "another client's session was ended"
    );
    for path in ["/refresh", "/logout", "/login", "/register"] {
        let answer = stand.api().post(&format!("{path}?client=dev2&token={theirs}")).await;
        assert_eq!(answer.refusal(), (400, "token-in-url".to_owned()));
    }
    for name in ["dev2:x", "dev2\n", "*", "dev2%00", "../dev2", "", "dev2\u{0}", "{dev2}", "é"] {
        let body = json!({ "client": name, "secret": "a-secret-of-32-bytes-as-devices-" });
        let answer = stand.api().post_json("/login", &body).await;
        assert_eq!(answer.refusal(), (400, "malformed".to_owned()), "{name:?}");
    }
}
