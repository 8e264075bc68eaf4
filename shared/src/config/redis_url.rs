//! `RedisUrl`: where a Redis is, and the password for it, which only `as_str` gives out.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use redis::IntoConnectionInfo;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::ConfigError;

/// `redis://`, `rediss://` (TLS) or `unix://`. Prints without its password. `rediss://…?ca_file=PATH`
/// pins a CA instead of the system's roots.
#[derive(Clone)]
pub struct RedisUrl {
    url: SecretString,
    redacted: String,
    ca_file: Option<PathBuf>,
}

/// The text is no such URL. It is not repeated, since it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{problem}; expected a Redis URL such as redis://127.0.0.1:6379, rediss://user:password@host or unix:///run/redis/redis.sock"
)]
pub struct BadRedisUrl {
    problem: String,
}

const SCHEMES: [&str; 3] = ["redis", "rediss", "unix"];
const HIDDEN: &str = "***";

impl RedisUrl {
    /// The URL as it was given, password and all: for the one who connects.
    pub fn as_str(&self) -> &str {
        self.url.expose_secret()
    }

    /// The CA that alone is trusted, in PEM; none where the system's roots are.
    ///
    /// # Errors
    /// What the file system says, or that the file holds no certificate.
    pub fn read_ca(&self) -> io::Result<Option<Vec<u8>>> {
        let Some(path) = &self.ca_file else { return Ok(None) };
        let pem = fs::read(path)?;
        let bad = |problem| io::Error::new(io::ErrorKind::InvalidData, problem);
        let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
        match certificates {
            Ok(found) if !found.is_empty() => Ok(Some(pem)),
            Ok(_) => Err(bad("it holds no certificate".to_owned())),
            Err(error) => Err(bad(error.to_string())),
        }
    }

    /// Checks what its text alone does not tell.
    ///
    /// # Errors
    /// `ConfigError` for the setting `key`, which names the CA's file that cannot be used.
    pub fn validate(&self, key: &str) -> Result<(), ConfigError> {
        let path = self.ca_file.as_deref().unwrap_or(Path::new("")).display();
        self.read_ca().map(|_| ()).map_err(|error| {
            let mend = "give a CA in PEM form that this user may read";
            ConfigError::bad(key, format!("its ca_file {path} cannot be used: {error}; {mend}"))
        })
    }
}

impl Default for RedisUrl {
    fn default() -> Self {
        "redis://127.0.0.1:6379".parse().expect("the default is a good url")
    }
}

impl FromStr for RedisUrl {
    type Err = BadRedisUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |problem: &str| BadRedisUrl { problem: problem.to_owned() };
        let Some(mut url) = redis::parse_redis_url(text) else {
            return Err(bad("it is no Redis URL"));
        };
        if !SCHEMES.contains(&url.scheme()) {
            return Err(bad("it begins with none of redis://, rediss:// and unix://"));
        }
        if url.fragment().is_some() {
            return Err(bad("a # in it means nothing here (in a password, write %23)"));
        }
        text.into_connection_info().map_err(|error| {
            // After the dash comes the crate's own word for the kind of error, and details.
            let text = error.to_string().to_lowercase();
            bad(text.split(" - ").next().unwrap_or_default())
        })?;
        let has_password = url.password().is_some();
        if has_password && url.set_password(Some(HIDDEN)).is_err() {
            return Err(bad("it cannot have a password"));
        }
        let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let ca_file = pairs.iter().find(|(name, _)| name == "ca_file").map(|(_, path)| path.into());
        if ca_file.is_some() && url.scheme() != "rediss" {
            return Err(bad("ca_file goes with rediss:// only"));
        }
        if pairs.iter().any(|(name, _)| name == "pass") {
            let shown =
                |(name, value)| if name == "pass" { (name, HIDDEN.into()) } else { (name, value) };
            url.query_pairs_mut().clear().extend_pairs(pairs.into_iter().map(shown));
        }
        Ok(Self { url: text.into(), redacted: url.into(), ca_file })
    }
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
mod tests {
    use super::*;

    #[test]
    fn the_three_schemes_are_taken_and_kept_as_they_are() {
        for good in [
            "redis://127.0.0.1:6379",
            "redis://localhost",
            "redis://:secret@10.0.0.1:7000/3",
            "rediss://user:p%23w@redis.example.com",
            "rediss://redis.example.com:6380/2?ca_file=/etc/spoke/redis-ca.pem",
            "unix:///run/redis/redis.sock",
            "unix:///run/redis/redis.sock?db=2&user=spoke&pass=secret",
        ] {
            assert_eq!(good.parse::<RedisUrl>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn anything_else_is_refused_without_being_repeated() {
        for bad in [
            "",
            "127.0.0.1:6379",
            "http://hunter2@127.0.0.1",
            "valkey://:hunter2@127.0.0.1",
            "redis+unix:///hunter2",
            "redis://:hunter2@0.0.0.0",
            "redis://:hunter2@127.0.0.1/many",
            "redis://:hunter2@127.0.0.1:99999",
            "rediss://:hunter2@127.0.0.1/#insecure",
            "redis://:hunter2#@127.0.0.1",
            "redis://:hunter2@127.0.0.1?ca_file=/etc/ca.pem",
        ] {
            let message = bad.parse::<RedisUrl>().unwrap_err().to_string();
            assert!(!message.contains("hunter2"), "{bad}: {message}");
            assert!(message.contains("redis://127.0.0.1:6379"), "{bad}: {message}");
        }
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        for (text, shown) in [
            ("redis://:hunter2@10.0.0.1:7000/3", "redis://:***@10.0.0.1:7000/3"),
            ("rediss://spoke:hunter2@example.com", "rediss://spoke:***@example.com"),
            ("unix:///r.sock?db=2&pass=hunter2", "unix:///r.sock?db=2&pass=***"),
        ] {
            let url: RedisUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("{shown:?}"));
            assert_eq!(serde_json::to_value(&url).unwrap(), shown);
        }
    }
}
