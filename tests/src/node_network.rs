//! Links between Redis servers that can be cut in silence: a gate in front of each port of a server, through which the others
//! reach it.
//!
//! Each server connects from a loopback address of its own, so that a gate knows who connects. While a link is cut its
//! connections stay open and no byte passes; behind the cut all bytes arrive in order, as TCP sends them again. Connections
//! from other addresses, those of hub and apps, are never held.

use std::{
    io::{Error, Result},
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::{AbortHandle, JoinSet},
};

/// Bytes carried at a time.
const CHUNK: usize = 16 * 1024;

/// The links, and which of them are cut.
pub struct NodeNetwork {
    cuts: watch::Sender<Vec<LinkCut>>,
}

/// What is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkCut {
    /// All links of a member.
    All(u8),
    /// The link between two members.
    Between(u8, u8),
}

/// A port of a member for all others. It and its connections end when it is dropped.
pub struct Gate {
    port: u16,
    upstream: Arc<OnceLock<SocketAddr>>,
    accepting: AbortHandle,
}

/// The address from which a member connects.
pub fn source_of(member: u8) -> String {
    format!("127.0.1.{member}")
}

fn member_at(address: IpAddr) -> Option<u8> {
    match address {
        IpAddr::V4(address) => match address.octets() {
            [127, 0, 1, member] => Some(member),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

impl Default for NodeNetwork {
    fn default() -> Self {
        Self { cuts: watch::Sender::new(Vec::new()) }
    }
}

impl NodeNetwork {
    /// Opens a gate of a member. It carries nothing until `Gate::lead_to`.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn open(&self, member: u8) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let upstream = Arc::new(OnceLock::new());
        let accepting = accept(listener, member, upstream.clone(), self.cuts.subscribe());
        Gate { port, upstream, accepting: tokio::spawn(accepting).abort_handle() }
    }

    /// Cuts a member off from all others.
    pub fn isolate(&self, member: u8) {
        self.cuts.send_modify(|cuts| cuts.push(LinkCut::All(member)));
    }

    /// Cuts the link between two members.
    pub fn part(&self, one: u8, other: u8) {
        self.cuts.send_modify(|cuts| cuts.push(LinkCut::Between(one, other)));
    }

    /// Mends all links.
    pub fn heal(&self) {
        self.cuts.send_modify(Vec::clear);
    }
}

impl Gate {
    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Leads it to a port of its server.
    ///
    /// # Panics
    /// If it leads to one.
    pub fn lead_to(&self, port: u16) {
        let set = self.upstream.set(SocketAddr::from(([127, 0, 0, 1], port)));
        set.expect("a gate has one server");
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The link of one connection.
#[derive(Clone)]
struct NodeLink {
    ends: (u8, u8),
    cuts: watch::Receiver<Vec<LinkCut>>,
}

impl NodeLink {
    /// Waits until it is not cut.
    async fn open(&mut self) -> Result<()> {
        let (from, to) = self.ends;
        let is_of_link = |cut: &LinkCut| match *cut {
            LinkCut::All(member) => member == from || member == to,
            LinkCut::Between(one, other) => [(one, other), (other, one)].contains(&(from, to)),
        };
        let opened = self.cuts.wait_for(|cuts| !cuts.iter().any(is_of_link)).await;
        opened.map(drop).map_err(Error::other)
    }
}

/// Accepts connections; when it is aborted, their tasks end with it.
async fn accept(
    listener: TcpListener,
    member: u8,
    upstream: Arc<OnceLock<SocketAddr>>,
    cuts: watch::Receiver<Vec<LinkCut>>,
) {
    let mut carried = JoinSet::new();
    while let Ok((client, peer)) = listener.accept().await {
        while carried.try_join_next().is_some() {}
        let Some(upstream) = upstream.get().copied() else { continue };
        let link =
            member_at(peer.ip()).map(|from| NodeLink { ends: (from, member), cuts: cuts.clone() });
        // It ends as its ends do; nobody asks why.
        carried.spawn(async move { drop(carry(client, upstream, link).await) });
    }
}

async fn carry(mut client: TcpStream, upstream: SocketAddr, link: Option<NodeLink>) -> Result<()> {
    if let Some(mut link) = link.clone() {
        link.open().await?;
    }
    let mut server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let Some(link) = link else {
        return copy_bidirectional(&mut client, &mut server).await.map(drop);
    };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let there = pump(from_client, to_server, link.clone());
    tokio::try_join!(there, pump(from_server, to_client, link)).map(drop)
}

/// Carries one direction. What it has read while the link is cut it holds.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut link: NodeLink) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk).await;
        link.open().await?;
        match read? {
            0 => return to.shutdown().await,
            length => to.write_all(&chunk[..length]).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{net::TcpSocket, time::timeout};

    use super::*;

    /// Connects from this address and sends two bytes, the second after `between`. Returns what arrived before that.
    async fn sent(source: &str, between: impl FnOnce(&NodeNetwork)) -> (bool, Vec<u8>) {
        let network = NodeNetwork::default();
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gate = network.open(1).await;
        gate.lead_to(server.local_addr().unwrap().port());
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
        let mut client =
            socket.connect(SocketAddr::from(([127, 0, 0, 1], gate.port()))).await.unwrap();
        let (mut accepted, _) = server.accept().await.unwrap();
        client.write_all(b"a").await.unwrap();
        let mut bytes = vec![accepted.read_u8().await.unwrap()];
        between(&network);
        client.write_all(b"b").await.unwrap();
        let second = timeout(Duration::from_millis(200), accepted.read_u8()).await;
        let is_held = second.is_err();
        network.heal();
        match second {
            Ok(byte) => bytes.push(byte.unwrap()),
            Err(_) => bytes.push(accepted.read_u8().await.unwrap()),
        }
        (is_held, bytes)
    }

    #[tokio::test]
    async fn a_cut_link_holds_its_bytes_and_no_others() {
        for (source, is_held) in [("127.0.1.2", true), ("127.0.1.3", false), ("127.0.0.1", false)] {
            let (held, bytes) = sent(source, |network| network.part(1, 2)).await;
            assert_eq!((held, &bytes[..]), (is_held, &b"ab"[..]), "{source}");
        }
        for (source, is_held) in [("127.0.1.2", true), ("127.0.0.1", false)] {
            let (held, bytes) = sent(source, |network| network.isolate(1)).await;
            assert_eq!((held, &bytes[..]), (is_held, &b"ab"[..]), "{source}");
        }
    }
}
