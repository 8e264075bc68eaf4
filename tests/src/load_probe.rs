//! What a hostile client does to everybody else: the latency of a good client and the memory of the
//! process, before, during and after.

use std::{
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpSocket, TcpStream};

/// How long the good client is watched before, and again after.
const CALM: Duration = Duration::from_millis(800);
/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(5);

/// What the good client and the process were like for a while.
#[derive(Clone, Default)]
pub struct Figures {
    latencies: Vec<Duration>,
    /// The most memory that was in use.
    pub memory_kib: u64,
}

/// A siege that is over.
pub struct Siege {
    /// Before it began.
    pub before: Figures,
    /// While it lasted.
    pub during: Figures,
    /// Once the besieger was gone.
    pub after: Figures,
}

/// Takes the time of the good client's requests.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Figures>>);

impl Recorder {
    /// How long this takes.
    pub async fn time<T>(&self, request: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let answer = request.await;
        self.lock().latencies.push(begun.elapsed());
        answer
    }

    fn see(&self, memory_kib: u64) {
        let mut figures = self.lock();
        figures.memory_kib = figures.memory_kib.max(memory_kib);
    }

    fn take(&self) -> Figures {
        let mut figures = std::mem::take(&mut *self.lock());
        figures.latencies.sort_unstable();
        figures
    }

    fn lock(&self) -> MutexGuard<'_, Figures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Siege {
    /// Watches the process and a good client, which goes on for ever, before, during and after an
    /// attack. What the attack gives, its open connections say, is dropped before the last look.
    ///
    /// # Panics
    /// When the good client ends: it is one that must not fail.
    pub async fn lay<T>(
        pid: u32,
        good: impl AsyncFnOnce(Recorder),
        attack: impl AsyncFnOnce() -> T,
    ) -> Self {
        let recorder = Recorder::default();
        let look = async {
            loop {
                recorder.see(resident_kib(pid));
                tokio::time::sleep(LOOK).await;
            }
        };
        let phases = async {
            tokio::time::sleep(CALM).await;
            let before = recorder.take();
            let held = attack().await;
            let during = recorder.take();
            drop(held);
            tokio::time::sleep(CALM).await;
            recorder.take();
            tokio::time::sleep(CALM).await;
            Self { before, during, after: recorder.take() }
        };
        tokio::select! {
            siege = phases => siege,
            () = good(recorder.clone()) => panic!("the good client ended"),
            () = look => unreachable!("it looks for ever"),
        }
    }

    /// Prints the figures, and holds them against what a good client can bear and what the attack
    /// may cost in memory.
    ///
    /// # Panics
    /// When it was too much.
    pub fn assert_borne(&self, what: &str, memory_mib: u64) {
        let Self { before, during, after } = self;
        println!("{what}\n  before {before}\n  during {during}\n  after  {after}");
        for (phase, figures) in [("during", during), ("after", after)] {
            assert!(!figures.latencies.is_empty(), "{what}: nothing was answered {phase}");
            // Generous, since other things run on this machine: what is looked for is somebody
            // who waits for the attacker, and that is seconds.
            let bound = (before.percentile(99) * 20).max(Duration::from_millis(1500));
            assert!(figures.percentile(99) <= bound, "{what}: {phase} {figures}, not {bound:?}");
            let more = figures.memory_kib.saturating_sub(before.memory_kib) / 1024;
            assert!(more <= memory_mib, "{what}: {more} MiB more {phase}, not {memory_mib}");
        }
    }
}

impl Figures {
    /// What so many of a hundred requests took at most; the longest of all where there are few.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.latencies.len() * percent).div_ceil(100);
        self.latencies.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, kib) = (self.latencies.len(), self.memory_kib);
        let (p50, p99, worst) = (self.percentile(50), self.percentile(99), self.percentile(100));
        write!(f, "{count:5} requests: p50 {p50:.1?}, p99 {p99:.1?}, worst {worst:.1?}; {kib} KiB")
    }
}

/// The memory of a process that is in RAM, in KiB.
///
/// # Panics
/// When there is no such process.
pub fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let word = line.and_then(|line| line.split_whitespace().next());
    word.and_then(|kib| kib.parse().ok()).expect("a process has memory")
}

/// A connection from another address of the loopback, `127.0.0.host`.
///
/// # Errors
/// When it is refused, or this process has no room for one more.
pub async fn connect_from(host: u8, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 0, host), 0).into())?;
    socket.connect(address).await
}

/// How many connections a test can have open, of as many as it wants.
pub fn as_many_as_fit(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    wanted.min(limit.map_or(usize::MAX, |limit| limit as usize).saturating_sub(300))
}
