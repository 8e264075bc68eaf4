//! Who may see the page, and that content from clients cannot run in it.

use http::Method;
use serde_json::json;
use spoke_tests::{api::Answer, cloud::out, entries::fields, wait::eventually};

use super::{client_with_session, hub};

const EVIL: &str = "<img src=x onerror=alert(1)>\"'&";
const HARMLESS: &str = "&lt;img src=x onerror=alert(1)&gt;&quot;'&amp;";

#[tokio::test]
async fn what_a_client_sends_is_shown_escaped_and_cannot_run() {
    let stand = hub(&[]).await;
    let client = client_with_session(&stand, "dev1", EVIL).await;
    let entry = json!({ "seq": "1-0", "fields": [[EVIL, EVIL], ["bytes", { "b64": "/xsA" }]] });
    client.post_json("/xadd", &entry).await.ok();
    stand.redis.add(&out("dev1"), &fields([(EVIL, EVIL)])).await;
    let admin = stand.service.admin();

    let pages = [admin.get("/").await, admin.get("/clients/dev1").await];

    for page in &pages {
        assert_eq!(page.status, 200, "{page:?}");
        assert!(page.text.contains(HARMLESS) && !page.text.contains("<img"), "{}", page.text);
    }
    assert_eq!(pages[1].text.matches(HARMLESS).count(), 5, "version, 2 names, 2 values");
    assert!(pages[1].text.contains("\\xff\\x1b\\x00"), "{}", pages[1].text);
}

#[tokio::test]
async fn every_answer_of_the_page_has_a_strict_content_security_policy() {
    let stand = hub(&[]).await;
    client_with_session(&stand, "dev1", "1").await;
    let admin = stand.service.admin();
    for path in ["/", "/clients/dev1", "/clients/nobody", "/page.css", "/page.js", "/icon.svg"] {
        let answer = admin.get(path).await;
        let policy = answer.header("content-security-policy").unwrap_or_default();
        for rule in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(rule), "{path}: {answer:?}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
    assert_eq!(admin.get("/clients/nobody").await.refusal(), (404, "not-found".to_owned()));
    assert_eq!(admin.get("/clients/..%2f").await.refusal(), (404, "not-found".to_owned()));
}

#[tokio::test]
async fn requests_under_an_unknown_host_name_see_nothing() {
    let stand = hub(&[("admin_hosts", "spoke.example")]).await;
    let admin = stand.service.admin();
    let get_as = async |host: &str, path: &str| -> Answer {
        admin.call(admin.request(Method::GET, path).header("host", host)).await
    };
    for path in ["/", "/live", "/clients/dev1", "/clients/dev1/live"] {
        let answer = get_as("evil.example:9464", path).await;
        assert_eq!(answer.refusal(), (421, "unknown-host".to_owned()), "{path}");
    }
    assert_eq!(get_as("spoke.example", "/").await.status, 200);
    assert_eq!(get_as("localhost:9464", "/").await.status, 200);
    let health = get_as("evil.example", "/healthz").await;
    assert_eq!(health.refusal(), (421, "unknown-host".to_owned()), "health is not revealed either");
}

#[tokio::test]
async fn with_page_off_its_routes_are_404_and_health_still_answers() {
    let stand = hub(&[("page", "off")]).await;
    let admin = stand.service.admin();
    for path in ["/", "/live", "/clients/dev1", "/page.js"] {
        assert_eq!(admin.get(path).await.refusal(), (404, "not-found".to_owned()), "{path}");
    }
    assert_eq!(admin.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn the_page_reports_that_redis_is_unreachable() {
    let mut stand = hub(&[]).await;
    client_with_session(&stand, "dev1", "1").await;
    let admin = stand.service.admin();
    assert!(admin.get("/").await.text.contains("dev1"));
    stand.redis.kill9();
    eventually("the page to report it", spoke_tests::wait::PATIENCE, async || {
        let page = admin.get("/").await;
        let is_reported = page.status == 200 && page.text.contains("redis is unreachable");
        is_reported.then_some(()).ok_or(page)
    })
    .await;
    assert_eq!(admin.get("/clients/dev1").await.refusal(), (503, "unavailable".to_owned()));
}
