//! A flood of HTTP/2 resets ("rapid reset"), of which a library warns on every connection, does not fill the log.

use spoke_tests::{certificates::Certificates, service::Kind, single_service::Stand};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::tls::connect;

const CONNECTIONS: usize = 60;
/// On one connection: more than any library allows.
const RESETS: u32 = 400;
/// Log lines for the whole flood, those of the service included.
const LINES_MAX: usize = 8;

/// A frame of HTTP/2 (RFC 9113, section 4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Requests that are cancelled at once.
fn flood() -> Vec<u8> {
    // GET https / of the host "h", by the static table (RFC 7541, appendix A).
    let request = [0x82, 0x87, 0x84, 0x41, 0x01, b'h'];
    let cancel = 8_u32.to_be_bytes();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    for n in 0..RESETS {
        let stream = 2 * n + 1;
        bytes.extend(frame(1, 0x5, stream, &request));
        bytes.extend(frame(3, 0, stream, &cancel));
    }
    bytes
}

async fn lines_of_a_flood(files: &Certificates, kind: Kind, level: &str) -> (usize, String) {
    let tls = files.settings();
    let settings = [(tls[0].0, &*tls[0].1), (tls[1].0, &*tls[1].1), ("log.level", level)];
    let stand = Stand::start(kind, &settings).await;
    let before = stand.service.log().lines().count();
    for _ in 0..CONNECTIONS {
        let stream = connect(files, stand.service.address(), &[b"h2"]).await;
        let mut stream = stream.expect("the service accepts connections");
        // The service may close the connection meanwhile.
        let _ = stream.write_all(&flood()).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    let log = stand.service.log();
    (log.lines().count() - before, log)
}

#[tokio::test]
async fn a_flood_of_resets_on_many_connections_logs_only_a_few_lines() {
    let folder = tempfile::tempdir().unwrap();
    let files = Certificates::make(folder.path());
    for kind in [Kind::Hub, Kind::Auth] {
        let (lines, log) = lines_of_a_flood(&files, kind, "info").await;
        assert!(lines <= LINES_MAX, "{lines} lines:\n{log}");
    }
    // To show that the flood works: with the library's warnings on, each connection is logged.
    let (lines, _) = lines_of_a_flood(&files, Kind::Hub, "info,h2=warn").await;
    assert!(lines >= CONNECTIONS, "only {lines} lines");
}
