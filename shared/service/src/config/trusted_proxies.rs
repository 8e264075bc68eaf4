//! The setting `trusted_proxies`: the proxies whose `X-Forwarded-For` is trusted.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Addresses and networks of proxies, such as `127.0.0.1, 10.1.0.0/16`; by default none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

/// The text is not a list of proxies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadProxies {
    /// Neither an address nor a network.
    #[error("invalid address or network {0:?}: expected a list such as \"127.0.0.1, 10.1.0.0/16\"")]
    Malformed(String),
    /// A network of all addresses.
    #[error(
        "{0} covers every address, so any client could claim any address; give the addresses of the proxies"
    )]
    AllAddresses(IpNet),
}

impl TrustedProxies {
    /// Returns whether no proxy is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether this address is a trusted proxy.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|net| net.contains(&address))
    }
}

impl FromStr for TrustedProxies {
    type Err = BadProxies;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        words.map(network).collect::<Result<_, _>>().map(Self)
    }
}

fn network(word: &str) -> Result<IpNet, BadProxies> {
    let address = || word.parse::<IpAddr>().map(|address| address.to_canonical().into());
    match word.parse::<IpNet>().or_else(|_| address()) {
        Ok(net) if net.prefix_len() == 0 => Err(BadProxies::AllAddresses(net)),
        Ok(net) => Ok(net),
        Err(_) => Err(BadProxies::Malformed(word.to_owned())),
    }
}

impl fmt::Display for TrustedProxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(", "))
    }
}

impl Serialize for TrustedProxies {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TrustedProxies {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_networks_are_parsed_and_shown() {
        for (text, shown) in [
            ("", ""),
            ("127.0.0.1", "127.0.0.1/32"),
            (" 10.1.0.0/16 ,::1,", "10.1.0.0/16, ::1/128"),
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ] {
            let proxies: TrustedProxies = text.parse().unwrap();
            assert_eq!(proxies.to_string(), shown);
            assert_eq!(proxies.to_string().parse(), Ok(proxies));
        }
    }

    #[test]
    fn an_invalid_list_is_refused_with_help() {
        for (text, help) in [
            ("proxy.example.com", "10.1.0.0/16"),
            ("127.0.0.1 10.0.0.1", "10.1.0.0/16"),
            ("10.0.0.0/33", "10.1.0.0/16"),
            ("127.0.0.1,0.0.0.0/0", "every address"),
            ("::/0", "every address"),
        ] {
            let message = text.parse::<TrustedProxies>().unwrap_err().to_string();
            assert!(message.contains(help), "{text}: {message}");
        }
    }

    #[test]
    fn only_listed_addresses_are_trusted() {
        let proxies: TrustedProxies = "10.1.0.0/16, 2001:db8::1".parse().unwrap();
        for (address, is_trusted) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("10.2.0.1", false),
            ("2001:db8::1", true),
            ("2001:db8::2", false),
        ] {
            assert_eq!(proxies.contains(address.parse().unwrap()), is_trusted, "{address}");
        }
    }
}
