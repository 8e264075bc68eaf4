//! The TLS roots of the agent: the system's roots, or one pinned CA. The same for auth and the hub.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use rustls_platform_verifier::BuilderVerifierExt;

use spoke_diagnostics::error_chain;
use spoke_service::config::ConfigError;

use crate::account::DeviceAccount;

/// There are no usable root certificates.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The pinned CA cannot be used.
    #[error("invalid CA in {}: {problem}. Expected certificates in PEM form", path.display())]
    BadCaFile {
        /// The file.
        path: PathBuf,
        /// The error.
        problem: String,
    },
    /// The root certificates of the system cannot be used.
    #[error(
        "failed to use the system's root certificates. Install ca-certificates, or set ca_file"
    )]
    NoRoots(#[source] rustls::Error),
}

impl TrustError {
    /// Turns it into a settings error, for the exit code.
    pub fn into_config_error(self) -> ConfigError {
        ConfigError::bad("ca_file", error_chain(&self))
    }
}

/// Returns the TLS configuration for this account. If neither URL is encrypted, no root
/// certificates are needed.
///
/// # Errors
/// [`TrustError`] if the root certificates cannot be used.
pub fn client_config(
    account: &DeviceAccount,
    ca_file: &Path,
) -> Result<Arc<ClientConfig>, TrustError> {
    let builder = ClientConfig::builder();
    let config = if !ca_file.as_os_str().is_empty() {
        builder.with_root_certificates(pinned(ca_file)?).with_no_client_auth()
    } else if account.auth.is_plaintext() && account.hub.is_plaintext() {
        builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()
    } else {
        builder.with_platform_verifier().map_err(TrustError::NoRoots)?.with_no_client_auth()
    };
    Ok(Arc::new(config))
}

fn pinned(ca_file: &Path) -> Result<RootCertStore, TrustError> {
    let bad = |problem: String| TrustError::BadCaFile { path: ca_file.to_owned(), problem };
    let certificates = CertificateDer::pem_file_iter(ca_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| bad(error_chain(&error)))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| bad(error_chain(&error)))?;
    }
    if roots.is_empty() {
        return Err(bad("no certificate found".to_owned()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(url: &str) -> DeviceAccount {
        DeviceAccount {
            client: "dev1".parse().unwrap(),
            auth: url.parse().unwrap(),
            hub: url.parse().unwrap(),
        }
    }

    #[test]
    fn a_ca_file_without_a_certificate_is_refused_with_its_name() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let error = || client_config(&account("https://h"), &path).unwrap_err().to_string();
        assert!(error().contains("ca.pem"));
        std::fs::write(&path, "no PEM at all").unwrap();
        assert!(error().contains("no certificate found"));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
            .unwrap();
        assert!(error().contains("PEM"));
    }

    #[test]
    fn plaintext_needs_no_root_certificates() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        client_config(&account("http://127.0.0.1:1"), Path::new("")).unwrap();
    }
}
