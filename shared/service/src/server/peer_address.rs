//! [`PeerAddress`]: the address that a request comes from.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::peer_net::PeerNet;

/// The address that a request comes from, as far as it can be trusted: an extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress {
    ip: IpAddr,
    /// Most proxies send none.
    port: Option<u16>,
}

impl PeerAddress {
    /// Returns the address without a port.
    pub(super) fn without_port(ip: IpAddr) -> Self {
        Self { ip: ip.to_canonical(), port: None }
    }

    pub(super) fn ip(self) -> IpAddr {
        self.ip
    }

    /// Returns the network that limits are counted by.
    pub fn net(self) -> PeerNet {
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
