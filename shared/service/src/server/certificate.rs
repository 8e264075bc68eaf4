//! TLS of a listener: a certificate chain and a key in PEM, which are read again when they change.
//!
//! The files are compared as a whole every few seconds, so that it does not matter how they are
//! replaced: in place, by a rename, or behind a symbolic link. A pair that does not go together, as
//! between two writes, is passed over until it does. Connections that are open keep what they have.
//! Rejected: inotify, which is one more library and loses what a changed link hides.

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
use spoke_diagnostics::error_chain::error_chain;

/// The certificate that a listener shows. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Certificate {
    config: Arc<ServerConfig>,
    shown: Arc<CurrentCertificate>,
    source: Arc<Mutex<CertificateFiles>>,
}

/// Whether a certificate is another one than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateChange {
    /// It is the same.
    Same,
    /// It is a new one, which all connections from now on are shown.
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
    /// What the settings name, for TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1; none where they name nothing.
    ///
    /// # Errors
    /// `ConfigError` that names the file which cannot be used.
    pub fn open(tls: &TlsSettings) -> Result<Option<Self>, ConfigError> {
        let (cert, key) = (&tls.cert_file, &tls.key_file);
        match (cert.as_os_str().is_empty(), key.as_os_str().is_empty()) {
            (true, true) => return Ok(None),
            (false, false) => {}
            (false, true) => return Err(missing("tls.key_file", "tls.cert_file")),
            (true, false) => return Err(missing("tls.cert_file", "tls.key_file")),
        }
        let pem = CertificatePem::read(tls)?;
        let shown = Arc::new(CurrentCertificate(RwLock::new(pem.certified(tls)?)));
        let builder = ServerConfig::builder().with_no_client_auth();
        let mut config = builder.with_cert_resolver(shown.clone());
        config.alpn_protocols = vec![
            #[cfg(feature = "http2")]
            b"h2".to_vec(),
            b"http/1.1".to_vec(),
        ];
        let source = Arc::new(Mutex::new(CertificateFiles { tls: tls.clone(), pem }));
        Ok(Some(Self { config: Arc::new(config), shown, source }))
    }

    /// Reads the files that these settings name, and shows what they hold from now on.
    ///
    /// # Errors
    /// `ConfigError` that names the file which cannot be used; what was shown is shown still.
    pub fn reload(&self, tls: &TlsSettings) -> Result<CertificateChange, ConfigError> {
        if tls.cert_file.as_os_str().is_empty() {
            let problem = "it is empty, and TLS is turned off by a restart only";
            return Err(ConfigError::bad("tls.cert_file", problem));
        }
        let pem = CertificatePem::read(tls)?;
        let mut source = self.source();
        let fresh =
            if pem == source.pem { CertificateChange::Same } else { CertificateChange::New };
        if fresh == CertificateChange::New {
            let certified = pem.certified(tls)?;
            *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
            info!("there is another certificate, and new connections are shown it");
        }
        *source = CertificateFiles { tls: tls.clone(), pem };
        Ok(fresh)
    }

    /// Shows what the files hold whenever that changes, until the shutdown begins.
    pub async fn watch(self, shutdown: Shutdown) {
        let mut fault = None;
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                () = tokio::time::sleep(CERTIFICATE_INTERVAL) => {}
            }
            let this = self.clone();
            let looked = tokio::task::spawn_blocking(move || {
                let tls = this.source().tls.clone();
                this.reload(&tls)
            });
            match looked.await.expect("reading files does not panic") {
                Ok(CertificateChange::Same | CertificateChange::New) => fault = None,
                Err(error) => {
                    let error = error_chain(&error);
                    if fault.as_ref() != Some(&error) {
                        error!(error, "the certificate cannot be read again; the old one is shown");
                    }
                    fault = Some(error);
                }
            }
        }
    }

    /// Why the certificate that is shown is out of its time at `time`, if it is: the error says when that
    /// ends or began.
    ///
    /// The library looks at that before it asks who signed, and it is given nobody to ask.
    pub(crate) fn out_of_time(&self, time: UnixTime) -> Option<CertificateError> {
        let shown = self.shown.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        let certificate = ParsedCertificate::try_from(shown.end_entity_cert().ok()?).ok()?;
        let (nobody, algorithms) = (RootCertStore::empty(), &[]);
        let error =
            verify_server_cert_signed_by_trust_anchor(&certificate, &nobody, &[], time, algorithms);
        match error {
            Err(rustls::Error::InvalidCertificate(
                error @ (CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYetContext { .. }),
            )) => Some(error),
            _ => None,
        }
    }

    /// For the acceptor.
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
            return Err(unusable("tls.cert_file", cert_file, "it holds no certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| unusable("tls.key_file", key_file, &error_chain(&error)))?;
        let provider = ServerConfig::builder().crypto_provider().clone();
        let certified = CertifiedKey::from_der(certificates, key, &provider).map_err(|error| {
            let problem = match error {
                rustls::Error::InconsistentKeys(_) => {
                    let cert_file = cert_file.display();
                    format!("it is not the key of the certificate in {cert_file}")
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
        f.write_str("Pem(…)")
    }
}

fn missing(key: &str, other: &str) -> ConfigError {
    ConfigError::bad(key, format!("it is empty, but {other} is set; set both, or neither"))
}

fn unusable(key: &str, path: &Path, problem: &str) -> ConfigError {
    let path = path.display();
    let problem =
        format!("{path} cannot be used: {problem}; give a PEM file that this user may read");
    ConfigError::bad(key, problem)
}
