//! [`RedisUrl`]: the address of a Redis with its password, which only [`RedisUrl::as_str`] returns.

mod discovered;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use redis::{
    Client, ClientTlsConfig, IntoConnectionInfo, ProtocolVersion, RedisResult, TlsCertificates,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use spoke_diagnostics::{error_chain, nearest_name};

pub(crate) use self::discovered::{DiscoveryKind, DiscoveryUrl, ServerAddress};

/// A URL of `redis://`, `rediss://` (TLS) or `unix://`, or of servers that know the primary: Sentinels with
/// `redis+sentinel://`, nodes of a cluster with `redis+cluster://`, or `rediss+…` for TLS. `Display` and `Debug` hide the password. With TLS, `?ca_file=PATH` pins a CA instead of the
/// system's roots, and `cert_file=` and `key_file=` set a client certificate.
#[derive(Clone)]
pub struct RedisUrl {
    /// As it was given.
    text: SecretString,
    /// The URL of the server. Where it has to be found, its host is another one.
    server: SecretString,
    discovery: Option<Box<DiscoveryUrl>>,
    redacted: String,
    ca_file: Option<PathBuf>,
    /// Certificate and key.
    client_files: Option<(PathBuf, PathBuf)>,
}

/// A text that is not a Redis URL. The error does not repeat it, since it may contain a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{problem}; expected a Redis URL such as redis://127.0.0.1:6379, rediss://user:password@host, \
     redis+sentinel://host1,host2/mymaster, redis+cluster://host1,host2 or unix:///run/redis/redis.sock"
)]
pub struct BadRedisUrl {
    problem: String,
}

/// Each scheme with its options.
const SCHEMES: [(&str, &[&str]); 3] = [
    ("redis", &[]),
    ("rediss", &["ca_file", "cert_file", "key_file"]),
    ("unix", &["db", "user", "pass"]),
];
const HIDDEN: &str = "***";

impl RedisUrl {
    /// Returns the URL with its password, to connect.
    pub fn as_str(&self) -> &str {
        self.text.expose_secret()
    }

    /// Checks the files that it names.
    ///
    /// # Errors
    /// [`RedisError`](redis::RedisError) if a file cannot be read, or has no certificate or key.
    pub fn check_files(&self) -> RedisResult<()> {
        self.client_of(&self.server).map(drop)
    }

    /// Returns the servers that know the primary, if it names some.
    pub(crate) fn discovery(&self) -> Option<&DiscoveryUrl> {
        self.discovery.as_deref()
    }

    /// Returns whether it names nodes of a cluster.
    pub fn is_cluster(&self) -> bool {
        let kind = self.discovery().map(|discovery| &discovery.kind);
        matches!(kind, Some(DiscoveryKind::Cluster { .. }))
    }

    /// Creates a client for connections to the server, with the files as they are now: to `primary`, if it was asked for.
    /// It uses RESP3, for push messages, and TCP_NODELAY.
    ///
    /// # Errors
    /// As [`Self::check_files`].
    pub(crate) fn client(&self, primary: Option<&ServerAddress>) -> RedisResult<Client> {
        match primary {
            Some(address) => self.client_of(&discovered::at(&self.server, address)),
            None => self.client_of(&self.server),
        }
    }

    /// Creates a client for connections to a server that knows the primary.
    ///
    /// # Errors
    /// As [`Self::check_files`].
    pub(crate) fn discovery_client(
        &self,
        discovery: &DiscoveryUrl,
        address: &ServerAddress,
    ) -> RedisResult<Client> {
        self.client_of(&discovery.server(address))
    }

    fn client_of(&self, url: &SecretString) -> RedisResult<Client> {
        let url = url.expose_secret();
        let client_tls = match &self.client_files {
            Some((cert_file, key_file)) => Some(ClientTlsConfig {
                client_cert: read(cert_file, holds_certificate)?,
                client_key: read(key_file, holds_key)?,
            }),
            None => None,
        };
        let root_cert =
            self.ca_file.as_ref().map(|path| read(path, holds_certificate)).transpose()?;
        let client = match client_tls.is_some() || root_cert.is_some() {
            true => Client::build_with_tls(url, TlsCertificates { client_tls, root_cert })?,
            false => Client::open(url)?,
        };
        let info = client.get_connection_info().clone();
        let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        Client::open(info.set_redis_settings(redis).set_tcp_settings(tcp).into_connection_info()?)
    }
}

fn read(path: &Path, holds: impl FnOnce(&[u8]) -> Result<(), String>) -> io::Result<Vec<u8>> {
    let named = |kind, problem: String| {
        io::Error::new(kind, format!("{} cannot be used: {problem}", path.display()))
    };
    let pem = fs::read(path).map_err(|error| named(error.kind(), error_chain(&error)))?;
    holds(&pem).map_err(|problem| named(io::ErrorKind::InvalidData, problem))?;
    Ok(pem)
}

