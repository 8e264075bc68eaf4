//! HTTP requests and WebSocket frames as bytes.

use std::{fmt::Write, io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The most bytes of a response header.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A request as bytes, with additional headers and no body.
pub fn request(method: &str, path: &str, token: Option<&str>, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: hub\r\n");
    if let Some(token) = token {
        let _ = write!(text, "authorization: Bearer {token}\r\n");
    }
    for (name, value) in headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// Opens a WebSocket and returns its plain stream.
///
/// # Errors
/// If the connection is refused or broken, or the hub does not answer with 101; the message then begins
/// with the status line.
pub async fn socket(address: SocketAddr, token: &str, subprotocol: &str) -> io::Result<TcpStream> {
    let headers = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", subprotocol),
    ];
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&request("GET", "/sync", Some(token), &headers)).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") && answer.len() < HEAD_BYTES_MAX {
        answer.push(stream.read_u8().await?);
    }
    let answer = String::from_utf8_lossy(&answer);
    match answer.starts_with("HTTP/1.1 101") {
        true => Ok(stream),
        false => Err(io::Error::other(answer.lines().next().unwrap_or_default().to_owned())),
    }
}

/// The payload of the hub's next frame that is not a control frame.
///
/// # Errors
/// If the connection ends, or the hub closes it.
pub async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    loop {
        let [opcode, length] = [stream.read_u8().await? & 0x0f, stream.read_u8().await?];
        let length = match length {
            126 => stream.read_u16().await?.into(),
            127 => stream.read_u64().await?,
            length => length.into(),
        };
        let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        stream.read_exact(&mut payload).await?;
        match opcode {
            0x08 => return Err(io::ErrorKind::UnexpectedEof.into()),
            0x09.. => {}
            _ => return Ok(payload),
        }
    }
}

/// A WebSocket frame with a zero mask, this opcode including the FIN bit, and this length in its header,
/// which may differ from the payload's.
pub fn websocket_frame(opcode: u8, length: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    frame.push(opcode);
    match length {
        0..126 => frame.push(0x80 | length as u8),
        126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// A complete binary message.
pub fn binary(payload: &[u8]) -> Vec<u8> {
    websocket_frame(0x82, payload.len() as u64, payload)
}

/// A complete text message.
pub fn text(payload: &str) -> Vec<u8> {
    websocket_frame(0x81, payload.len() as u64, payload.as_bytes())
}
