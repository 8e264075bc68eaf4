//! For whom a proxy speaks: `X-Forwarded-For`, which is believed of the listed proxies only.
//!
//! Each proxy appends whom it was called by, so the list is read from its right end: as long as the
//! one that spoke last is trusted, what it says counts. What a client wrote itself stands further left
//! and is never reached, and a chain of trusted proxies works. Rejected: the left-most address, which
//! anybody can write; a count of proxies, which is wrong for whoever comes in by another way.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use axum::{Router, extract::Request, middleware::Next, response::Response};
use http::HeaderMap;

use super::{ConnectionHandle, PeerNet};
use crate::config::TrustedProxies;

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// Where a request comes from, as far as that can be believed: an extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress {
    ip: IpAddr,
    /// Proxies tell none.
    port: Option<u16>,
}

impl PeerAddress {
    /// As it is counted.
    pub fn site(self) -> PeerNet {
        self.ip.into()
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        Self { ip: address.ip().to_canonical(), port: Some(address.port()) }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

/// The same routes, with the `PeerAddress` of each request that comes from one of these proxies set
/// to the one for whom it speaks.
pub fn behind(app: Router, trusted: &TrustedProxies) -> Router {
    if trusted.is_empty() {
        return app;
    }
    let trusted = trusted.clone();
    app.layer(axum::middleware::from_fn(move |mut request: Request, next: Next| {
        let peer = request.extensions().get::<PeerAddress>();
        let client = peer.map(|peer| client(*peer, request.headers(), &trusted));
        if let Some(client) = client {
            if let Some(place) = request.extensions().get::<ConnectionHandle>() {
                place.handle_site(client.site());
            }
            request.extensions_mut().insert(client);
        }
        async move {
            let mut response: Response = next.run(request).await;
            // For whoever counts what is refused.
            if let Some(client) = client {
                response.extensions_mut().insert(client);
            }
            response
        }
    }))
}

/// The right-most address that no trusted proxy has.
fn client(peer: PeerAddress, headers: &HeaderMap, trusted: &TrustedProxies) -> PeerAddress {
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    // As bytes: what stands further left is the client's, and no byte of it spoils what the proxy said.
    let mut hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let mut client = peer;
    while trusted.contains(client.ip) {
        let Some(before) = hops.next().and_then(address) else { break };
        client = before;
    }
    client
}

/// One place of the list. Some proxies put a port behind it.
fn address(hop: &[u8]) -> Option<PeerAddress> {
    let text = str::from_utf8(hop.trim_ascii()).ok()?;
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.into());
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse::<IpAddr>().ok()?.to_canonical();
    Some(PeerAddress { ip, port: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client_of(peer: &str, lines: &[&str]) -> String {
        let lines: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
        client_of_bytes(peer, &lines)
    }

    fn client_of_bytes(peer: &str, lines: &[&[u8]]) -> String {
        let trusted = "10.0.0.0/24, 2001:db8::1".parse().unwrap();
        let peer: SocketAddr = peer.parse().unwrap();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, http::HeaderValue::from_bytes(line).unwrap());
        }
        client(peer.into(), &headers, &trusted).to_string()
    }

    #[test]
    fn the_right_most_address_that_is_not_trusted_counts() {
        let table: [(&str, &[&'static str], &str); 10] = [
            ("10.0.0.1:5", &["192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1:5", &["6.6.6.6, 192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1:5", &["6.6.6.6", "192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1:5", &["6.6.6.6, 192.0.2.7,10.0.0.2 , 10.0.0.3"], "192.0.2.7"),
            ("10.0.0.1:5", &["10.0.0.9"], "10.0.0.9"),
            ("10.0.0.1:5", &["192.0.2.7:4711"], "192.0.2.7:4711"),
            ("10.0.0.1:5", &["[2001:db8::7]"], "2001:db8::7"),
            ("10.0.0.1:5", &["[2001:db8::7]:4711"], "[2001:db8::7]:4711"),
            ("10.0.0.1:5", &["::ffff:192.0.2.7"], "192.0.2.7"),
            ("[2001:db8::1]:5", &["2001:db8::7"], "2001:db8::7"),
        ];
        for (peer, lines, client) in table {
            assert_eq!(client_of(peer, lines), client, "{peer} {lines:?}");
        }
    }

    #[test]
    fn no_byte_that_a_client_wrote_spoils_what_the_proxy_appended() {
        for junk in
            [&b"\xff"[..], b"\xc3\xa9", b"6.6.6.6\x80", b"\xff, \xfe,,", b"\t\"\\", b"a=b;c"]
        {
            for proxied in [&b"192.0.2.7"[..], b"192.0.2.7, 10.0.0.3", b"\t192.0.2.7 "] {
                let line = [junk, b", ", proxied].concat();
                assert_eq!(client_of_bytes("10.0.0.1:5", &[&line]), "192.0.2.7", "{line:?}");
                assert_eq!(
                    client_of_bytes("10.0.0.1:5", &[junk, proxied]),
                    "192.0.2.7",
                    "{junk:?}"
                );
            }
        }
        // Its own hop is another matter.
        let line = &b"6.6.6.6, \xff192.0.2.7"[..];
        assert_eq!(client_of_bytes("10.0.0.1:5", &[line]), "10.0.0.1:5");
    }

    #[test]
    fn nobody_else_is_believed() {
        for peer in ["192.0.2.7:5", "[2001:db8::2]:5"] {
            assert_eq!(client_of(peer, &["6.6.6.6"]), peer);
        }
    }

    #[test]
    fn what_is_no_address_ends_the_list_at_the_one_who_said_it() {
        for line in ["", "unknown", "6.6.6.6, unknown", "6.6.6.6,", "_hidden", "1.2.3.4.5"] {
            assert_eq!(client_of("10.0.0.1:5", &[line]), "10.0.0.1:5", "{line:?}");
        }
        assert_eq!(client_of("10.0.0.1:5", &[]), "10.0.0.1:5");
        assert_eq!(client_of("10.0.0.1:5", &["6.6.6.6, junk, 10.0.0.2"]), "10.0.0.2");
    }
}
