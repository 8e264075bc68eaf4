//! The page in a real browser.

use serde_json::json;
use spoke_tests::{
    browser::{Browser, Look},
    cloud::{Cloud, Settings, out},
    device::{Device, OUT},
    entries::fields,
};

const DESK: Look = Look { width: 1280, scheme: "light" };
const DARK: Look = Look { width: 1280, scheme: "dark" };
const PHONE: Look = Look { width: 390, scheme: "light" };

/// Whether the page is no wider than the window.
const FITS: &str = "document.documentElement.scrollWidth <= window.innerWidth";

async fn cloud() -> Cloud {
    Cloud::start_with(Settings { hub: &[("page", "send")], auth: &[] }).await
}

/// Checks that the page fits in light, dark and phone layouts, and that dark differs from light.
async fn check_layouts(browser: &mut Browser, name: &str) {
    let mut backgrounds = Vec::new();
    for (word, look) in [("light", DESK), ("dark", DARK), ("phone", PHONE)] {
        browser.look(look).await;
        assert_eq!(browser.run(FITS).await, true, "{name} is wider than {look:?}");
        let background = "getComputedStyle(document.documentElement).backgroundColor";
        backgrounds.push(browser.run(background).await);
        browser.picture(&format!("{name}-{word}")).await;
    }
    assert_ne!(backgrounds[0], backgrounds[1], "dark and light have the same background");
    browser.look(DESK).await;
}

#[tokio::test]
async fn the_list_updates_live_as_devices_connect_send_and_disconnect() {
    let Some(mut browser) = Browser::start().await else { return };
    let cloud = cloud().await;
    let root = format!("http://{}/", cloud.hub.admin().address());
    browser.look(DESK).await;
    browser.open(&root).await;
    browser.until("document.body.innerText.includes('No client has connected yet')").await;
    browser.until("document.getElementById('link').textContent === 'live'").await;

    let mut device = Device::start(&cloud, "dev1").await;

    browser.until("!!document.querySelector('#c-dev1 .dot.on')").await;
    let received = "document.querySelector('#c-dev1 [data-head=received]').textContent";
    for n in 1..=3 {
        device.redis.add(OUT, &fields([("topic", "test"), ("payload", "x")])).await;
        browser.until(&format!("{received} === '{n}'")).await;
    }
    let heights = "document.querySelector('.line.up').getAttribute('d').match(/ [0-9.]+/g)";
    browser.until(&format!("new Set({heights}).size > 1")).await;
    device.stop_agent().await;
    cloud.redis.add(&out("dev1"), &fields([("topic", "test")])).await;
    browser.until("!document.querySelector('#c-dev1 .dot.on')").await;
    let waiting = "document.querySelector('#c-dev1 [data-head=\"lag down\"] .behind').textContent";
    browser.until(&format!("{waiting} === '1'")).await;
    check_layouts(&mut browser, "fleet").await;
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test]
async fn a_client_can_be_searched_viewed_and_sent_an_entry() {
    let Some(mut browser) = Browser::start().await else { return };
    let cloud = cloud().await;
    let device = Device::start(&cloud, "dev1").await;
    let evil = "<img src=x onerror='window.hurt=1'><script>window.hurt=1</script>";
    let long = "wide".repeat(300);
    let entry = fields([
        ("topic", evil),
        ("payload", &format!("{{\"text\":\"{evil}\"}}")),
        ("note", &long),
    ]);
    device.redis.add(OUT, &entry).await;
    device.carried_both_ways(&cloud).await;
    browser.look(DESK).await;
    browser.open(&format!("http://{}/?q=EV1", cloud.hub.admin().address())).await;

    browser.run("document.querySelector('#c-dev1 a').click()").await;

    browser
        .until("location.pathname === '/clients/dev1' && document.readyState === 'complete'")
        .await;
    browser.until("document.getElementById('link').textContent === 'live'").await;
    let shown = browser.run("document.querySelector('.entries').innerText").await.to_string();
    assert!(shown.contains("<img src=x") && shown.contains("more bytes"), "{shown}");
    browser.run("document.querySelector('#send textarea').focus()").await;
    browser.type_in("héllo <b>").await;
    browser.run("document.querySelector('#send [type=submit]').click()").await;
    browser.until("document.getElementById('sent').textContent.startsWith('sent as ')").await;
    let second = "document.querySelector('.ways section:last-child').innerText";
    browser
        .until(&format!("{second}.includes('héllo <b>') && {second}.includes('delivered')"))
        .await;
    device.carried_both_ways(&cloud).await;
    assert_eq!(device.carried().await[0].fields, fields([("topic", "héllo <b>")]));
    check_layouts(&mut browser, "client").await;
    assert!(browser.run("window.hurt").await.is_null(), "a script of an entry ran");
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test]
async fn another_site_in_the_same_browser_can_neither_send_nor_read() {
    let Some(mut browser) = Browser::start().await else { return };
    let (cloud, other) = (cloud().await, cloud().await);
    cloud.provision("dev1").await;
    // Another port is another origin, and this page has no policy that forbids requests elsewhere.
    browser.open(&format!("http://{}/healthz", other.hub.admin().address())).await;
    let target = format!("http://{}", cloud.hub.admin().address());
    let body = r#"JSON.stringify({fields: [["a", "b"]]})"#;

    for kind in ["application/json", "text/plain"] {
        let script = format!(
            "fetch('{target}/clients/dev1/send', {{method: 'POST', mode: '{}', headers: \
             {{'content-type': '{kind}'}}, body: {body}}}).then(() => 'sent', () => 'refused')",
            if kind == "text/plain" { "no-cors" } else { "cors" },
        );
        browser.run(&script).await;
    }
    let read = format!("fetch('{target}/').then((it) => it.text()).catch(() => 'refused')");
    assert_eq!(browser.run(&read).await, "refused");
    assert_eq!(cloud.redis.length(&out("dev1")).await, 0);
}

