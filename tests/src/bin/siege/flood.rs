//! The ways to send: frames on sockets that are opened again whenever they are closed, and requests.

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

/// Before one that was not let in tries again.
const RETRY: Duration = Duration::from_millis(20);
/// Frames are sent by so many bytes at the least, as a network card would.
const BURST_BYTES: usize = 64 * 1024;

/// Where the batches of one session have come.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    epoch: u64,
    at: Seq,
}

impl Place {
    /// What a batch of so many entries claims that joins on here; the place moves behind it.
    pub(crate) fn claim(&mut self, entries: u64) -> Claim {
        let (after, first) = (self.at, Seq::new(self.at.ms + 1, 0));
        self.at = Seq::new(first.ms, entries.max(1) - 1);
        Claim { epoch: self.epoch, after, first, through: None, flags: 0 }
    }

    /// Moves on by so many ms, and gives where.
    pub(crate) fn pass(&mut self, ms: u64) -> Seq {
        self.at.ms += ms;
        self.at
    }
}

/// Makes the next messages of a session that has come to this place.
type Next = Box<dyn FnMut(&mut Place) -> Vec<u8> + Send>;

/// What one socket sends.
pub(crate) struct Flood {
    /// Its subprotocol.
    pub(crate) subprotocol: &'static str,
    /// A message to begin with, or none.
    pub(crate) first: Vec<u8>,
    /// The next messages, as bytes of the WebSocket.
    pub(crate) next: Next,
    /// Between two of them.
    pub(crate) pause: Duration,
    /// Whose token it bears.
    pub(crate) who: usize,
}

impl Flood {
    /// Without a pause.
    pub(crate) fn new(
        subprotocol: &'static str,
        first: Vec<u8>,
        mut next: impl FnMut() -> Vec<u8> + Send + 'static,
    ) -> Self {
        Self::joined(subprotocol, first, move |_| next())
    }

    /// What is sent begins where the one before ended.
    pub(crate) fn joined(
        subprotocol: &'static str,
        first: Vec<u8>,
        next: impl FnMut(&mut Place) -> Vec<u8> + Send + 'static,
    ) -> Self {
        Self { subprotocol, first, next: Box::new(next), pause: Duration::ZERO, who: 0 }
    }

    /// The same again and again.
    pub(crate) fn repeating(subprotocol: &'static str, first: Vec<u8>, message: &[u8]) -> Self {
        let burst = message.repeat(BURST_BYTES.div_ceil(message.len().max(1)));
        Self::new(subprotocol, first, move || burst.clone())
    }

    /// Sends for ever. What comes back is read and thrown away.
    async fn run(mut self, target: &Target) -> Infallible {
        loop {
            match raw::socket(target.address, &target.tokens[self.who], self.subprotocol).await {
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
        let pouring = async {
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
            ended = pouring => ended,
            ended = draining => ended,
        };
        let Err(error) = ended;
        target.note(format!("socket closed: {:?}", error.kind()));
    }
}

/// Says HELLO and hears where the hub's copy stands; at the beginning where that cannot be read.
async fn greet(stream: &mut TcpStream, hello: &[u8]) -> std::io::Result<Place> {
    stream.write_all(&raw::binary(hello)).await?;
    let message = raw::read_message(stream).await?;
    let cursor = match Frame::decode(message.into(), Features::default()) {
        Ok(Frame::Welcome(welcome)) => welcome.cursor,
        _ => Cursor::default(),
    };
    Ok(Place { epoch: cursor.epoch.0.max(1), at: cursor.seq })
}

/// All of these at once, each on a socket of its own, for so long.
pub(crate) async fn pour(target: &Target, span: Duration, floods: Vec<Flood>) {
    let all = join_all(floods.into_iter().map(|flood| flood.run(target)));
    let _ = tokio::time::timeout(span, all).await;
}

/// A request of the attacker.
#[derive(Clone)]
pub(crate) struct Request {
    /// Whose token it bears.
    pub(crate) who: usize,
    /// Its method is POST if it has a body.
    pub(crate) path: String,
    /// Its body.
    pub(crate) body: Option<Bytes>,
}

impl Request {
    /// A body for a path, of the first client.
    pub(crate) fn post(path: &str, body: impl Into<Bytes>) -> Self {
        Self { who: 0, path: path.to_owned(), body: Some(body.into()) }
    }

    /// A question of the first client.
    pub(crate) fn get(path: &str) -> Self {
        Self { who: 0, path: path.to_owned(), body: None }
    }
}

/// So many requests at a time for so long: `next` gives the next of the one that is free.
pub(crate) async fn ask(
    target: &Target,
    span: Duration,
    at_once: usize,
    next: impl Fn(usize) -> Request,
) {
    let all = (0..at_once).map(async |n| {
        loop {
            answer(target, next(n)).await;
            // Those that are refused at once leave the others their turn.
            tokio::task::yield_now().await;
        }
    });
    let _ = tokio::time::timeout(span, join_all(all)).await;
}

/// Sends one and notes its answer, by status and reason.
pub(crate) async fn answer(target: &Target, Request { who, path, body }: Request) -> u16 {
    let url = format!("{}{path}", target.url);
    let request = match body {
        Some(body) => {
            let post = target.client.post(url).header("content-type", "application/json");
            post.body(body)
        }
        None => target.client.get(url),
    };
    match request.bearer_auth(&target.tokens[who]).send().await {
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
