//! Floods: frames on sockets that are reopened whenever they are closed, and requests.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use spoke_protocol::{
    Seq,
    message::{Cursor, Features, Frame},
};
use spoke_tests::hostile::{frames::Claim, raw};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::arena::Target;

/// The pause before a refused connection is tried again.
const RETRY: Duration = Duration::from_millis(20);
/// The least number of bytes of one write.
const BURST_BYTES: usize = 64 * 1024;

/// The position of a session's batches.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    epoch: u64,
    at: Seq,
}

impl Place {
    /// The claim of the next batch of this many entries; the position moves past it.
    pub(crate) fn claim(&mut self, entries: u64) -> Claim {
        let (after, first) = (self.at, Seq::new(self.at.ms + 1, 0));
        self.at = Seq::new(first.ms, entries.max(1) - 1);
        Claim { epoch: self.epoch, after, first, through: None, flags: 0 }
    }

    /// Moves on by this many ms, and returns the new position.
    pub(crate) fn pass(&mut self, ms: u64) -> Seq {
        self.at.ms += ms;
        self.at
    }
}

/// Makes the next messages of a session at this position.
type Next = Box<dyn FnMut(&mut Place) -> Vec<u8> + Send>;

/// The traffic of one socket.
pub(crate) struct Flood {
    /// Its subprotocol.
    pub(crate) subprotocol: &'static str,
    /// The first message, or empty.
    pub(crate) first: Vec<u8>,
    /// Makes the next messages, as WebSocket frames.
    pub(crate) next: Next,
    /// The pause between two writes.
    pub(crate) pause: Duration,
    /// The index of the client whose token is used.
    pub(crate) client: usize,
}

impl Flood {
    /// A flood without pauses.
    pub(crate) fn new(
        subprotocol: &'static str,
        first: Vec<u8>,
        mut next: impl FnMut() -> Vec<u8> + Send + 'static,
    ) -> Self {
        Self::joined(subprotocol, first, move |_| next())
    }

    /// A flood of batches that each begin where the previous one ended.
    pub(crate) fn joined(
        subprotocol: &'static str,
        first: Vec<u8>,
        next: impl FnMut(&mut Place) -> Vec<u8> + Send + 'static,
    ) -> Self {
        Self { subprotocol, first, next: Box::new(next), pause: Duration::ZERO, client: 0 }
    }

    /// A flood that repeats one message.
    pub(crate) fn repeating(subprotocol: &'static str, first: Vec<u8>, message: &[u8]) -> Self {
        let burst = message.repeat(BURST_BYTES.div_ceil(message.len().max(1)));
        Self::new(subprotocol, first, move || burst.clone())
    }

    /// Sends without end. Answers are read and discarded.
    async fn run(mut self, target: &Target) -> Infallible {
        loop {
            match raw::socket(target.address, &target.tokens[self.client], self.subprotocol).await {
                Ok(stream) => self.pour(stream, target).await,
                Err(error) => {
                    target.note(error);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn pour(&mut self, mut stream: TcpStream, target: &Target) {
        let mut place = Place::default();
        if !self.first.is_empty() {
            match greet(&mut stream, &self.first).await {
                Ok(known) => place = known,
                Err(error) => return target.note(format!("no session: {:?}", error.kind())),
            }
        }
        let (mut reading, mut writing) = stream.split();
        let sending = async {
            loop {
                let messages = (self.next)(&mut place);
                writing.write_all(&messages).await?;
                target.note_many("KiB sent", messages.len() as u64 / 1024);
                target.note("writes");
                if !self.pause.is_zero() {
                    tokio::time::sleep(self.pause).await;
                }
            }
        };
        let draining = async {
            let mut buffer = vec![0; BURST_BYTES];
            while reading.read(&mut buffer).await? > 0 {}
            std::io::Result::<Infallible>::Err(std::io::ErrorKind::UnexpectedEof.into())
        };
        let ended: std::io::Result<Infallible> = tokio::select! {
            ended = sending => ended,
            ended = draining => ended,
        };
        let Err(error) = ended;
        target.note(format!("socket closed: {:?}", error.kind()));
    }
}

/// Sends HELLO and returns the hub's cursor; the beginning if there is no WELCOME.
async fn greet(stream: &mut TcpStream, hello: &[u8]) -> std::io::Result<Place> {
    stream.write_all(&raw::binary(hello)).await?;
    let message = raw::read_message(stream).await?;
    let cursor = match Frame::decode(message.into(), Features::default()) {
        Ok(Frame::Welcome(welcome)) => welcome.cursor,
        _ => Cursor::default(),
    };
    Ok(Place { epoch: cursor.epoch.0.max(1), at: cursor.seq })
}

/// Runs all floods at once for this long, each on a socket of its own.
pub(crate) async fn pour(target: &Target, span: Duration, floods: Vec<Flood>) {
    let all = join_all(floods.into_iter().map(|flood| flood.run(target)));
    let _ = tokio::time::timeout(span, all).await;
}

/// A request of the attacker.
#[derive(Clone)]
pub(crate) struct Request {
    /// The index of the client whose token is used.
    pub(crate) client: usize,
    /// Its path; the method is POST if it has a body.
    pub(crate) path: String,
    /// Its body.
    pub(crate) body: Option<Bytes>,
}

impl Request {
    /// A POST of the first client.
    pub(crate) fn post(path: &str, body: impl Into<Bytes>) -> Self {
        Self { client: 0, path: path.to_owned(), body: Some(body.into()) }
    }

    /// A GET of the first client.
    pub(crate) fn get(path: &str) -> Self {
        Self { client: 0, path: path.to_owned(), body: None }
    }
}

/// Keeps `at_once` requests in flight for this long; `next` makes the next request of each worker.
pub(crate) async fn ask(
    target: &Target,
    span: Duration,
    at_once: usize,
    next: impl Fn(usize) -> Request,
) {
    let all = (0..at_once).map(async |n| {
        loop {
            answer(target, next(n)).await;
            // Lets the others run, also if this request was refused at once.
            tokio::task::yield_now().await;
        }
    });
    let _ = tokio::time::timeout(span, join_all(all)).await;
}

/// Sends a request and counts its answer, by status and reason.
pub(crate) async fn answer(target: &Target, Request { client, path, body }: Request) -> u16 {
    let url = format!("{}{path}", target.url);
    let request = match body {
        Some(body) => {
            let post = target.client.post(url).header("content-type", "application/json");
            post.body(body)
        }
        None => target.client.get(url),
    };
    match request.bearer_auth(&target.tokens[client]).send().await {
        Ok(answer) => {
            let status = answer.status().as_u16();
            let text = answer.text().await.unwrap_or_default();
            let body: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            let reason = body["reason"].as_str().unwrap_or_default().to_owned();
            target.note(format!("{status} {reason}").trim_end());
            status
        }
        Err(error) => {
            target.note(if error.is_timeout() { "no answer in time" } else { "broken" });
            tokio::time::sleep(RETRY).await;
            0
        }
    }
}