/// The README's picture. `make picture` renews it.
const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/page.png");
/// In bytes.
const PICTURE_MAX: u64 = 200 * 1024;

#[tokio::test]
async fn the_readmes_picture_shows_a_small_fleet_at_work() {
    let Some(mut browser) = Browser::start().await else { return };
    let cloud = cloud().await;
    let mut fleet = Vec::new();
    for (client, pace) in [("pump-station-3", 2), ("truck-07", 5), ("truck-12", 1)] {
        fleet.push((Device::start(&cloud, client).await, pace));
    }
    // Just high enough for the content.
    let size = json!({ "width": 1100, "height": 650, "deviceScaleFactor": 1, "mobile": false });
    browser.call("Emulation.setDeviceMetricsOverride", size).await;
    browser.open(&format!("http://{}/", cloud.hub.admin().address())).await;
    for n in 0..30 {
        for (device, pace) in &fleet {
            for _ in 0..pace * (2 + n % 3) {
                let entry = [("topic", "status"), ("payload", r#"{"speed":12.4}"#)];
                device.redis.add(OUT, &fields(entry)).await;
            }
            if n % 4 == 0 {
                cloud.redis.add(&out(&device.client), &fields([("topic", "route")])).await;
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    }
    let (truck, _) = fleet.last_mut().expect("a truck");
    truck.stop_agent().await;
    for _ in 0..4 {
        cloud.redis.add(&out("truck-12"), &fields([("topic", "route")])).await;
    }
    browser.until("!!document.querySelector('#c-truck-07 .dot.on')").await;
    let waiting =
        "document.querySelector('#c-truck-12 [data-head=\"lag down\"] .behind')?.textContent";
    browser.until(&format!("{waiting} === '4'")).await;
    browser.picture("page").await;
    assert_eq!(browser.complaints(), [""; 0]);
}

#[test]
fn the_readmes_picture_exists_and_is_small() {
    let bytes = std::fs::metadata(PICTURE).map(|file| file.len()).unwrap();
    assert!((1..PICTURE_MAX).contains(&bytes), "{bytes} bytes");
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"));
    assert!(readme.unwrap().contains("(docs/page.png)"));
}
