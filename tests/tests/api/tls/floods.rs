//! Floods of HTTP/2 frames that are not requests: each costs its sender more than other clients.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use spoke_tests::{
    certificates::Certificates,
    cloud::admit,
    load_probe::{Recorder, Siege},
    service::Kind,
    single_service::Stand,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::tls::{connect, resets::frame};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long each flood is sent.
const FLOOD_TIME: Duration = Duration::from_millis(1500);
/// Connections at a time.
const CONNECTIONS: usize = 4;
/// Frames in one write.
const BURST: usize = 500;
/// Log lines for all floods together.
const LINES_MAX: usize = 40;

/// Endless frames that cost work, an answer or memory.
fn floods() -> Vec<(&'static str, Vec<u8>)> {
    // GET https / of the host "h", by the static table (RFC 7541, appendix A).
    let request = [0x82, 0x87, 0x84, 0x41, 0x01, b'h'];
    let settings: Vec<u8> = [0, 3, 0, 0, 0, 100].repeat(20);
    // A header that is large once unpacked: one entry of the table, named again and again.
    let large = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], &vec![b'y'; 4000]].concat();
    let expanding = [&large[..], &[0xbe; 8000]].concat();
    vec![
        ("settings", frame(4, 0, 0, &settings).repeat(BURST)),
        ("empty settings", frame(4, 0, 0, &[]).repeat(BURST)),
        ("pings", frame(6, 0, 0, &[7; 8]).repeat(BURST)),
        ("priorities", frame(2, 0, 1, &[0, 0, 0, 3, 9]).repeat(BURST)),
        ("window updates", frame(8, 0, 0, &[0, 0, 0, 1]).repeat(BURST)),
        ("unknown frames", frame(0x7f, 0, 0, &[0; 100]).repeat(BURST)),
        (
            "empty continuations",
            [frame(1, 0, 1, &request), frame(9, 0, 1, &[]).repeat(BURST)].concat(),
        ),
        (
            "long continuations",
            [frame(1, 0, 1, &request), frame(9, 0, 1, &[0x40; 8000]).repeat(100)].concat(),
        ),
        ("empty data", [frame(1, 4, 1, &request), frame(0, 0, 1, &[]).repeat(BURST)].concat()),
        ("a header that expands", [frame(1, 5, 1, &expanding)].concat()),
        ("garbage", vec![0xa5; 64 * 1024]),
    ]
}

/// Sends a flood, on a new connection whenever one ends.
async fn send_flood(files: &Certificates, stand: &Stand, flood: &[u8]) {
    let until = Instant::now() + FLOOD_TIME;
    while Instant::now() < until {
        let Ok(stream) = connect(files, stand.service.address(), &[b"h2"]).await else { continue };
        let (mut reading, mut writing) = tokio::io::split(stream);
        let sending = async {
            writing.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await?;
            loop {
                writing.write_all(flood).await?;
                writing.flush().await?;
            }
        };
        let mut buffer = vec![0; 16 * 1024];
        let draining =
            async { while reading.read(&mut buffer).await.is_ok_and(|read| read > 0) {} };
        let ended = async {
            tokio::select! {
                ended = sending => { let _: std::io::Result<()> = ended; }
                () = draining => {}
            }
        };
        let _ = tokio::time::timeout(until - Instant::now(), ended).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_http_2_are_bounded_while_a_good_client_notices_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let files = Certificates::make(folder.path());
    let tls = files.settings();
    let settings = [(tls[0].0, &*tls[0].1), (tls[1].0, &*tls[1].1), ("log.level", "info")];
    let mut stand = Stand::start(Kind::Hub, &settings).await;
    let pid = stand.service.process().pid();
    let token = admit(&stand.redis, "good").await;
    spoke_tests::api::install_tls();
    let authority = std::fs::read(&files.ca_file).unwrap();
    let authority = reqwest::Certificate::from_pem(&authority).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([authority]);
    let client = client.build().unwrap();
    let url = format!("https://{}/xadd", stand.service.address());
    let good = async |recorder: Recorder| {
        for n in 1.. {
            let entry = json!({ "seq": format!("{n}-0"), "fields": [["n", "1"]] });
            let request = client.post(&url).bearer_auth(&token).json(&entry).send();
            assert_eq!(recorder.time(request).await.unwrap().status(), 200);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let attack = async || {
        for (what, flood) in floods() {
            join_all((0..CONNECTIONS).map(|_| send_flood(&files, &stand, &flood))).await;
            println!("{what}: {} KiB", spoke_tests::load_probe::resident_kib(pid));
        }
    };

    let siege = Siege::lay(pid, good, attack).await;

    siege.assert_borne("floods of HTTP/2", 64);
    let lines = stand.service.log().lines().count();
    assert!(lines <= LINES_MAX, "{lines} lines:\n{}", stand.service.log());
}
