//! The route of a connection: direct, or through a proxy of the settings or of the environment.

use std::{env, fmt, str::FromStr};

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use spoke_diagnostics::error_chain;
use spoke_service::config::{ConfigError, ServiceUrl};

/// The setting `proxy`.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum ProxySetting {
    /// Not set: use HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.
    #[default]
    Environment,
    /// Empty: use no proxy, whatever the environment says.
    None,
    /// Use this proxy for every connection that leaves the device.
    Url(ProxyUrl),
}

/// The URL of a proxy. It may contain a password, so it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(String);

/// A text is not a valid proxy URL. The text is not repeated, since it may contain a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid proxy URL: {0}. Expected one such as http://user:password@proxy.example.com:3128, \
     https:// or socks5://"
)]
pub struct BadProxyUrl(&'static str);

/// Selects the proxy of each URL.
#[derive(Debug)]
pub(super) struct ProxyRoutes(Matcher);

/// The route of one connection.
#[derive(Debug, Clone)]
pub enum DialRoute {
    /// No proxy.
    Direct,
    /// Through this proxy.
    Through(Proxy),
}

/// A proxy, printed without its credentials.
#[derive(Debug, Clone)]
pub struct Proxy(Intercept);

/// The protocol of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProxyProtocol {
    /// HTTP: CONNECT, or forwarded requests if they are not encrypted.
    Http,
    /// HTTP within TLS.
    Https,
    /// SOCKS5. The proxy resolves host names.
    Socks,
}

/// Environment variables that name a proxy. Upper case takes precedence.
const VARIABLES: [&str; 6] =
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

impl FromStr for ProxyUrl {
    type Err = BadProxyUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text.parse().map_err(|_| {
            BadProxyUrl(
                "not a URL, or the password contains characters that are not percent-encoded",
            )
        })?;
        let authority = uri.authority().ok_or(BadProxyUrl("host not found"))?;
        if authority.host().is_empty() {
            return Err(BadProxyUrl("host not found"));
        }
        let has_port = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, at)| at);
        if authority.port_u16().is_none() && has_port != authority.host() {
            return Err(BadProxyUrl("port out of range, expected a number up to 65535"));
        }
        match uri.scheme_str() {
            None | Some("http" | "https" | "socks5" | "socks5h") => Ok(Self(text.to_owned())),
            Some(_) => Err(BadProxyUrl("unsupported scheme")),
        }
    }
}

impl ProxyRoutes {
    /// Reads the proxies from the setting, or else from the environment.
    ///
    /// # Errors
    /// [`ConfigError`] if a variable of the environment is not a valid proxy URL.
    pub(super) fn new(setting: &ProxySetting) -> Result<Self, ConfigError> {
        Ok(Self(match setting {
            ProxySetting::None => Matcher::builder().build(),
            ProxySetting::Url(ProxyUrl(url)) => Matcher::builder().all(url.as_str()).build(),
            ProxySetting::Environment => {
                for name in VARIABLES {
                    let value = env::var(name).unwrap_or_default();
                    if let Some(error) =
                        value.parse::<ProxyUrl>().err().filter(|_| !value.is_empty())
                    {
                        return Err(ConfigError::bad(name, error_chain(&error)));
                    }
                }
                Matcher::from_env()
            }
        }))
    }

    /// Returns the route to a service. Services on this machine are reached without a proxy.
    pub(super) fn to(&self, url: &ServiceUrl) -> DialRoute {
        let uri: Uri = url.to_string().parse().expect("a service URL is a URL");
        match self.0.intercept(&uri).filter(|_| !url.is_loopback()) {
            Some(proxy) => DialRoute::Through(Proxy(proxy)),
            None => DialRoute::Direct,
        }
    }
}

impl DialRoute {
    /// Returns the credentials for each request, if the proxy forwards the requests to this URL. A
    /// proxy forwards requests that are not encrypted: many proxies open tunnels to port 443 only.
    pub fn forwards(&self, url: &ServiceUrl) -> Option<Option<&HeaderValue>> {
        match self {
            Self::Through(proxy)
                if url.is_plaintext() && proxy.protocol() != ProxyProtocol::Socks =>
            {
                Some(proxy.0.basic_auth())
            }
            Self::Through(_) | Self::Direct => None,
        }
    }
}