fn holds_certificate(pem: &[u8]) -> Result<(), String> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(()),
        Ok(_) => Err("no certificate in it".to_owned()),
        Err(error) => Err(error_chain(&error)),
    }
}

fn holds_key(pem: &[u8]) -> Result<(), String> {
    let found = PrivateKeyDer::from_pem_slice(pem);
    found.map(|_| ()).map_err(|_| "no private key in it".to_owned())
}

impl Default for RedisUrl {
    fn default() -> Self {
        "redis://127.0.0.1:6379".parse().expect("the default is a valid URL")
    }
}

impl FromStr for RedisUrl {
    type Err = BadRedisUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |problem: &str| BadRedisUrl { problem: problem.to_owned() };
        check_encoded(text).map_err(bad)?;
        if let Some((scheme, behind)) = text.split_once("://")
            && discovered::SCHEMES.iter().any(|(known, ..)| *known == scheme)
        {
            return discovered::parse(scheme, text, behind);
        }
        let Some(mut url) = redis::parse_redis_url(text) else {
            return Err(bad("not a valid Redis URL"));
        };
        let scheme = SCHEMES.into_iter().find(|(scheme, _)| *scheme == url.scheme());
        let Some((_, options)) = scheme else {
            return Err(bad("unsupported scheme"));
        };
        let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        check_options(url.scheme(), options, &pairs)?;
        text.into_connection_info().map_err(|error| {
            // After the dash comes the crate's own word for the kind of error, and details.
            let text = error.to_string().to_lowercase();
            bad(text.split(" - ").next().unwrap_or_default())
        })?;
        let has_password = url.password().is_some();
        if has_password && url.set_password(Some(HIDDEN)).is_err() {
            return Err(bad("a password is not allowed in it"));
        }
        let file = |name| {
            let pair = pairs.iter().find(|(found, _)| found == name);
            pair.map(|(_, path)| PathBuf::from(path))
        };
        let ca_file = file("ca_file");
        let client_files = match (file("cert_file"), file("key_file")) {
            (Some(cert_file), Some(key_file)) => Some((cert_file, key_file)),
            (None, None) => None,
            _ => return Err(bad("cert_file and key_file go together; set both or neither")),
        };
        if pairs.iter().any(|(name, _)| name == "pass") {
            let shown =
                |(name, value)| if name == "pass" { (name, HIDDEN.into()) } else { (name, value) };
            url.query_pairs_mut().clear().extend_pairs(pairs.into_iter().map(shown));
        }
        Ok(Self {
            text: text.into(),
            server: text.into(),
            discovery: None,
            redacted: url.into(),
            ca_file,
            client_files,
        })
    }
}

/// Checks for characters in a user or password that have another meaning in a URL.
fn check_encoded(text: &str) -> Result<(), &'static str> {
    if text.contains('#') {
        return Err("a # is not allowed; in a user or password, write %23");
    }
    let Some((scheme, rest)) = text.split_once("://") else { return Ok(()) };
    if !scheme.starts_with("redis") {
        return Ok(());
    }
    let (authority, behind) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.matches('@').count() > 1 {
        return Err("an @ in a user or password has to be percent-encoded; write %40");
    }
    if behind.contains('@') && !authority.contains('@') {
        return Err("a / or ? in a user or password has to be percent-encoded; write %2F or %3F");
    }
    Ok(())
}

fn check_options(
    scheme: &str,
    known: &[&str],
    pairs: &[(String, String)],
) -> Result<(), BadRedisUrl> {
    let unknown = |(name, _): &&(String, String)| !known.contains(&name.as_str());
    let Some((name, _)) = pairs.iter().find(unknown) else { return Ok(()) };
    let schemes = SCHEMES.into_iter().chain(discovered::SCHEMES.map(|(name, _, of)| (name, of)));
    let elsewhere = schemes.into_iter().find(|(_, options)| options.contains(&name.as_str()));
    let problem = match (elsewhere, nearest_name(name, known.iter().map(ToString::to_string))) {
        (Some((other, _)), _) => format!("{name} is an option of {other}:// only"),
        // An unknown name may be a part of a password.
        (None, Some(nearest)) => format!("unknown option {name}; did you mean {nearest}?"),
        (None, None) if known.is_empty() => format!("{scheme}:// takes no options"),
        (None, None) => {
            format!("unknown option; {scheme}:// takes {}", known.join(", "))
        }
    };
    Err(BadRedisUrl { problem })
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.redacted, f)
    }
}

impl Serialize for RedisUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.redacted)
    }
}

impl<'de> Deserialize<'de> for RedisUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
