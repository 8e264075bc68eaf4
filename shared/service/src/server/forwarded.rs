//! The client behind a proxy: `X-Forwarded-For`, which is trusted from the listed proxies only.
//!
//! Each proxy appends the address of its own peer, so the list is read from its right end for as long as the
//! proxy that wrote an element is trusted. Elements that a client wrote itself stand further left and are
//! never reached, and a chain of trusted proxies works. Rejected: the left-most address, which any client can
//! write; a count of proxies, which is wrong for clients that take another way.

use std::net::SocketAddr;

use axum::{Router, extract::Request, middleware::Next, response::Response};
use http::HeaderMap;

use super::{connection_handle::ConnectionHandle, peer_address::PeerAddress};
use crate::config::TrustedProxies;

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// Sets the [`PeerAddress`] of each request from a trusted proxy to the client's address.
pub fn behind(app: Router, trusted: &TrustedProxies) -> Router {
    if trusted.is_empty() {
        return app;
    }
    let trusted = trusted.clone();
    app.layer(axum::middleware::from_fn(move |mut request: Request, next: Next| {
        let peer = request.extensions().get::<PeerAddress>();
        let client = peer.map(|peer| client(*peer, request.headers(), &trusted));
        if let Some(client) = client {
            if let Some(handle) = request.extensions().get::<ConnectionHandle>() {
                handle.set_peer_net(client.net());
            }
            request.extensions_mut().insert(client);
        }
        async move {
            let mut response: Response = next.run(request).await;
            // For the log of rejected requests.
            if let Some(client) = client {
                response.extensions_mut().insert(client);
            }
            response
        }
    }))
}

/// Returns the right-most address that is not a trusted proxy.
fn client(peer: PeerAddress, headers: &HeaderMap, trusted: &TrustedProxies) -> PeerAddress {
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    // As bytes: the client wrote the elements further left, and none of its bytes may spoil the proxy's.
    let mut hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let mut client = peer;
    while trusted.contains(client.ip()) {
        let Some(before) = hops.next().and_then(address) else { break };
        client = before;
    }
    client
}

/// Parses one element of the list. Some proxies append a port.
fn address(hop: &[u8]) -> Option<PeerAddress> {
    let text = str::from_utf8(hop.trim_ascii()).ok()?;
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.into());
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().map(PeerAddress::without_port)
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
    fn the_rightmost_untrusted_address_is_the_client() {
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
    fn invalid_bytes_of_a_client_do_not_affect_what_the_proxy_appended() {
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
        // An invalid element by the proxy itself ends the list.
        let line = &b"6.6.6.6, \xff192.0.2.7"[..];
        assert_eq!(client_of_bytes("10.0.0.1:5", &[line]), "10.0.0.1:5");
    }

    #[test]
    fn the_header_of_an_untrusted_peer_is_ignored() {
        for peer in ["192.0.2.7:5", "[2001:db8::2]:5"] {
            assert_eq!(client_of(peer, &["6.6.6.6"]), peer);
        }
    }

    #[test]
    fn an_invalid_element_ends_the_list_at_the_proxy_that_wrote_it() {
        for line in ["", "unknown", "6.6.6.6, unknown", "6.6.6.6,", "_hidden", "1.2.3.4.5"] {
            assert_eq!(client_of("10.0.0.1:5", &[line]), "10.0.0.1:5", "{line:?}");
        }
        assert_eq!(client_of("10.0.0.1:5", &[]), "10.0.0.1:5");
        assert_eq!(client_of("10.0.0.1:5", &["6.6.6.6, junk, 10.0.0.2"]), "10.0.0.2");
    }
}
