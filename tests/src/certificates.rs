//! A certificate authority for tests, and its certificates.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use crate::process::write_secret;

/// PEM files.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority's certificate, for clients that trust it.
    pub ca_file: PathBuf,
    /// The certificate.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
}

/// An authority that writes its certificates to a folder.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Valid {
    /// Today.
    Now,
    /// Until the end of the year 2020.
    Before,
    /// From the year 2090 on.
    Later,
}

const CAN: &str = "a certificate can be made";

impl Authority {
    /// Makes a new authority.
    ///
    /// # Panics
    /// If its file cannot be written.
    pub fn make(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect(CAN);
        let name = format!("authority {:08x}", rand::random::<u32>());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect(CAN);
        let root = params.self_signed(&key).expect(CAN);
        write_secret(&folder.join("ca.pem"), &root.pem());
        Self { folder: folder.to_owned(), issuer: Issuer::new(params, key) }
    }

    /// Makes a certificate for these names, and overwrites the files of the one before.
    ///
    /// # Panics
    /// If a name is invalid, or a file cannot be written.
    pub fn issue(&self, names: &[&str], valid: Valid) -> Certificates {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect(CAN);
        match valid {
            Valid::Now => {}
            Valid::Before => params.not_after = date_time_ymd(2020, 12, 31),
            Valid::Later => params.not_before = date_time_ymd(2090, 1, 1),
        }
        let key = KeyPair::generate().expect(CAN);
        let leaf = params.signed_by(&key, &self.issuer).expect(CAN);
        let file = |name: &str| self.folder.join(name);
        let (ca_file, cert_file, key_file) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
        write_secret(&cert_file, &leaf.pem());
        write_secret(&key_file, &key.serialize_pem());
        Certificates { ca_file, cert_file, key_file }
    }
}

impl Certificates {
    /// Makes an authority and a certificate for the loopback, in a folder.
    ///
    /// # Panics
    /// If they cannot be made or written.
    pub fn make(folder: &Path) -> Self {
        Authority::make(folder).issue(&["127.0.0.1", "localhost"], Valid::Now)
    }

    /// The settings of a service that uses this certificate.
    pub fn settings(&self) -> [(&'static str, String); 2] {
        let path = |path: &Path| path.display().to_string();
        [("tls.cert_file", path(&self.cert_file)), ("tls.key_file", path(&self.key_file))]
    }

    /// The path of the authority's file, for a setting.
    pub fn ca(&self) -> String {
        self.ca_file.display().to_string()
    }
}
