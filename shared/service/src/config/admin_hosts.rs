//! The setting `admin_hosts`: the names under which the admin listener answers.

use std::{fmt, net::IpAddr, str::FromStr};

use http::uri::Authority;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Names without ports, such as `hub1.internal, spoke.example.com`; by default none. Addresses and `localhost` are
/// always allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdminHosts(Vec<String>);

/// The text is not a host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid host name {0:?}: expected names without ports, such as \"hub1.internal, spoke.example.com\""
)]
pub struct BadAdminHosts(String);

impl AdminHosts {
    /// Adds the name that the listener is bound to, if it is a name.
    pub fn with_listen(mut self, listen: &str) -> Self {
        let name = listen.rsplit_once(':').map_or(listen, |(name, _)| name);
        self.0.extend(host(name).ok());
        self
    }

    /// Returns whether the host of a request is an address, `localhost` or one of these names, with or without a port. A
    /// website whose name resolves to our address sends that name.
    pub fn contains(&self, host: &[u8]) -> bool {
        let Ok(authority) = Authority::try_from(host) else { return false };
        // A Host header has no user part.
        if authority.as_str().contains('@') {
            return false;
        }
        let name = authority.host();
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        bare.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.0.iter().any(|known| name.eq_ignore_ascii_case(known))
    }
}

fn host(word: &str) -> Result<String, BadAdminHosts> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if word.is_empty() || !word.bytes().all(is_plain) {
        return Err(BadAdminHosts(word.to_owned()));
    }
    Ok(word.to_owned())
}

impl FromStr for AdminHosts {
    type Err = BadAdminHosts;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        words.map(host).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for AdminHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl Serialize for AdminHosts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AdminHosts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_localhost_are_allowed_and_a_name_only_if_it_is_set() {
        let (none, set) = (AdminHosts::default(), "hub1.internal,Spoke.example");
        let set: AdminHosts = set.parse().unwrap();
        for host in
            ["127.0.0.1:9464", "10.0.0.7", "[::1]:9464", "[::1]", "localhost:1", "LOCALHOST"]
        {
            assert!(none.contains(host.as_bytes()) && set.contains(host.as_bytes()), "{host}");
        }
        for host in ["hub1.internal", "HUB1.internal:9464", "spoke.example:443"] {
            assert!(!none.contains(host.as_bytes()) && set.contains(host.as_bytes()), "{host}");
        }
        for host in [
            &b""[..],
            b"evil.example",
            b"evil.example:9464",
            b"127.0.0.1.evil.example",
            b"localhost.evil.example",
            b"evil.localhost",
            b"hub1.internal.evil.example",
            b"evil@127.0.0.1",
            b"127.0.0.1@evil.example",
            b"127.0.0.1:9464@evil.example",
            b"a b",
            b"localhost, evil.example",
            b"\xff\xfe",
            b"127.0.0.1\xff",
            b"http://127.0.0.1/",
            b"0x7f.1",
            b"[::1",
            b"]",
        ] {
            let text = String::from_utf8_lossy(host);
            assert!(!none.contains(host) && !set.contains(host), "{text}");
        }
    }

    #[test]
    fn the_name_that_the_listener_is_bound_to_is_allowed() {
        let is_allowed = |listen: &str, host: &str| {
            AdminHosts::default().with_listen(listen).contains(host.as_bytes())
        };
        assert!(is_allowed("hub:9464", "hub:9464"));
        assert!(
            !is_allowed("127.0.0.1:9464", "hub")
                && !is_allowed("[::]:9464", "")
                && !is_allowed(":1", "")
        );
    }

    #[test]
    fn an_invalid_name_is_refused_with_an_example() {
        for bad in ["hub:9464", "*", "http://hub", "a b", "hub/x", "hub,*.example"] {
            let message = bad.parse::<AdminHosts>().unwrap_err().to_string();
            assert!(message.contains("without ports"), "{bad}: {message}");
        }
        let hosts: AdminHosts = " a , ,b.c ".parse().unwrap();
        assert_eq!(hosts.to_string(), "a, b.c");
    }
}
