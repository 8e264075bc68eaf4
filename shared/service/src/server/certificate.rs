//! The TLS certificate of a listener: a chain and a key in PEM, which are reloaded when they change.
//!
//! The files are compared as a whole every few seconds, so that every way to replace them works: in place, by a
//! rename, or behind a symbolic link. A key that does not match the certificate, as between two writes, is
//! ignored until it does. Open connections keep the certificate that they have. Rejected: inotify, which is one
//! more library and misses a change behind a link.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use rustls::{
    CertificateError, RootCertStore, ServerConfig,
    client::verify_server_cert_signed_by_trust_anchor,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};
use tracing::{error, info};

use crate::{
    config::{ConfigError, TlsSettings},
    limits::CERTIFICATE_INTERVAL,
    shutdown::Shutdown,
};
use spoke_diagnostics::{Outage, error_chain};

/// The certificate that a listener presents. Cheap to clone; all clones share one certificate.
#[derive(Debug, Clone)]
pub struct Certificate {
    config: Arc<ServerConfig>,
    current: Arc<CurrentCertificate>,
    source: Arc<Mutex<CertificateFiles>>,
}

/// Whether a reload found another certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateChange {
    /// The files are the same.
    Same,
    /// The files have changed. New connections get the new certificate.
    New,
}

#[derive(Debug)]
struct CurrentCertificate(RwLock<Arc<CertifiedKey>>);

#[derive(Debug)]
struct CertificateFiles {
    tls: TlsSettings,
    pem: CertificatePem,
}

#[derive(Clone, PartialEq, Eq)]
struct CertificatePem {
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl Certificate {
    /// Opens the files of the settings, for TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1. `None` where both settings are
    /// empty.
    ///
    /// # Errors
    /// [`ConfigError`] that names the file that cannot be used.
    pub fn open(tls: &TlsSettings) -> Result<Option<Self>, ConfigError> {
        let (cert, key) = (&tls.cert_file, &tls.key_file);
        match (cert.as_os_str().is_empty(), key.as_os_str().is_empty()) {
            (true, true) => return Ok(None),
            (false, false) => {}
            (false, true) => return Err(missing("tls.key_file", "tls.cert_file")),
            (true, false) => return Err(missing("tls.cert_file", "tls.key_file")),
        }
        let pem = CertificatePem::read(tls)?;
        let current = Arc::new(CurrentCertificate(RwLock::new(pem.certified(tls)?)));
        let builder = ServerConfig::builder().with_no_client_auth();
        let mut config = builder.with_cert_resolver(current.clone());
        config.alpn_protocols = vec![
            #[cfg(feature = "http2")]
            b"h2".to_vec(),
            b"http/1.1".to_vec(),
        ];
        let source = Arc::new(Mutex::new(CertificateFiles { tls: tls.clone(), pem }));
        Ok(Some(Self { config: Arc::new(config), current, source }))
    }

    /// Reads the files of these settings and presents their certificate from now on.
    ///
    /// # Errors
    /// [`ConfigError`] that names the file that cannot be used; the current certificate stays.
    pub fn reload(&self, tls: &TlsSettings) -> Result<CertificateChange, ConfigError> {
        if tls.cert_file.as_os_str().is_empty() {
            let problem = "empty, but TLS can be turned off by a restart only";
            return Err(ConfigError::bad("tls.cert_file", problem));
        }
        let pem = CertificatePem::read(tls)?;
        let mut source = self.source();
        let change =
            if pem == source.pem { CertificateChange::Same } else { CertificateChange::New };
        if change == CertificateChange::New {
            let certified = pem.certified(tls)?;
            *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
            info!("TLS certificate reloaded");
        }
        *source = CertificateFiles { tls: tls.clone(), pem };
        Ok(change)
    }

    /// Reloads the files whenever they change, until the shutdown begins.
    pub async fn watch(self, shutdown: Shutdown) {
        let (outage, mut logged) = (Outage::new(), None);
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                () = tokio::time::sleep(CERTIFICATE_INTERVAL) => {}
            }
            let this = self.clone();
            let reloaded = tokio::task::spawn_blocking(move || {
                let tls = this.source().tls.clone();
                this.reload(&tls)
            });
            match reloaded.await.expect("reading files does not panic") {
                Ok(CertificateChange::Same | CertificateChange::New) => {
                    logged = None;
                    if let Some(count) = outage.handle_success() {
                        info!(count, "TLS certificate files are valid again");
                    }
                }
                Err(error) => {
                    outage.handle_fault();
                    let error = error_chain(&error);
                    // Another fault needs another action.
                    if logged.as_ref() != Some(&error) {
                        error!(error, "failed to reload TLS certificate; keeping the current one");
                    }
                    logged = Some(error);
                }
            }
        }
    }

    /// Returns why the current certificate is not valid at `time`: expired, or not valid yet. The error holds the
    /// time at which its validity ends or begins.
    ///
    /// The library checks the validity period before the signature, and gets no root to check that with.
    pub(crate) fn validity_error(&self, time: UnixTime) -> Option<CertificateError> {
        let current = self.current.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        let certificate = ParsedCertificate::try_from(current.end_entity_cert().ok()?).ok()?;
        let (roots, algorithms) = (RootCertStore::empty(), &[]);
        let error =
            verify_server_cert_signed_by_trust_anchor(&certificate, &roots, &[], time, algorithms);
        match error {
            Err(rustls::Error::InvalidCertificate(
                error @ (CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYetContext { .. }),
            )) => Some(error),
            _ => None,
        }
    }

    /// Returns the configuration for the TLS acceptor.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    fn source(&self) -> MutexGuard<'_, CertificateFiles> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl CertificatePem {
    fn read(tls: &TlsSettings) -> Result<Self, ConfigError> {
        let read = |key, path: &Path| {
            fs::read(path).map_err(|error: io::Error| unusable(key, path, &error_chain(&error)))
        };
        let chain = read("tls.cert_file", &tls.cert_file)?;
        Ok(Self { chain, key: read("tls.key_file", &tls.key_file)? })
    }

    fn certified(&self, tls: &TlsSettings) -> Result<Arc<CertifiedKey>, ConfigError> {
        let (cert_file, key_file) = (&tls.cert_file, &tls.key_file);
        let certificates = CertificateDer::pem_slice_iter(&self.chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unusable("tls.cert_file", cert_file, &error_chain(&error)))?;
        if certificates.is_empty() {
            return Err(unusable("tls.cert_file", cert_file, "no certificate in it"));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| unusable("tls.key_file", key_file, &error_chain(&error)))?;
        let provider = ServerConfig::builder().crypto_provider().clone();
        let certified = CertifiedKey::from_der(certificates, key, &provider).map_err(|error| {
            let problem = match error {
                rustls::Error::InconsistentKeys(_) => {
                    let cert_file = cert_file.display();
                    format!("not the key of the certificate in {cert_file}")
                }
                error => error_chain(&error),
            };
            unusable("tls.key_file", key_file, &problem)
        })?;
        Ok(Arc::new(certified))
    }
}

impl std::fmt::Debug for CertificatePem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CertificatePem(…)")
    }
}

fn missing(key: &str, other: &str) -> ConfigError {
    ConfigError::bad(key, format!("empty, but {other} is set; set both or neither"))
}

fn unusable(key: &str, path: &Path, problem: &str) -> ConfigError {
    let path = path.display();
    let problem =
        format!("unusable file {path}: {problem}; expected a PEM file that this user may read");
    ConfigError::bad(key, problem)
}
