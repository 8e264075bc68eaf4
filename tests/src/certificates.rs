//! A certificate authority of the test's own, and a certificate for the loopback.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::process::write_secret;

/// Files in PEM.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority, for those who are to trust it.
    pub ca_file: PathBuf,
    /// The certificate of `127.0.0.1`.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
}

impl Certificates {
    /// Makes new ones in a folder.
    ///
    /// # Panics
    /// When they cannot be made or written.
    pub fn make(folder: &Path) -> Self {
        let mut authority = CertificateParams::new(Vec::new()).expect("no names are good names");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().expect("a key can be made");
        let root = authority.self_signed(&authority_key).expect("a root signs itself");
        let issuer = Issuer::new(authority, authority_key);
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let leaf = CertificateParams::new(names).expect("these are good names");
        let leaf_key = KeyPair::generate().expect("a key can be made");
        let leaf = leaf.signed_by(&leaf_key, &issuer).expect("the authority signs");
        let write = |name: &str, pem: String| {
            let path = folder.join(name);
            write_secret(&path, &pem);
            path
        };
        Self {
            ca_file: write("ca.pem", root.pem()),
            cert_file: write("cert.pem", leaf.pem()),
            key_file: write("key.pem", leaf_key.serialize_pem()),
        }
    }
}
