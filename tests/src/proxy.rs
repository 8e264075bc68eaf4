//! A faulty network: a TCP proxy on the loopback that cuts connections and delays or drops bytes.
//!
//! It treats bytes in flight as a real link does: they arrive in order or the connection ends. A
//! connection that lost bytes is therefore cut before it carries any others.

mod handshake_only;
mod pump;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{Rng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use self::pump::pump;

/// Bytes carried at a time: small enough that cuts fall inside frames.
const CHUNK: usize = 4096;

/// The direction of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    Up,
    /// To the client.
    Down,
}

/// The bytes that are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carry {
    /// All.
    All,
    /// None; connections stay open, as on a link that failed silently.
    Nothing,
    /// Those from the client; those to the client are lost.
    UpOnly,
    /// New connections are closed at once.
    Refuse,
    /// The beginnings of sessions, but no batch.
    HandshakeOnly,
    /// HTTP; a WebSocket upgrade is answered with 502, as by proxies without WebSockets.
    HttpOnly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Conditions {
    carry: Carry,
    delay: Duration,
}

/// Cuts connections after a random number of bytes.
struct Cuts {
    random: StdRng,
    bytes: std::ops::Range<u64>,
    left: u32,
}

/// Cuts each connection after this many bytes, both ways together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Narrow {
    bytes: u64,
    of: Narrowed,
}

/// Which connections a narrow link cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Narrowed {
    /// All.
    All,
    /// Only WebSockets.
    WebSockets,
}

struct Network {
    narrow: Mutex<Option<Narrow>>,
    upstream: Mutex<SocketAddr>,
    conditions: watch::Sender<Conditions>,
    cut: Mutex<CancellationToken>,
    strand: Mutex<CancellationToken>,
    cuts: Mutex<Option<Cuts>>,
    connections: AtomicU64,
    cut_by_plan: AtomicU64,
    bytes: [AtomicU64; 2],
}

/// A TCP proxy. It and its connections end when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    network: Arc<Network>,
    accepting: AbortHandle,
}

impl Proxy {
    /// Starts a proxy in front of `upstream`.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("a bound listener has an address");
        let conditions = Conditions { carry: Carry::All, delay: Duration::ZERO };
        let network = Arc::new(Network {
            narrow: Mutex::new(None),
            upstream: Mutex::new(upstream),
            conditions: watch::Sender::new(conditions),
            cut: Mutex::default(),
            strand: Mutex::default(),
            cuts: Mutex::new(None),
            connections: AtomicU64::new(0),
            cut_by_plan: AtomicU64::new(0),
            bytes: Default::default(),
        });
        let accepting = tokio::spawn(accept(listener, network.clone())).abort_handle();
        Self { address, network, accepting }
    }

    /// The address for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections to another server.
    pub fn retarget(&self, upstream: SocketAddr) {
        *lock(&self.network.upstream) = upstream;
    }

    /// Ends all connections now.
    pub fn cut(&self) {
        std::mem::take(&mut *lock(&self.network.cut)).cancel();
    }

    /// Ends all connections for their clients now, but not for the server until the next `cut`, as when a
    /// device's address changes.
    pub fn strand(&self) {
        std::mem::take(&mut *lock(&self.network.strand)).cancel();
    }

    /// Closes every new connection at once; open connections stay.
    pub fn refuse(&self) {
        self.change(|conditions| conditions.carry = Carry::Refuse);
    }

    /// Accepts connections and carries nothing in either direction, also on open connections.
    pub fn black_hole(&self) {
        self.change(|conditions| conditions.carry = Carry::Nothing);
    }

    /// Loses every byte to the client, such as acknowledgements; bytes from the client arrive.
    pub fn lose_downstream(&self) {
        self.change(|conditions| conditions.carry = Carry::UpOnly);
    }

    /// Answers WebSocket upgrades with 502 and carries other HTTP, one request per connection.
    pub fn refuse_upgrades(&self) {
        self.change(|conditions| conditions.carry = Carry::HttpOnly);
    }

    /// On new connections, lets sessions begin but loses their batches.
    pub fn lose_batches(&self) {
        self.change(|conditions| conditions.carry = Carry::HandshakeOnly);
    }

    /// Carries nothing for this long, then cuts all connections and carries again.
    pub async fn black_hole_for(&self, time: Duration) {
        self.black_hole();
        tokio::time::sleep(time).await;
        self.cut();
        self.restore();
    }

    /// Carries everything again.
    pub fn restore(&self) {
        self.change(|conditions| conditions.carry = Carry::All);
    }

    /// Delays every piece by this long, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.change(|conditions| conditions.delay = delay);
    }

    /// Cuts each of the next `times` connections after a number of bytes in one direction, both drawn from
    /// `random`.
    pub fn cut_after(&self, random: StdRng, bytes: std::ops::Range<u64>, times: u32) {
        *lock(&self.network.cuts) = Some(Cuts { random, bytes, left: times });
    }

    /// The number of connections that `cut_after` has yet to cut.
    pub fn cuts_left(&self) -> u32 {
        lock(&self.network.cuts).as_ref().map_or(0, |cuts| cuts.left)
    }

    /// Cuts each new connection after this many bytes, both ways together, until `widen`.
    pub fn narrow(&self, bytes: u64, of: Narrowed) {
        *lock(&self.network.narrow) = Some(Narrow { bytes, of });
    }

    /// Ends `narrow` for new connections.
    pub fn widen(&self) {
        *lock(&self.network.narrow) = None;
    }

    /// The number of connections that were cut after their number of bytes.
    pub fn cut_by_plan(&self) -> u64 {
        self.network.cut_by_plan.load(Ordering::Relaxed)
    }

    /// The number of connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.network.connections.load(Ordering::Relaxed)
    }

    /// The number of bytes carried in this direction so far.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.network.bytes[direction as usize].load(Ordering::Relaxed)
    }

    fn change(&self, change: impl FnOnce(&mut Conditions)) {
        self.network.conditions.send_modify(change);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Network {
    fn now(&self) -> Conditions {
        *self.conditions.borrow()
    }

    /// The direction and number of bytes after which the next connection is cut.
    fn draw_cut(&self) -> Option<(Direction, u64)> {
        let mut cuts = lock(&self.cuts);
        let cuts = cuts.as_mut().filter(|cuts| cuts.left > 0)?;
        cuts.left -= 1;
        let direction = if cuts.random.random() { Direction::Up } else { Direction::Down };
        Some((direction, cuts.random.random_range(cuts.bytes.clone())))
    }
}

/// Accepts connections; when it is aborted, their tasks end with it.
async fn accept(listener: TcpListener, network: Arc<Network>) {
    let mut carried = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        network.connections.fetch_add(1, Ordering::Relaxed);
        while carried.try_join_next().is_some() {}
        match network.now().carry {
            Carry::Refuse => {}
            Carry::HttpOnly => drop(carried.spawn(carry_http(client, network.clone()))),
            _ => drop(carried.spawn(carry(client, network.clone()))),
        }
    }
}

