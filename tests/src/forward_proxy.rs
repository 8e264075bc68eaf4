//! A forward proxy like one in a company's network: only it can resolve the cloud's names.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// The protocol of the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// CONNECT, and whole requests to `http://`.
    Http,
    /// The same, but without tunnels to unencrypted ports, like Squid's default.
    HttpNoTunnel,
    /// SOCKS5.
    Socks,
}

struct Shared {
    speaks: Speaks,
    names: BTreeMap<String, SocketAddr>,
    credentials: Option<(String, String)>,
    asked: Mutex<Vec<String>>,
}

/// A forward proxy. It and its connections end when it is dropped.
pub struct ForwardProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl ForwardProxy {
    /// Starts a proxy that resolves these names, and that requires these credentials if there are any.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start(
        speaks: Speaks,
        names: &[(&str, SocketAddr)],
        credentials: Option<(&str, &str)>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("a bound listener has an address");
        let names = names.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect();
        let credentials = credentials.map(|(user, word)| (user.to_owned(), word.to_owned()));
        let shared = Arc::new(Shared { speaks, names, credentials, asked: Mutex::default() });
        let accepting = tokio::spawn(accept(listener, shared.clone())).abort_handle();
        Self { address, shared, accepting }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests that it forwarded since the last call, such as `CONNECT hub.test`.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for ForwardProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let shared = shared.clone();
        connections.spawn(async move {
            match shared.speaks {
                Speaks::Socks => shared.socks(near).await,
                Speaks::Http | Speaks::HttpNoTunnel => shared.http(near).await,
            }
        });
    }
}

impl Shared {
    fn note(&self, what: String) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    async fn http(&self, mut near: TcpStream) -> Option<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(near.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).ok()?;
        let (method, rest) = head.split_once(' ')?;
        let (target, _) = rest.split_once(' ')?;
        let wanted = self.credentials.as_ref().map(|(user, word)| {
            format!("proxy-authorization: basic {}", STANDARD.encode(format!("{user}:{word}")))
        });
        if wanted.is_some_and(|wanted| !head.lines().any(|line| line.eq_ignore_ascii_case(&wanted)))
        {
            return answer(&mut near, "407 Proxy Authentication Required").await;
        }
        let is_tunnel = method == "CONNECT";
        if is_tunnel && self.speaks == Speaks::HttpNoTunnel {
            return answer(&mut near, "403 Forbidden").await;
        }
        let authority = target.strip_prefix("http://").unwrap_or(target);
        let (authority, path) = authority.split_once('/').unwrap_or((authority, ""));
        let name = authority.split(':').next()?;
        let Some(address) = self.names.get(name) else {
            return answer(&mut near, "502 Bad Gateway").await;
        };
        self.note(format!("{method} {name}"));
        let mut far = TcpStream::connect(address).await.ok()?;
        if is_tunnel {
            near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.ok()?;
        } else {
            // One request per connection.
            let head = head.replacen(target, &format!("/{path}"), 1);
            let head = head.replacen("\r\n", "\r\nconnection: close\r\n", 1);
            far.write_all(head.as_bytes()).await.ok()?;
        }
        copy_bidirectional(&mut near, &mut far).await.ok()?;
        Some(())
    }

    /// RFC 1928 and RFC 1929.
    async fn socks(&self, mut near: TcpStream) -> Option<()> {
        let mut head = [0; 2];
        near.read_exact(&mut head).await.ok()?;
        let mut methods = vec![0; head[1].into()];
        near.read_exact(&mut methods).await.ok()?;
        let method = if self.credentials.is_some() { 2 } else { 0 };
        if !methods.contains(&method) {
            return near.write_all(&[5, 0xff]).await.ok();
        }
        near.write_all(&[5, method]).await.ok()?;
        if let Some((user, word)) = &self.credentials {
            near.read_u8().await.ok()?;
            let received = (text(&mut near).await?, text(&mut near).await?);
            let is_known = received == (user.clone(), word.clone());
            near.write_all(&[1, u8::from(!is_known)]).await.ok()?;
            if !is_known {
                return None;
            }
        }
        let mut request = [0; 4];
        near.read_exact(&mut request).await.ok()?;
        // Names only: clients could not resolve them.
        let name = if request[3] == 3 { text(&mut near).await? } else { return None };
        near.read_u16().await.ok()?;
        let address = self.names.get(&name)?;
        self.note(format!("SOCKS {name}"));
        let mut far = TcpStream::connect(address).await.ok()?;
        near.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.ok()?;
        copy_bidirectional(&mut near, &mut far).await.ok()?;
        Some(())
    }
}

async fn answer(near: &mut TcpStream, status: &str) -> Option<()> {
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    near.write_all(answer.as_bytes()).await.ok()
}

async fn text(near: &mut TcpStream) -> Option<String> {
    let mut bytes = vec![0; near.read_u8().await.ok()?.into()];
    near.read_exact(&mut bytes).await.ok()?;
    String::from_utf8(bytes).ok()
}
