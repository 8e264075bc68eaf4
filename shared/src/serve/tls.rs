//! TLS of a listener, from a certificate chain and a key in PEM.

use std::{path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::config::{ConfigError, TlsSettings};

/// The server's side of TLS 1.2 and 1.3; none where no certificate is set.
///
/// # Errors
/// `ConfigError` that names the file which cannot be used.
pub fn server_tls(tls: &TlsSettings) -> Result<Option<Arc<ServerConfig>>, ConfigError> {
    let (cert, key) = (&tls.cert_file, &tls.key_file);
    match (cert.as_os_str().is_empty(), key.as_os_str().is_empty()) {
        (true, true) => return Ok(None),
        (false, false) => {}
        (false, true) => return Err(missing("tls.key_file", "tls.cert_file")),
        (true, false) => return Err(missing("tls.cert_file", "tls.key_file")),
    }
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable("tls.cert_file", cert, &error))?;
    if chain.is_empty() {
        return Err(unusable("tls.cert_file", cert, &"it holds no certificate"));
    }
    let key_der =
        PrivateKeyDer::from_pem_file(key).map_err(|error| unusable("tls.key_file", key, &error))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key_der)
        .map_err(|error| unusable("tls.key_file", key, &error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}

fn missing(key: &str, other: &str) -> ConfigError {
    ConfigError::bad(key, format!("it is empty, but {other} is set; set both, or neither"))
}

fn unusable(key: &str, path: &Path, error: &dyn std::fmt::Display) -> ConfigError {
    let path = path.display();
    let problem =
        format!("{path} cannot be used: {error}; give a PEM file that this user may read");
    ConfigError::bad(key, problem)
}
