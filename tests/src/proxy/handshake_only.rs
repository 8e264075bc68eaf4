//! Carries only the beginning of a session from the client: to the client, the hub or a proxy in front of
//! it seems to accept everything and acknowledges nothing.

/// The state of one connection's bytes from the client.
#[derive(Debug, Default)]
pub(super) enum Handshake {
    /// An HTTP request, or what follows one.
    #[default]
    Http,
    /// The first message on a WebSocket: its header so far, and the bytes that are left.
    Greeting { head: Vec<u8>, left: Option<usize> },
    /// Everything else is lost.
    Lost,
}

impl Handshake {
    /// Returns how many bytes at the front of a piece are carried.
    pub(super) fn pass(&mut self, piece: &[u8]) -> usize {
        match self {
            Self::Lost => 0,
            Self::Http if piece.starts_with(b"POST /xadd") => {
                *self = Self::Lost;
                0
            }
            Self::Http => {
                let text = String::from_utf8_lossy(piece).to_ascii_lowercase();
                let end = piece.windows(4).position(|four| four == b"\r\n\r\n");
                match end.filter(|_| text.contains("upgrade: websocket")) {
                    None => piece.len(),
                    Some(end) => {
                        *self = Self::Greeting { head: Vec::new(), left: None };
                        let end = end + 4;
                        end + self.pass(&piece[end..])
                    }
                }
            }
            Self::Greeting { head, left } => {
                let mut passed = 0;
                for byte in piece {
                    if *left == Some(0) {
                        *self = Self::Lost;
                        return passed;
                    }
                    passed += 1;
                    match left {
                        Some(left) => *left -= 1,
                        None => {
                            head.push(*byte);
                            *left = length(head);
                        }
                    }
                }
                passed
            }
        }
    }
}

/// The number of bytes after the length of a client's WebSocket frame, including the mask, once it is
/// known (RFC 6455, 5.2). No greeting is longer than 65,535 bytes.
fn length(head: &[u8]) -> Option<usize> {
    const MASK: usize = 4;
    match (head.get(1)? & 0x7f, head.get(2..4)) {
        (126, None) => None,
        (126, Some(bytes)) => Some(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])) + MASK),
        (length, _) => Some(usize::from(length) + MASK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_upgrade_and_the_greeting_are_carried() {
        let upgrade = b"GET /sync HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
        let hello = [&[0x82, 0x83, 1, 2, 3, 4][..], b"abc"].concat();
        for piece in [1, 3, 4096] {
            let mut handshake = Handshake::default();
            assert_eq!(handshake.pass(upgrade), upgrade.len());
            let sent = [&hello[..], b"more"].concat();
            let passed: usize = sent.chunks(piece).map(|piece| handshake.pass(piece)).sum();
            assert_eq!(passed, hello.len());
        }
        let long = [&[0x82, 0xfe, 1, 0, 1, 2, 3, 4][..], &[0; 256], b"more"].concat();
        let mut handshake = Handshake::Greeting { head: Vec::new(), left: None };
        assert_eq!(handshake.pass(&long), long.len() - 4);
    }

    #[test]
    fn over_http_everything_but_batches_is_carried() {
        let mut handshake = Handshake::default();
        for (sent, passed) in
            [("POST /session HTTP/1.1\r\n", 24), ("{}", 2), ("POST /xadd", 0), ("{}", 0)]
        {
            assert_eq!(handshake.pass(sent.as_bytes()), passed, "{sent}");
        }
    }
}
