//! Opens a TCP connection to a host name. Tries all its addresses, each shortly after the one
//! before (RFC 8305).

use std::{io, net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, sleep_until},
};

/// The delay before the next address is tried in parallel. Two dead addresses cost half a second.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Connects to the first address that answers.
///
/// # Errors
/// The error of the resolver, or of the last address.
pub(super) async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    let stream = connect_any(interleaved(addresses)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Tries the next address at once if one fails, and after [`NEXT_ADDRESS_AFTER`] if one does not
/// answer.
async fn connect_any(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut left = addresses.into_iter().peekable();
    let mut tries = FuturesUnordered::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    let mut next_at = Instant::now();
    loop {
        if tries.is_empty() {
            next_at = Instant::now();
        }
        tokio::select! {
            biased;
            Some(connected) = tries.next() => match connected {
                Ok(stream) => return Ok(stream),
                Err(error) => (failure, next_at) = (error, Instant::now()),
            },
            () = sleep_until(next_at), if left.peek().is_some() => {
                tries.extend(left.next().map(TcpStream::connect));
                next_at = Instant::now() + NEXT_ADDRESS_AFTER;
            }
            else => return Err(failure),
        }
    }
}

/// Alternates the address families, starting with the resolver's first choice.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == is_v6);
    let longest = first.len().max(second.len());
    (0..longest).flat_map(|at| [first.get(at), second.get(at)]).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[test]
    fn ipv6_and_ipv4_addresses_alternate() {
        let parse = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<_>>();
        let mixed = parse(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"]);
        assert_eq!(interleaved(mixed), parse(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]));
    }

    /// Returns a listener with a full queue, which does not answer further handshakes.
    async fn unresponsive() -> (TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        let timeout = Duration::from_millis(200);
        while let Ok(stream) = tokio::time::timeout(timeout, TcpStream::connect(address)).await {
            queued.push(stream.unwrap());
        }
        (listener, queued)
    }

    #[tokio::test]
    async fn two_unresponsive_addresses_cause_a_delay_of_less_than_a_second() {
        let (one, other, good) = (
            unresponsive().await,
            unresponsive().await,
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        );
        let addresses = [&one.0, &other.0, &good].map(|listener| listener.local_addr().unwrap());
        let began = Instant::now();
        let stream = connect_any(addresses.to_vec()).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addresses[2]);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn addresses_that_refuse_cause_no_delay() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut addresses = vec![closed; 4];
        addresses.push(good.local_addr().unwrap());
        let began = Instant::now();
        connect_any(addresses).await.unwrap();
        assert!(began.elapsed() < NEXT_ADDRESS_AFTER, "{:?}", began.elapsed());
        assert_eq!(
            connect_any(vec![closed]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert_eq!(connect_any(Vec::new()).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
