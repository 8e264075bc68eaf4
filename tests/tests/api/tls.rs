//! TLS of both services and of Redis: refused certificates and their messages, renewed certificates,
//! HTTP/2, and settings that are reloaded while a service runs.

mod floods;
mod http2;
mod redis;
mod refusals;
mod reload;
mod resets;

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use spoke_tests::{api::install_tls, certificates::Certificates};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Connects to this address over TLS and trusts the authority of these files.
async fn connect(
    files: &Certificates,
    address: std::net::SocketAddr,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    install_tls();
    let mut roots = RootCertStore::empty();
    let authority =
        CertificateDer::from_pem_file(&files.ca_file).expect("the test created the file");
    roots.add(authority).expect("an authority can be trusted");
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let tcp = TcpStream::connect(address).await.expect("the service listens");
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}
