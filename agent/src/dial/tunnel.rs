//! Opens a tunnel through a proxy, with CONNECT or SOCKS5.

use std::io;

use http::{StatusCode, Uri};
use hyper_util::{client::legacy::connect::proxy::SocksV5, rt::TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tower::{Service, service_fn};

use super::route::{Proxy, ProxyProtocol};

/// Maximum size of a proxy's response to CONNECT, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// A proxy opened no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The proxy refused.
    #[error("it answered {0}{help}", help = help(*.0))]
    Refused(StatusCode),
    /// The response is not HTTP.
    #[error("its response is not HTTP. Check that this is the address of a proxy")]
    NotHttp,
    /// The SOCKS5 proxy refused, or the connection broke.
    #[error("SOCKS5 opened no tunnel")]
    Socks(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection broke.
    #[error("the connection to it broke")]
    Broken(#[from] io::Error),
}

fn help(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            ": it requires a user and a password. Add them to its URL"
        }
        _ => "",
    }
}

/// Extends `stream`, which is open to the proxy, to the host and port of `to`.
pub(super) async fn open<S>(proxy: &Proxy, to: &Uri, stream: S) -> Result<S, TunnelError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match proxy.protocol() {
        ProxyProtocol::Socks => through_socks(proxy, to, stream).await,
        ProxyProtocol::Http | ProxyProtocol::Https => connect(proxy, to, stream).await,
    }
}

async fn through_socks<S>(proxy: &Proxy, to: &Uri, stream: S) -> Result<S, TunnelError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut stream = Some(TokioIo::new(stream));
    let opened = service_fn(move |_: Uri| {
        std::future::ready(stream.take().ok_or(io::Error::from(io::ErrorKind::NotConnected)))
    });
    let mut socks = SocksV5::new(proxy.uri().clone(), opened);
    if let Some((user, password)) = proxy.raw_auth() {
        socks = socks.with_auth(user.to_owned(), password.to_owned());
    }
    let tunnel = socks.call(to.clone()).await;
    Ok(tunnel.map_err(|error| TunnelError::Socks(error.into()))?.into_inner())
}

async fn connect<S>(proxy: &Proxy, to: &Uri, mut stream: S) -> Result<S, TunnelError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let authority = to.authority().map(ToString::to_string).unwrap_or_default();
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").into_bytes();
    if let Some(auth) = proxy.basic_auth() {
        request.extend_from_slice(&[b"Proxy-Authorization: ", auth.as_bytes(), b"\r\n"].concat());
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await?;
    stream.flush().await?;
    // Byte by byte: bytes after the response belong to the tunnel.
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == ANSWER_BYTES_MAX {
            return Err(TunnelError::NotHttp);
        }
        answer.push(stream.read_u8().await?);
    }
    match status(&answer) {
        Some(status) if status.is_success() => Ok(stream),
        Some(status) => Err(TunnelError::Refused(status)),
        None => Err(TunnelError::NotHttp),
    }
}

fn status(answer: &[u8]) -> Option<StatusCode> {
    let rest = answer.strip_prefix(b"HTTP/1.")?;
    StatusCode::from_bytes(rest.get(2..5)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_the_first_line() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\n\r\n"), Some(StatusCode::OK));
        assert_eq!(status(b"HTTP/1.0 407 \r\n\r\n").unwrap().as_u16(), 407);
        for bad in [&b"SSH-2.0-x\r\n\r\n"[..], b"HTTP/1.1", b"HTTP/1.1 2x0 OK\r\n\r\n"] {
            assert_eq!(status(bad), None);
        }
    }
}