/// Returns whether a connection begins with a WebSocket upgrade.
async fn is_websocket(client: &TcpStream) -> bool {
    let mut head = vec![0; CHUNK];
    let length = client.peek(&mut head).await.unwrap_or(0);
    let head = String::from_utf8_lossy(&head[..length]).to_ascii_lowercase();
    head.contains("upgrade: websocket")
}

/// Reads the head of a request before it decides.
async fn carry_http(mut client: TcpStream, network: Arc<Network>) {
    const REFUSAL: &[u8] =
        b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    match is_websocket(&client).await {
        true => {
            // The client may have closed the connection.
            let _ = client.read(&mut vec![0; CHUNK]).await;
            let _ = client.write_all(REFUSAL).await;
        }
        false => carry(client, network).await,
    }
}

async fn carry(mut client: TcpStream, network: Arc<Network>) {
    let cut = lock(&network.cut).clone();
    let strand = lock(&network.strand).clone();
    let upstream = *lock(&network.upstream);
    let planned = network.draw_cut();
    let budget = |direction| planned.and_then(|(cut, bytes)| (cut == direction).then_some(bytes));
    let connect = async {
        network.conditions.subscribe().wait_for(|now| now.carry != Carry::Nothing).await.ok()?;
        let server = TcpStream::connect(upstream).await.ok()?;
        // Without Nagle's algorithm: only the proxy causes delays.
        client.set_nodelay(true).and(server.set_nodelay(true)).ok()?;
        Some(server)
    };
    let connected = tokio::select! {
        () = cut.cancelled() => return,
        connected = connect => connected,
    };
    let Some(mut server) = connected else { return };
    let narrow = *lock(&network.narrow);
    let most = match narrow {
        Some(Narrow { bytes, of: Narrowed::All }) => bytes,
        Some(Narrow { bytes, of: Narrowed::WebSockets }) if is_websocket(&client).await => bytes,
        Some(_) | None => u64::MAX,
    };
    let all = AtomicU64::new(most);
    let both = async {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up =
            pump(&network, Direction::Up, (budget(Direction::Up), &all), from_client, to_server);
        let down = pump(
            &network,
            Direction::Down,
            (budget(Direction::Down), &all),
            from_server,
            to_client,
        );
        tokio::try_join!(up, down)
    };
    tokio::select! {
        () = cut.cancelled() => return,
        _ = both => return,
        () = strand.cancelled() => {}
    }
    drop(client);
    cut.cancelled().await;
    drop(server);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