impl Proxy {
    pub(super) fn protocol(&self) -> ProxyProtocol {
        match self.0.uri().scheme_str() {
            Some("socks5" | "socks5h") => ProxyProtocol::Socks,
            Some("https") => ProxyProtocol::Https,
            _ => ProxyProtocol::Http,
        }
    }

    pub(super) fn host_and_port(&self) -> (&str, u16) {
        let default = match self.protocol() {
            ProxyProtocol::Http => 80,
            ProxyProtocol::Https => 443,
            ProxyProtocol::Socks => 1080,
        };
        let host = self.0.uri().host().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        (bare, self.0.uri().port_u16().unwrap_or(default))
    }

    /// Returns user and password for SOCKS5.
    pub(super) fn raw_auth(&self) -> Option<(&str, &str)> {
        self.0.raw_auth()
    }

    /// Returns the credentials as the value of an HTTP header.
    pub(super) fn basic_auth(&self) -> Option<&HeaderValue> {
        self.0.basic_auth()
    }

    pub(super) fn uri(&self) -> &Uri {
        self.0.uri()
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.uri().to_string().trim_end_matches('/'))
    }
}

/// Formats the route as a suffix of an address: empty, or the proxy.
impl fmt::Display for DialRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => Ok(()),
            Self::Through(proxy) => write!(f, " through the proxy {proxy}"),
        }
    }
}

impl fmt::Debug for ProxySetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Environment => "Environment",
            Self::None => "None",
            Self::Url(_) => "Url(…)",
        })
    }
}

impl Serialize for ProxySetting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Environment => serializer.serialize_none(),
            Self::None => serializer.serialize_str(""),
            Self::Url(ProxyUrl(url)) => serializer.serialize_str(url),
        }
    }
}

impl<'de> Deserialize<'de> for ProxySetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Option::<String>::deserialize(deserializer)? {
            None => Ok(Self::Environment),
            Some(text) if text.is_empty() => Ok(Self::None),
            Some(text) => text.parse().map(Self::Url).map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(setting: &str, url: &str) -> String {
        let setting = match setting {
            "" => ProxySetting::None,
            url => ProxySetting::Url(url.parse().unwrap()),
        };
        ProxyRoutes::new(&setting).unwrap().to(&url.parse().unwrap()).to_string()
    }

    #[test]
    fn the_proxy_setting_applies_to_every_destination_but_loopback() {
        let prefix = " through the proxy ";
        for (setting, url, expected) in [
            ("http://p:3128", "https://hub.example.com", "http://p:3128"),
            ("http://p:3128", "http://hub.example.com", "http://p:3128"),
            ("p:3128", "https://hub.example.com", "http://p:3128"),
            ("https://p", "https://hub.example.com", "https://p"),
            ("socks5://u:s3cret@p", "https://hub.example.com", "socks5://p"),
            ("http://u:s3cret@[::1]:1", "https://h", "http://[::1]:1"),
            ("", "https://hub.example.com", ""),
            ("http://p:3128", "https://127.0.0.1:8443", ""),
            ("http://p:3128", "http://localhost", ""),
        ] {
            let prefix = if expected.is_empty() { "" } else { prefix };
            assert_eq!(route(setting, url), format!("{prefix}{expected}"), "{setting} {url}");
        }
    }

    #[test]
    fn an_invalid_proxy_url_is_refused_and_its_password_is_not_printed() {
        for bad in [
            "socks4://u:s3cret@p",
            "ftp://u:s3cret@p",
            "http://u:s3#cret@p",
            "http://",
            "http://p:x",
        ] {
            let error = bad.parse::<ProxyUrl>().map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("socks5://") && !error.contains("s3"), "{bad}: {error}");
        }
        let setting = ProxySetting::Url("http://u:s3cret@p".parse().unwrap());
        assert!(
            !format!("{setting:?} {:?}", ProxyRoutes::new(&setting).unwrap()).contains("s3cret")
        );
    }
}
