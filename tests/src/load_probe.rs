//! Measures the effect of a hostile client: the latency of a good client and the memory of the process,
//! before, during and after the attack.

use std::{
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpSocket, TcpStream};

/// How long the good client is measured before, and again after.
const CALM: Duration = Duration::from_millis(800);
/// The interval between two samples of the memory.
const LOOK: Duration = Duration::from_millis(5);

/// The measurements of one phase.
#[derive(Clone, Default)]
pub struct Figures {
    latencies: Vec<Duration>,
    /// The peak memory.
    pub memory_kib: u64,
}

/// The measurements of an attack that is over.
pub struct Siege {
    /// Before it.
    pub before: Figures,
    /// During it.
    pub during: Figures,
    /// After it.
    pub after: Figures,
}

/// Records the latency of the good client's requests.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Figures>>);

impl Recorder {
    /// Records how long a request takes.
    pub async fn time<T>(&self, request: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let answer = request.await;
        self.lock().latencies.push(begun.elapsed());
        answer
    }

    fn record_memory(&self, memory_kib: u64) {
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
    /// Measures the process and a good client, which runs without end, before, during and after an
    /// attack. The attack's result, such as its open connections, is dropped before the last phase.
    ///
    /// # Panics
    /// If the good client ends, which it must not.
    pub async fn lay<T>(
        pid: u32,
        good: impl AsyncFnOnce(Recorder),
        attack: impl AsyncFnOnce() -> T,
    ) -> Self {
        let recorder = Recorder::default();
        let look = async {
            loop {
                recorder.record_memory(resident_kib(pid));
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
            () = look => unreachable!("sampling never ends"),
        }
    }

    /// Prints the figures, and asserts the bounds on the good client's latency and on the memory that
    /// the attack may use.
    ///
    /// # Panics
    /// If a bound is exceeded.
    pub fn assert_borne(&self, what: &str, memory_mib: u64) {
        let Self { before, during, after } = self;
        println!("{what}\n  before {before}\n  during {during}\n  after  {after}");
        for (phase, figures) in [("during", during), ("after", after)] {
            assert!(!figures.latencies.is_empty(), "{what}: no request was answered {phase}");
            // Generous, since other processes run on this machine: a client that has to wait for the
            // attacker waits for seconds.
            let bound = (before.percentile(99) * 20).max(Duration::from_millis(1500));
            assert!(figures.percentile(99) <= bound, "{what}: {phase} {figures}, not {bound:?}");
            let more = figures.memory_kib.saturating_sub(before.memory_kib) / 1024;
            assert!(more <= memory_mib, "{what}: {more} MiB more {phase}, not {memory_mib}");
        }
    }
}

impl Figures {
    /// Returns this percentile of the latencies.
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

/// Returns the resident memory of a process in KiB.
///
/// # Panics
/// If there is no such process.
pub fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let word = line.and_then(|line| line.split_whitespace().next());
    word.and_then(|kib| kib.parse().ok()).expect("a process has memory")
}

/// Connects from another loopback address, `127.0.0.host`.
///
/// # Errors
/// If it is refused, or this process has no file descriptor left.
pub async fn connect_from(host: u8, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 0, host), 0).into())?;
    socket.connect(address).await
}

/// Returns `wanted`, limited to the connections that this process may open.
pub fn as_many_as_fit(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    wanted.min(limit.map_or(usize::MAX, |limit| limit as usize).saturating_sub(300))
}
