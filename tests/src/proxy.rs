//! A faulty network: a TCP proxy on the loopback that cuts, holds back, delays and loses.
//!
//! What it does to bytes in flight is what a real link does to them: they arrive in order or the
//! connection ends. A connection that lost bytes is therefore cut before it may carry any again.

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

/// Bytes carried at a time: small enough that a cut falls inside of frames.
const CHUNK: usize = 4096;

/// Where bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From whoever connected.
    Up,
    /// To whoever connected.
    Down,
}

/// What is done with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carry {
    /// They are carried.
    All,
    /// They stay where they are, as on a link that is gone without a word.
    Nothing,
    /// Those to whoever connected are lost, the others arrive.
    UpOnly,
    /// New connections are closed at once.
    Refuse,
    /// The beginnings of sessions are carried, and no batch.
    Deaf,
    /// HTTP is carried, but a request for a WebSocket is answered 502, as by proxies that know none.
    HttpOnly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Weather {
    carry: Carry,
    delay: Duration,
}

/// Connections are cut after a number of bytes that is drawn from a seed.
struct Cuts {
    random: StdRng,
    bytes: std::ops::Range<u64>,
    left: u32,
}

/// Each connection is cut after this many bytes, both ways together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Narrow {
    bytes: u64,
    of: Narrowed,
}

/// Which connections a narrow link cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Narrowed {
    /// Every one.
    All,
    /// Those of WebSockets.
    WebSockets,
}

struct Network {
    narrow: Mutex<Option<Narrow>>,
    upstream: Mutex<SocketAddr>,
    weather: watch::Sender<Weather>,
    cut: Mutex<CancellationToken>,
    strand: Mutex<CancellationToken>,
    cuts: Mutex<Option<Cuts>>,
    connections: AtomicU64,
    cut_by_plan: AtomicU64,
    bytes: [AtomicU64; 2],
}

/// A TCP proxy; it ends, and its connections with it, when dropped.
pub struct Proxy {
    address: SocketAddr,
    network: Arc<Network>,
    accepting: AbortHandle,
}

impl Proxy {
    /// A proxy in front of `upstream`.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port can be had");
        let address = listener.local_addr().expect("a bound listener has an address");
        let weather = Weather { carry: Carry::All, delay: Duration::ZERO };
        let network = Arc::new(Network {
            narrow: Mutex::new(None),
            upstream: Mutex::new(upstream),
            weather: watch::Sender::new(weather),
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

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections to another place.
    pub fn retarget(&self, upstream: SocketAddr) {
        *lock(&self.network.upstream) = upstream;
    }

    /// Ends all connections now.
    pub fn cut(&self) {
        std::mem::take(&mut *lock(&self.network.cut)).cancel();
    }

    /// Ends all connections now for whoever made them; the other side is not told, as when a
    /// device's address changes, until the next `cut`.
    pub fn strand(&self) {
        std::mem::take(&mut *lock(&self.network.strand)).cancel();
    }

    /// Closes every new connection at once; those that are there stay.
    pub fn refuse(&self) {
        self.change(|weather| weather.carry = Carry::Refuse);
    }

    /// Takes connections and carries nothing, in either direction, for those that are there too.
    pub fn black_hole(&self) {
        self.change(|weather| weather.carry = Carry::Nothing);
    }

    /// Loses every byte to whoever connected; theirs arrive. So an acknowledgement is lost.
    pub fn lose_downstream(&self) {
        self.change(|weather| weather.carry = Carry::UpOnly);
    }

    /// Answers requests for a WebSocket with 502 and carries other HTTP, one request a connection.
    pub fn refuse_upgrades(&self) {
        self.change(|weather| weather.carry = Carry::HttpOnly);
    }

    /// On connections made from now on sessions begin as ever, but no batch of theirs arrives.
    pub fn deafen(&self) {
        self.change(|weather| weather.carry = Carry::Deaf);
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
        self.change(|weather| weather.carry = Carry::All);
    }

    /// Holds every piece back for this long, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.change(|weather| weather.delay = delay);
    }

    /// Cuts the next `times` connections each after a number of bytes in one direction, both drawn
    /// from `random`.
    pub fn cut_after(&self, random: StdRng, bytes: std::ops::Range<u64>, times: u32) {
        *lock(&self.network.cuts) = Some(Cuts { random, bytes, left: times });
    }

    /// How many connections `cut_after` has yet to cut.
    pub fn cuts_left(&self) -> u32 {
        lock(&self.network.cuts).as_ref().map_or(0, |cuts| cuts.left)
    }

    /// Cuts each connection made from now on after this many bytes, both ways together, until `widen`.
    pub fn narrow(&self, bytes: u64, of: Narrowed) {
        *lock(&self.network.narrow) = Some(Narrow { bytes, of });
    }

    /// Connections made from now on carry as much as they like again.
    pub fn widen(&self) {
        *lock(&self.network.narrow) = None;
    }

    /// How many connections were cut by that plan.
    pub fn cut_by_plan(&self) -> u64 {
        self.network.cut_by_plan.load(Ordering::Relaxed)
    }

    /// How many connections were ever taken.
    pub fn connections(&self) -> u64 {
        self.network.connections.load(Ordering::Relaxed)
    }

    /// How many bytes were ever carried in this direction.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.network.bytes[direction as usize].load(Ordering::Relaxed)
    }

    fn change(&self, change: impl FnOnce(&mut Weather)) {
        self.network.weather.send_modify(change);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Network {
    fn now(&self) -> Weather {
        *self.weather.borrow()
    }

    /// After how many bytes of which direction the next connection is cut.
    fn draw_cut(&self) -> Option<(Direction, u64)> {
        let mut cuts = lock(&self.cuts);
        let cuts = cuts.as_mut().filter(|cuts| cuts.left > 0)?;
        cuts.left -= 1;
        let direction = if cuts.random.random() { Direction::Up } else { Direction::Down };
        Some((direction, cuts.random.random_range(cuts.bytes.clone())))
    }
}

/// Ends with its connections, which are tasks of its own set.
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

/// What a connection is asked for, if that is HTTP.
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
            // Whoever does not want the answer goes without.
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
        network.weather.subscribe().wait_for(|now| now.carry != Carry::Nothing).await.ok()?;
        let server = TcpStream::connect(upstream).await.ok()?;
        // Small frames go on at once; the delays are ours to make.
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
