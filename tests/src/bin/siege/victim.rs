//! The good clients: an entry every 20 ms over HTTP and over a WebSocket, and a health check.
//!
//! A client that waits a second for an answer misses fifty entries that were due. Each of them counts with
//! the time that it would have waited, so that many short waits cannot hide a few long ones.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::Value;
use spoke_protocol::{
    Entry, Epoch, Seq,
    message::{Features, Frame, Push},
    wire::frame::SUBPROTOCOL,
};
use spoke_tests::{
    cloud::now_ms,
    websocket::{Heard, Offer, Socket, hello},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// The interval of entries, and of health checks.
const PACE: Duration = Duration::from_millis(20);

/// The timeout of an answer.
pub(crate) const LONGEST: Duration = Duration::from_secs(10);

const NO_ANSWER: &str = "no answer in time";

/// When something was due, and how long it took.
type Sample = (Instant, Duration);

/// Records the times of one good client. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    samples: Vec<Sample>,
    failures: Vec<(Instant, String)>,
    /// The seqs of its acknowledged entries.
    taken: Vec<Seq>,
}

/// The measurements of a good client in a period.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    sorted: Vec<Duration>,
    /// How often each failure occurred.
    pub(crate) failures: BTreeMap<String, u64>,
}

impl Seen {
    /// This percentile of the times.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.sorted.len() * percent).div_ceil(100);
        self.sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

impl Notes {
    /// The measurements of everything that was due in this period.
    pub(crate) fn seen(&self, from: Instant, to: Instant) -> Seen {
        let noted = self.lock();
        let in_time = |at: &Instant| (from..to).contains(at);
        let samples = noted.samples.iter().filter(|(at, _)| in_time(at));
        let mut sorted: Vec<_> = samples.map(|(_, took)| *took).collect();
        sorted.sort_unstable();
        let mut failures = BTreeMap::new();
        for (_, what) in noted.failures.iter().filter(|(at, _)| in_time(at)) {
            *failures.entry(what.clone()).or_default() += 1;
        }
        Seen { sorted, failures }
    }

    /// The seqs of its acknowledged entries.
    pub(crate) fn taken(&self) -> Vec<Seq> {
        self.lock().taken.clone()
    }

    fn note(&self, due: Instant, outcome: Result<Option<Seq>, String>) {
        let took = due.elapsed();
        let mut noted = self.lock();
        let mut missed = 0;
        while let Some(wait) = took.checked_sub(PACE * missed) {
            noted.samples.push((due + PACE * missed, wait));
            missed += 1;
        }
        match outcome {
            Ok(seq) => noted.taken.extend(seq),
            Err(what) => noted.failures.push((due, what)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until the next entry or check is due.
async fn rest(begun: Instant) {
    tokio::time::sleep((begun + PACE).saturating_duration_since(Instant::now())).await;
}

/// Posts entries on a connection that is kept alive.
pub(crate) async fn post(
    client: reqwest::Client,
    (url, token): (String, String),
    notes: Notes,
    over: CancellationToken,
) {
    let mut seq = Seq::new(now_ms(), 0);
    while !over.is_cancelled() {
        let begun = Instant::now();
        seq = Seq::new(seq.ms, seq.n + 1);
        let body = format!(r#"{{"seq":"{seq}","fields":[["topic","good"]]}}"#);
        let request = client.post(format!("{url}/xadd")).bearer_auth(&token).body(body);
        let answer = request.header("content-type", "application/json").send().await;
        let outcome = match answer {
            Ok(answer) if answer.status() == 200 => match answer.bytes().await {
                Ok(_) => Ok(Some(seq)),
                Err(error) => Err(format!("{error:?}")),
            },
            Ok(answer) => Err(refusal(answer).await),
            Err(error) if error.is_timeout() => Err(NO_ANSWER.to_owned()),
            Err(error) => Err(format!("{error:?}")),
        };
        notes.note(begun, outcome);
        rest(begun).await;
    }
}

async fn refusal(answer: reqwest::Response) -> String {
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap_or_default();
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    format!("{status} {}", body["reason"].as_str().unwrap_or_default())
}

/// Pushes entries over `spoke.v1`, each acknowledged before the next.
pub(crate) async fn push(
    address: std::net::SocketAddr,
    token: String,
    notes: Notes,
    over: CancellationToken,
) {
    let offer = Offer::of(&token, SUBPROTOCOL);
    let mut session = None;
    let mut next = Seq::new(now_ms(), 0);
    while !over.is_cancelled() {
        let begun = Instant::now();
        if session.is_none() {
            session = timeout(LONGEST, connect(address, &offer)).await.ok().flatten();
        }
        let Some((socket, after)) = &mut session else {
            notes.note(begun, Err("no session".to_owned()));
            rest(begun).await;
            continue;
        };
        next = Seq::new(next.ms, next.n + 1);
        let outcome = timeout(LONGEST, exchange(socket, *after, next)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(NO_ANSWER.to_owned()));
        match outcome {
            Ok(()) => *after = next,
            Err(_) => session = None,
        }
        notes.note(begun, outcome.map(|()| Some(next)));
        rest(begun).await;
    }
}

async fn connect(address: std::net::SocketAddr, offer: &Offer) -> Option<(Socket, Seq)> {
    let mut socket = Socket::connect(address, offer).await.ok()?;
    socket.send_frame(&Frame::Hello(Box::new(hello()))).await;
    let Heard::Bytes(answer) = socket.next().await else { return None };
    match Frame::decode(answer, Features::default()) {
        Ok(Frame::Welcome(welcome)) => Some((socket, welcome.cursor.seq)),
        _ => None,
    }
}

async fn exchange(socket: &mut Socket, after: Seq, seq: Seq) -> Result<(), String> {
    let fields = vec![(Bytes::from_static(b"topic"), Bytes::from_static(b"good"))];
    let entries = vec![Entry { seq, fields }];
    let push = Push { epoch: Epoch::FIRST, after, through: seq, entries, ..Push::default() };
    socket.send_frame(&Frame::Push(push)).await;
    loop {
        match socket.next().await {
            Heard::Bytes(bytes) => match Frame::decode(bytes, Features::default()) {
                Ok(Frame::Ack(ack)) if ack.seq >= seq => return Ok(()),
                Ok(Frame::Goaway(goaway)) => return Err(format!("GOAWAY {:?}", goaway.reason)),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            },
            other => return Err(format!("{other:?}")),
        }
    }
}

/// Asks for `/healthz`, each time on a connection of its own, as a probe does.
pub(crate) async fn probe(
    client: reqwest::Client,
    url: String,
    notes: Notes,
    over: CancellationToken,
) {
    while !over.is_cancelled() {
        let begun = Instant::now();
        let outcome = match client.get(&url).send().await {
            Ok(answer) if answer.status() == 200 => Ok(None),
            Ok(answer) => Err(answer.status().to_string()),
            Err(error) => Err(format!("{error:?}")),
        };
        notes.note(begun, outcome);
        rest(begun).await;
    }
}
