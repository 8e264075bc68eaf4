//! [`ServiceUrl`]: the URL of the hub or of auth.

use std::{fmt, net::IpAddr, str::FromStr};

use http::{Uri, uri::Scheme};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// `http://` or `https://`, a host, and optionally a port and a path. No user, query or fragment.
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceUrl {
    is_plaintext: bool,
    is_loopback: bool,
    /// Host, port and path, without a slash at the end.
    rest: String,
}

/// The text is not a service URL. The error does not repeat it, since it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; expected https:// or http:// and a host, such as https://hub.example.com")]
pub struct BadServiceUrl {
    problem: &'static str,
}

impl ServiceUrl {
    /// Returns whether the connection is not encrypted.
    pub fn is_plaintext(&self) -> bool {
        self.is_plaintext
    }

    /// Returns whether the host is this machine: `localhost`, 127.0.0.0/8 or `[::1]`.
    pub fn is_loopback(&self) -> bool {
        self.is_loopback
    }

    /// Returns the host, without the brackets of an IPv6 address, and the port.
    pub fn host_and_port(&self) -> (String, u16) {
        let uri: Uri = self.to_string().parse().expect("a service URL is a URL");
        let host = uri.host().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let default = if self.is_plaintext { 80 } else { 443 };
        (bare.to_owned(), uri.port_u16().unwrap_or(default))
    }

    /// Returns the URL of an endpoint, such as `/register`.
    pub fn join(&self, path: &str) -> String {
        format!("{self}{path}")
    }

    /// Returns the URL of an endpoint with `ws://` or `wss://`.
    pub fn websocket(&self, path: &str) -> String {
        let scheme = if self.is_plaintext { "ws" } else { "wss" };
        format!("{scheme}://{}{path}", self.rest)
    }
}

impl FromStr for ServiceUrl {
    type Err = BadServiceUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |problem| BadServiceUrl { problem };
        if text.contains('#') {
            return Err(bad("invalid URL with a #"));
        }
        let uri: Uri = text.parse().map_err(|_| bad("invalid URL"))?;
        let is_plaintext = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => true,
            Some(scheme) if *scheme == Scheme::HTTPS => false,
            Some(_) | None => return Err(bad("unsupported scheme")),
        };
        let authority = uri.authority().ok_or_else(|| bad("URL without a host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("URL with a user or a password"));
        }
        if authority.host().is_empty() {
            return Err(bad("URL without a host"));
        }
        if authority.port_u16().is_none() && authority.as_str() != authority.host() {
            return Err(bad("invalid port"));
        }
        if uri.query().is_some() {
            return Err(bad("invalid URL with a ?"));
        }
        let is_loopback = is_loopback(authority.host());
        let rest = format!("{authority}{}", uri.path().trim_end_matches('/'));
        Ok(Self { is_plaintext, is_loopback, rest })
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_plaintext { "http" } else { "https" };
        write!(f, "{scheme}://{}", self.rest)
    }
}

impl fmt::Debug for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

impl Serialize for ServiceUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServiceUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_joined_with_or_without_a_trailing_slash() {
        for (text, register, sync) in [
            ("https://hub.example.com", "https://hub.example.com/x", "wss://hub.example.com/x"),
            ("https://hub.example.com/", "https://hub.example.com/x", "wss://hub.example.com/x"),
            ("http://[::1]:8443", "http://[::1]:8443/x", "ws://[::1]:8443/x"),
            ("HTTPS://h:1/spoke/", "https://h:1/spoke/x", "wss://h:1/spoke/x"),
        ] {
            let url: ServiceUrl = text.parse().unwrap();
            assert_eq!((url.join("/x"), url.websocket("/x")), (register.into(), sync.into()));
        }
    }

    #[test]
    fn plaintext_and_loopback_urls_are_recognised() {
        for (text, is_plaintext, is_loopback) in [
            ("http://127.0.0.1:8443", true, true),
            ("http://127.8.9.1", true, true),
            ("http://[::1]:1", true, true),
            ("https://LocalHost", false, true),
            ("http://localhost.example.com", true, false),
            ("http://127.0.0.1.example.com", true, false),
            ("http://10.0.0.1", true, false),
            ("https://hub.example.com", false, false),
        ] {
            let url: ServiceUrl = text.parse().unwrap();
            assert_eq!(
                (url.is_plaintext(), url.is_loopback()),
                (is_plaintext, is_loopback),
                "{text}"
            );
        }
    }

    #[test]
    fn an_invalid_url_is_refused_and_its_password_is_not_printed() {
        for bad in [
            "",
            "hunter2",
            "/hunter2",
            "hub.example.com:443",
            "ws://hunter2",
            "ftp://hunter2",
            "https://",
            "https://:443",
            "https://user:hunter2@hub.example.com",
            "https://user:hunter2@hub.example.com:443",
            "https://hub.example.com:99999",
            "https://hub.example.com?token=hunter2",
            "https://hub.example.com/#hunter2",
            "https://hub example.com",
        ] {
            let message = bad.parse::<ServiceUrl>().unwrap_err().to_string();
            assert!(!message.contains("hunter2"), "{bad}: {message}");
        }
    }
}
