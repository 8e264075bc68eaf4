//! Attacks by connections: endless sessions, endless WebSocket messages, HTTP/2 resets.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::{join_all, join3};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use spoke_protocol::{message::Features, wire::frame::SUBPROTOCOL};
use spoke_tests::{
    hostile::{
        frames::greeting,
        raw::{self, websocket_frame},
    },
    websocket::JSON_SUBPROTOCOL,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{REQUESTS, SOCKETS};
use crate::{
    arena::Target,
    flood::{Request, ask},
};

/// Frames of one write.
const BURST: usize = 5000;
/// The longest time that a socket with an endless message may stay open.
const OPEN_MAX: Duration = Duration::from_secs(2);
/// Connections of one client that are reset.
const RESET_CONNECTIONS: usize = 4;

/// `POST /session`, `/seq` and sockets that close at once.
pub(crate) async fn storm(target: &Target, span: Duration) {
    let seq = r#"{"epoch":0,"seq":"0-0"}"#;
    let origin = r#"{"epoch":1,"start":"0-0","first":"0-0","last":"0-0","added":0,"acked":"0-0"}"#;
    let session = format!(r#"{{"version":"0","origin":{origin},"cursor":{seq}}}"#);
    let requests = ask(target, span, REQUESTS / 2, |n| match n % 2 {
        0 => Request::post("/session", session.clone()),
        _ => Request::get("/seq"),
    });
    let sockets = join_all((0..SOCKETS).map(async |n| {
        let hello = raw::binary(&greeting(Features::default()));
        loop {
            let subprotocol = [SUBPROTOCOL, JSON_SUBPROTOCOL][n as usize % 2];
            match raw::socket(target.address, target.token(), subprotocol).await {
                Ok(mut socket) => drop(socket.write_all(&hello).await),
                Err(error) => target.note(error),
            }
        }
    }));
    let plain = join_all((0..SOCKETS).map(async |_| {
        loop {
            // Nothing is sent on it.
            drop(TcpStream::connect(target.address).await);
            tokio::task::yield_now().await;
        }
    }));
    let _: Result<((), Vec<()>, Vec<()>), _> =
        tokio::time::timeout(span, join3(requests, sockets, plain)).await;
}

pub(crate) async fn continuations(target: &Target, span: Duration) -> Vec<String> {
    let flood = websocket_frame(0x00, 0, b"").repeat(BURST);
    send_endless_message(target, span, websocket_frame(0x02, 0, b""), &flood).await
}

pub(crate) async fn fragments(target: &Target, span: Duration) -> Vec<String> {
    let part = [websocket_frame(0x00, 1, b"\x91"), websocket_frame(0x89, 0, b"")].concat();
    send_endless_message(target, span, websocket_frame(0x02, 1, b"\x91"), &part.repeat(BURST / 2))
        .await
}

/// Opens a message that never ends; the hub must close such a socket soon.
async fn send_endless_message(
    target: &Target,
    span: Duration,
    first: Vec<u8>,
    flood: &[u8],
) -> Vec<String> {
    let begun = Instant::now();
    let longest = join_all((0..SOCKETS).map(async |n| {
        let subprotocol = [SUBPROTOCOL, JSON_SUBPROTOCOL][n as usize % 2];
        let mut longest = Duration::ZERO;
        while begun.elapsed() < span {
            match raw::socket(target.address, target.token(), subprotocol).await {
                Ok(mut socket) => {
                    let opened = Instant::now();
                    let (mut reading, mut writing) = socket.split();
                    let sending = async {
                        if subprotocol == SUBPROTOCOL {
                            let hello = raw::binary(&greeting(Features::default()));
                            writing.write_all(&hello).await?;
                        }
                        writing.write_all(&first).await?;
                        while begun.elapsed() < span {
                            writing.write_all(flood).await?;
                        }
                        std::io::Result::Ok(())
                    };
                    // It reads, so that answers to its pings do not block the hub.
                    let mut buffer = vec![0; 64 * 1024];
                    let draining = async {
                        while reading.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {}
                    };
                    tokio::select! {
                        _ = sending => {}
                        () = draining => {}
                    }
                    target.note("socket ended");
                    longest = longest.max(opened.elapsed());
                }
                Err(error) => {
                    target.note(error);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        longest
    }));
    let longest = longest.await.into_iter().max().unwrap_or_default();
    match longest > OPEN_MAX {
        true => vec![format!("a socket with an endless message was open for {longest:.1?}")],
        false => Vec::new(),
    }
}

/// Requests that are reset as soon as they are sent.
pub(crate) async fn resets(target: &Target, span: Duration) {
    let all = join_all((0..RESET_CONNECTIONS).map(async |_| {
        loop {
            if let Err(error) = reset_until_closed(target).await {
                target.note(error);
            }
            tokio::task::yield_now().await;
        }
    }));
    let _: Result<Vec<()>, _> = tokio::time::timeout(span, all).await;
}

async fn reset_until_closed(target: &Target) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(&target.files.ca_file).map_err(words)?;
    roots.add(authority).map_err(words)?;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("127.0.0.1").map_err(words)?;
    let stream = TcpStream::connect(target.address).await.map_err(|_| "refused".to_owned())?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.map_err(|_| "no TLS".to_owned())?;
    let (mut sender, connection) =
        h2::client::handshake(stream).await.map_err(|_| "no HTTP/2".to_owned())?;
    let resetting = async {
        loop {
            sender = sender.ready().await.map_err(|_| "closed".to_owned())?;
            let request = http::Request::post(format!("{}/xadd", target.url))
                .header("authorization", format!("Bearer {}", target.token()))
                .body(())
                .map_err(words)?;
            let (_, mut body) = sender.send_request(request, false).map_err(|_| "closed")?;
            body.send_reset(h2::Reason::CANCEL);
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ended = resetting => ended,
        ended = connection => ended.map_err(|_| "connection ended".to_owned()),
    }
}

fn words(error: impl ToString) -> String {
    error.to_string()
}
