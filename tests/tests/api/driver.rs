//! The driver, the scripts and the hints on two real Redis servers, without services or sockets between them.

#![expect(clippy::unwrap_used, reason = "this is a test, its helpers included")]

mod scripts;

use std::{
    future::pending,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::{Sink, SinkExt, sink, stream};
use spoke_diagnostics::unix_ms;
use spoke_protocol::{
    BatchAccount, ClientId, Direction, Entry, EntryLimits, Epoch, InstanceId, Seq,
    limits::RECONNECT_WAIT_MIN,
    message::{Frame, Goaway, GoawayReason, ReceiveLimits},
    sync::{
        Append, AppendResult, Heartbeat, Receiver, ResumeFinding, Sender, Session, SessionEnd,
        TrimMode,
    },
};
use spoke_service::{LastActivity, Shutdown};
use spoke_store::{
    ClientQuota, CopyStore, Hints, OriginStore, Redis, StartWith,
    driver::{self, SessionError, SessionOutcome, SessionStores, TransportError},
    keys::{DeviceKeys, HubKeys},
    presence::{self, SessionOpen, SessionOpened, Transport},
};
use spoke_tests::{
    checker,
    device::STATE,
    entries::{Stored, numbered},
    redis::RedisServer,
    wait::{eventually_is, eventually_true},
};
use tokio::sync::mpsc;

/// The two Redis servers.
struct Ends {
    device: RedisServer,
    cloud: RedisServer,
    client: ClientId,
}

/// The stores of one end.
struct Side {
    origin: OriginStore,
    copy: CopyStore,
    hints: Hints,
    shutdown: Shutdown,
}

impl Ends {
    async fn start() -> Self {
        let (device, cloud) = (RedisServer::start_device().await, RedisServer::start().await);
        Self { device, cloud, client: "dev1".parse().unwrap() }
    }

    fn device(&self) -> Side {
        let redis = Redis::open(&self.device.url().parse().unwrap(), "").unwrap();
        let keys = DeviceKeys::new("spoke-agent");
        let origin = OriginStore::device(redis.clone(), &keys, &self.client);
        let copy = CopyStore::device(redis.clone(), &keys, &self.client);
        Side::new(origin, copy, redis, keys.out())
    }

    async fn hub(&self) -> Side {
        let redis = Redis::open(&self.cloud.url().parse().unwrap(), "").unwrap();
        let keys = HubKeys::new("spoke-hub");
        let request = SessionOpen {
            version: "0",
            address: "here",
            hub: "one",
            instance: InstanceId::UNKNOWN,
            transport: Transport::WebSocket,
            reach: None,
            registered_at_ms: 0,
            epochs: Default::default(),
        };
        let opened = presence::open_session(&redis, &keys, &self.client, &request, unix_ms()).await;
        let Ok(SessionOpened::Opened(generation, _)) = opened else { panic!("{opened:?}") };
        let origin = OriginStore::hub(redis.clone().into(), &keys, &self.client);
        let copy = CopyStore::hub(
            redis.clone().into(),
            &keys,
            (&self.client, 0),
            Some(generation),
            ClientQuota::unlimited(),
        );
        Side::new(origin, copy, redis, keys.out_prefix())
    }
}

impl Side {
    fn new(origin: OriginStore, copy: CopyStore, redis: Redis, prefix: String) -> Self {
        let (hints, shutdown) = (Hints::new(), Shutdown::new());
        let listener = hints.clone().listen_forever(redis, vec![prefix], shutdown.token());
        shutdown.spawn("hints", listener);
        Self { origin, copy, hints, shutdown }
    }

    async fn run(
        &self,
        peer: &Side,
        direction: Direction,
        line: (mpsc::Receiver<Frame>, impl Sink<Frame, Error = TransportError> + Unpin),
        leave: impl Future<Output = Goaway>,
    ) -> SessionOutcome {
        let back = match direction {
            Direction::Up => Direction::Down,
            Direction::Down => Direction::Up,
        };
        let started = self
            .origin
            .start_sender(&peer.copy.cursor().await.unwrap(), &StartWith::SAME, unix_ms())
            .await
            .unwrap();
        let cursor = self.copy.cursor().await.unwrap();
        let sender = Sender::new(direction, ReceiveLimits::default(), TrimMode::Keep, &started);
        let receiver = Receiver::new(back, EntryLimits::default(), (cursor.epoch, cursor.seq));
        let session = Session::new(sender, receiver, Heartbeat::Answers, Instant::now());
        let session = Box::new(session);
        let news = self.hints.watch_stream(self.origin.key());
        let epoch = started.position.epoch;
        let (origin, copy) = (&self.origin, &self.copy);
        let stores =
            SessionStores { origin, copy, news: &news, epoch, return_wait: &|| RECONNECT_WAIT_MIN };
        let (frames, outbox) = line;
        let frames = stream::unfold(frames, async |mut frames| {
            let frame: Frame = frames.recv().await?;
            Some((Ok(frame), frames))
        });
        let frames = Box::pin(frames);
        let activity = LastActivity::new(Instant::now());
        driver::drive(session, stores, frames, outbox, || activity.at(), leave, |_| {}).await
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

fn outbox(frames: mpsc::Sender<Frame>) -> impl Sink<Frame, Error = TransportError> + Unpin {
    Box::pin(sink::unfold(frames, async |frames: mpsc::Sender<Frame>, frame| {
        let sent = frames.send(frame).await;
        sent.map(|()| frames).map_err(|error| TransportError::Broken(error.into()))
    }))
}

/// Runs both ends until `done` completes, then closes the session from the hub's side.
async fn run_until(
    device: &Side,
    hub: &Side,
    done: impl Future<Output = ()>,
) -> (SessionOutcome, SessionOutcome) {
    let (to_hub, from_device) = mpsc::channel(4);
    let (to_device, from_hub) = mpsc::channel(4);
    let goodbye = async {
        done.await;
        Goaway { reason: GoawayReason::Restart, message: "done".to_owned(), wait_ms: 7 }
    };
    tokio::join!(
        device.run(hub, Direction::Up, (from_hub, outbox(to_hub)), pending()),
        hub.run(device, Direction::Down, (from_device, outbox(to_device)), goodbye),
    )
}

#[tokio::test]
async fn entries_cross_both_ways_at_once_and_arrive_once_and_in_order() {
    let ends = Ends::start().await;
    let (device, hub) = (ends.device(), ends.hub().await);
    let many: Vec<_> = (0..5000).map(numbered).collect();
    let up = ends.device.add_all("spoke-agent:out:x", &many).await;
    let down = ends.cloud.add_all("spoke-hub:out:dev1:x", &many).await;

    // Waits for the acknowledgements too, so that neither end is sending when the session closes.
    let acknowledged = async |redis: &RedisServer, key, all: &[Stored]| {
        redis.hash(key).await.get("out_acked") == all.last().map(|entry| &entry.id)
    };
    let carried = async {
        eventually_true("all entries to be acknowledged at both ends", async || {
            acknowledged(&ends.device, STATE, &up).await
                && acknowledged(&ends.cloud, "spoke-hub:client:dev1:h", &down).await
        })
        .await;
    };
    let (near, far) = run_until(&device, &hub, carried).await;

    let found = checker::from_device(&ends.cloud.entries("spoke-hub:in:x").await, "dev1");
    checker::assert_same("up", &checker::expected(&up, Some(1)), &found);
    let found = checker::from_hub(&ends.device.entries("spoke-agent:in:x").await);
    checker::assert_same("down", &checker::expected(&down, None), &found);
    let sent = Goaway { reason: GoawayReason::Restart, message: "done".to_owned(), wait_ms: 7 };
    assert_eq!(near.end.unwrap(), SessionEnd::ClosedByPeer(sent.clone()));
    assert_eq!(far.end.unwrap(), SessionEnd::Closed(sent));
    assert_eq!(near.session.sender().acked_entries(), 5000);
}

/// A sink whose connection is broken.
struct Broken;

impl Sink<Frame> for Broken {
    type Error = io::Error;

    fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn start_send(self: Pin<&mut Self>, _: Frame) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }
}

#[tokio::test]
async fn a_link_that_breaks_during_a_batch_ends_only_the_session() {
    let ends = Ends::start().await;
    let (device, hub) = (ends.device(), ends.hub().await);
    ends.device.add("spoke-agent:out:x", &numbered(1)).await;
    let (_quiet, from_hub) = mpsc::channel(4);
    // Like the sinks of the services, it panics if it is used after it has failed.
    let broken = Broken.sink_map_err(|error: io::Error| TransportError::Broken(error.into()));

    let outcome = device.run(&hub, Direction::Up, (from_hub, broken), pending()).await;

    let end = outcome.end.unwrap_err();
    assert!(matches!(end, SessionError::Transport(TransportError::Broken(_))), "{end:?}");
}

#[tokio::test]
async fn an_idle_link_learns_of_a_new_entry_by_its_hint_alone() {
    let ends = Ends::start().await;
    let (device, hub) = (ends.device(), ends.hub().await);
    let added = async {
        for round in 1..=20 {
            let began = Instant::now();
            ends.device.add("spoke-agent:out:x", &numbered(round)).await;
            eventually_is("the entry to be at the hub", round, async || {
                ends.cloud.length("spoke-hub:in:x").await
            })
            .await;
            // The sweep runs every half minute, so only a hint is this fast.
            assert!(began.elapsed() < Duration::from_secs(5));
        }
    };
    run_until(&device, &hub, added).await;
}

fn empty_batch(after: Option<u64>, through: u64) -> Append {
    Append {
        epoch: Epoch::FIRST,
        known: None,
        after: after.map(|ms| Seq::new(ms, 0)),
        through: Seq::new(through, 0),
        entries: vec![],
        refused: vec![],
        digest: None,
        account: BatchAccount::default(),
        seal: None,
    }
}

#[tokio::test]
async fn a_newer_generation_fences_the_older_session_in_the_script_itself() {
    let ends = Ends::start().await;
    let older = ends.hub().await;
    let newer = ends.hub().await;
    let batch = empty_batch(None, 5);
    assert_eq!(older.copy.append(&batch, 0).await.unwrap(), AppendResult::Superseded);
    let done = newer.copy.append(&batch, 0).await.unwrap();
    assert!(matches!(done, AppendResult::Done { cursor: Seq { ms: 5, n: 0 }, .. }));
}

#[tokio::test]
async fn a_batch_that_meets_another_state_than_its_session_expects_is_checked() {
    let ends = Ends::start().await;
    let hub = ends.hub().await;
    let append = async |after, through| {
        let entry = Entry { seq: Seq::new(through, 0), fields: vec![("a".into(), "b".into())] };
        let batch = Append { entries: vec![entry], ..empty_batch(Some(after), through) };
        hub.copy.append(&batch, 0).await.unwrap()
    };
    let is_done = |result| matches!(result, AppendResult::Done { accepted: 1, .. });
    let set = async |state: &str| {
        let command = ["HSET", "spoke-hub:client:dev1:h", "in", state];
        ends.cloud.command::<()>(&command).await;
    };
    assert!(is_done(append(0, 1).await));
    assert!(is_done(append(1, 2).await));
    set("1 2-0 2 77 - - ~").await;
    assert!(is_done(append(2, 3).await), "the same place, written by someone else");
    assert!(is_done(append(3, 4).await));
    set("1 3-0 3 77 - - ~").await;
    assert_eq!(append(4, 5).await, AppendResult::Gap(Seq::new(3, 0)));
    set("1 9-0 9 77 - - ~").await;
    assert_eq!(append(5, 6).await, AppendResult::Gap(Seq::new(9, 0)));
    assert_eq!(ends.cloud.length("spoke-hub:in:x").await, 4);
}

#[tokio::test]
async fn a_session_lost_by_a_wiped_redis_gets_a_gap_and_not_superseded() {
    let ends = Ends::start().await;
    let hub = ends.hub().await;
    ends.cloud.flushall().await;
    let append = empty_batch(Some(4), 5);
    assert_eq!(hub.copy.append(&append, 0).await.unwrap(), AppendResult::Gap(Seq::ZERO));
}

#[tokio::test]
async fn a_stream_replaced_during_a_session_ends_it_and_is_carried_by_the_next() {
    let ends = Ends::start().await;
    let (device, hub) = (ends.device(), ends.hub().await);
    let ahead = unix_ms() + 60_000;
    ends.device.add_as("spoke-agent:out:x", &format!("{ahead}-0"), &numbered(1)).await;
    let replaced = async {
        eventually_is("the entry to be at the hub", 1, async || {
            ends.cloud.length("spoke-hub:in:x").await
        })
        .await;
        ends.device.flushall().await;
        // Below the position that the session has read, so that it would never read this entry.
        ends.device.add_as("spoke-agent:out:x", "5-0", &numbered(2)).await;
        pending().await
    };
    let (near, _) = run_until(&device, &hub, replaced).await;
    let Ok(SessionEnd::Closed(goaway)) = near.end else { panic!("{:?}", near.end) };
    assert_eq!(goaway.reason, GoawayReason::Gap);

    let hub = ends.hub().await;
    let arrived = async {
        eventually_is("the entry of the new stream to be at the hub", 2, async || {
            ends.cloud.length("spoke-hub:in:x").await
        })
        .await;
    };
    run_until(&device, &hub, arrived).await;
    let found = ends.cloud.entries("spoke-hub:in:x").await;
    assert_eq!(
        (found[1].text("epoch"), found[1].text("seq")),
        (Some("2".into()), Some("5-0".into()))
    );
}

#[tokio::test]
async fn an_append_to_a_killed_redis_fails_with_a_transient_error() {
    let mut ends = Ends::start().await;
    let (device, hub) = (ends.device(), ends.hub().await);
    ends.cloud.kill9();
    ends.device.add("spoke-agent:out:x", &numbered(1)).await;
    let cursor = spoke_protocol::message::Cursor::default();
    let started = device.origin.start_sender(&cursor, &StartWith::SAME, unix_ms()).await.unwrap();
    let append = Append { epoch: started.position.epoch, ..empty_batch(None, 1) };
    let error = hub.copy.append(&append, 0).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let _ = SessionError::Store(error);
}
