//! What a request reads of the entries on their way down: the same over HTTP and over `spoke.v1.json`.
//!
//! A request is a session of one answer: it begins where the caller says that it stands, with the
//! same proof and the same sender, and its acknowledgement is the place that the next one names.

use std::{
    cmp::Ordering,
    pin::pin,
    time::{Duration, Instant},
};

use http::StatusCode;
use serde::Deserialize;
use spoke_diagnostics::clock::unix_ms;
use spoke_protocol::{
    client_id::ClientId,
    entry::{Direction, Entry},
    limits::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, BLOCK_MAX, SEQ_AHEAD_MAX},
    loss::{Checkpoint, Tally},
    message::{Ack, Cursor, Push, ReceiveLimits},
    partner::PartnerMatch,
    seq::{Epoch, Seq},
    sync::{
        resume::{self, OriginStanding, ResumeFinding, SenderStart},
        sender::{
            OriginTask, Sender, TrimMode,
            path::{LinkPath, SessionEnding, SessionSummary, UnackedAtEnd},
        },
    },
    wire::json::XreadBody,
};
use spoke_service::api_error::ApiError;
use spoke_store::{
    origin::{OriginStore, StartWith, TaskResult},
    presence,
};

use crate::{
    bearer::{Caller, malformed, unauthorized},
    budget::Charge,
    hub::{Hub, stale_epoch, superseded},
    limits::{BUDGET_COPIES, BUDGET_PATIENCE},
    session::{SessionKey, token_ended},
};

/// What an answer is charged with before it is known: the entries, a page of them as Redis gave it, and
/// the same as JSON. One of a single large entry is more, and rare.
const ANSWER_BYTES: usize = BUDGET_COPIES * BATCH_BYTES_MAX;

/// What `xread` asks for.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Xread {
    /// After which entry; all up to it is acknowledged.
    #[serde(default)]
    pub seq: Seq,
    /// The tally there, as the answer told that ended with it.
    #[serde(default)]
    pub tally: Tally,
    /// The life of the stream that `seq` belongs to, if the caller knows it.
    #[serde(default)]
    pub epoch: Option<Epoch>,
    /// How many entries at most.
    #[serde(default)]
    pub count: Option<u64>,
    /// How long to wait for news.
    #[serde(default)]
    pub block_ms: u64,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// An agent in a session: to ask for the same again means that the answer did not arrive.
    Agent,
    /// Another program, which may ask for the same as often as it likes.
    Program,
}

/// Reads what is there for the caller after `ask.seq`, and waits for it if asked to. The answer is charged
/// until it is sent, as it is and as JSON.
///
/// # Errors
/// 400, 409, 429, 503.
pub async fn xread(
    hub: &Hub,
    caller: &Caller,
    asker: Asker,
    ask: Xread,
) -> Result<(XreadBody, Charge), ApiError> {
    let count = match ask.count.unwrap_or(BATCH_ENTRIES_MAX as u64) {
        0 => return Err(malformed("count is a whole number of 1 or more")),
        count => count.min(BATCH_ENTRIES_MAX as u64) as usize,
    };
    let until = Instant::now() + Duration::from_millis(ask.block_ms).min(BLOCK_MAX);
    let mut reader = Reader::begin(hub, caller, asker, (&ask, count)).await?;
    let (first, charge) = reader.read().await?;
    if !is_silent(&first) || ask.block_ms == 0 {
        reader.note_given(&first);
        return Ok((answer(hub, first), charge));
    }
    // One that waits holds nothing but itself.
    let mut held = charge;
    held.shrink(0);
    let (_place, stopped) = hub.live.wait(&caller.client, caller.generation)?;
    let mut stopped = pin!(stopped);
    let session = SessionKey::of(hub, caller);
    let mut token_ended = pin!(token_ended(hub, caller, &session));
    let news = hub.hints.watch_stream(reader.origin.key());
    loop {
        tokio::select! {
            () = news.changed() => {}
            () = hub.shutdown.begun() => return Ok((answer(hub, first), held)),
            Ok(_) = &mut stopped => return Err(superseded()),
            _ = &mut token_ended => return Err(unauthorized(hub)),
            () = tokio::time::sleep_until(until.into()) => return Ok((answer(hub, first), held)),
        }
        check_generation(hub, caller).await?;
        reader.sender.handle_news();
        let (push, charge) = reader.read().await?;
        news.handle_read_through(reader.sender.read_through());
        if is_silent(&push) {
            continue;
        }
        // The news may have come before the hint that the session has ended: look, in that order,
        // so that nothing added after its end is given out.
        if hub.checked(hub.sessions.find_client_by_key(&session.get()).await)?.is_none() {
            return Err(unauthorized(hub));
        }
        reader.note_given(&push);
        return Ok((answer(hub, push), charge));
    }
}

/// Nothing in it but where the caller stands already.
fn is_silent(push: &Push) -> bool {
    push.entries.is_empty() && push.account.losses.is_empty()
}

/// How many entries lie between two tallies, as far as that is known.
fn carried(before: Tally, after: Tally) -> u64 {
    if before.is_unknown() || after.is_unknown() {
        return 0;
    }
    let carried = |tally: Tally| tally.added - tally.dead - tally.lost;
    carried(after).saturating_sub(carried(before))
}

fn answer(hub: &Hub, push: Push) -> XreadBody {
    let sent = &hub.metrics.traffic.sent;
    sent.batches.add(u64::from(!push.entries.is_empty()));
    sent.bytes.add(push.bytes() as u64);
    let Push { epoch, through, entries, account, seal, .. } = push;
    let entries = entries.into_iter().map(Into::into).collect();
    XreadBody { epoch, entries, seq: through, account, seal }
}

async fn check_generation(hub: &Hub, caller: &Caller) -> Result<(), ApiError> {
    let Some(ours) = caller.generation else { return Ok(()) };
    let newest = presence::generation(&hub.redis, &hub.keys, &caller.client).await;
    match hub.checked(newest)?.cmp(&ours) {
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(superseded()),
        Ordering::Less => {
            let message = "the hub's store has forgotten this session: begin a new one";
            Err(ApiError::new(StatusCode::CONFLICT, "gap", message))
        }
    }
}

struct Reader<'a> {
    hub: &'a Hub,
    client: &'a ClientId,
    asker: Asker,
    origin: OriginStore,
    sender: Sender,
    epoch: Epoch,
    count: usize,
    /// Bytes of an answer of more than one entry.
    bytes_max: usize,
    /// Where the answer begins, and what it holds so far.
    given: Push,
}

impl<'a> Reader<'a> {
    /// Checks that the caller speaks of the stream as it is, and takes its acknowledgement.
    async fn begin(
        hub: &'a Hub,
        caller: &'a Caller,
        asker: Asker,
        (ask, count): (&Xread, usize),
    ) -> Result<Self, ApiError> {
        check_generation(hub, caller).await?;
        if caller.generation.is_some() {
            let touched = presence::touch(&hub.redis, &hub.keys, &caller.client, unix_ms()).await;
            hub.checked(touched)?;
        }
        let origin = hub.origin(&caller.client);
        let standing = hub.checked(origin.standing().await)?;
        let begun = place(hub, &origin, caller, ask, standing).await?;
        let (position, acked) = (begun.position, begun.standing.memory.acked.seq);
        let (after, tally) = (position.after, position.tally);
        if ask.seq > acked {
            let record =
                origin.record_ack(position.epoch, Checkpoint::new(after, tally), None, false).await;
            if !hub.checked(record)? {
                return Err(stale_epoch(position.epoch));
            }
            let before = begun.standing.memory.acked.tally;
            hub.metrics.traffic.sent.entries.add(carried(before, tally));
        }
        let path = match asker {
            Asker::Agent => {
                let at = (position.epoch, position.after);
                hub.paths.begin(&caller.client, at, Instant::now())
            }
            Asker::Program => LinkPath::default(),
        };
        let count = path.limit().map_or(count, |limit| count.min(limit.entries));
        let bytes_max =
            path.limit().map_or(BATCH_BYTES_MAX, |limit| limit.bytes.min(BATCH_BYTES_MAX));
        let granted = ReceiveLimits { batch_entries: count, ..ReceiveLimits::default() };
        let mut sender =
            Sender::new(Direction::Down, granted, TrimMode::Keep, &begun).with_path(&path);
        sender.handle_news();
        let mut given = Push { epoch: position.epoch, after, through: after, ..Push::default() };
        given.account.tally = tally;
        Ok(Self {
            hub,
            client: &caller.client,
            asker,
            origin,
            sender,
            epoch: position.epoch,
            count,
            bytes_max,
            given,
        })
    }

    /// At most one batch. It ends behind what was read, entries that can never be sent included.
    async fn read(&mut self) -> Result<(Push, Charge), ApiError> {
        let _turn = self.hub.shares.turn(self.client).await;
        let charge = self.hub.budget.take(self.client, ANSWER_BYTES, BUDGET_PATIENCE).await?;
        let push = self.gather().await?;
        let mut charge = charge;
        charge.shrink(BUDGET_COPIES * push.bytes());
        Ok((push, charge))
    }

    /// Whether the answer arrives shows with the place that the next request names.
    fn note_given(&self, push: &Push) {
        let Some(first) = push.entries.first().filter(|_| self.asker == Asker::Agent) else {
            return;
        };
        let (entries, bytes) = (push.entries.len(), push.bytes());
        let under_way = UnackedAtEnd { first: first.seq, through: push.through, entries, bytes };
        let begun = (push.epoch, push.after);
        let trip = SessionSummary {
            start: begun,
            acked: push.after,
            limit: None,
            unacked: Some(under_way),
        };
        self.hub.paths.end(self.client, &trip, SessionEnding::Broken, Instant::now());
    }

    async fn gather(&mut self) -> Result<Push, ApiError> {
        loop {
            while let Some(task) = self.sender.poll_task(Instant::now()) {
                self.perform(task).await?;
            }
            if self.given.entries.len() + self.sender.next_entries() > self.count {
                return Ok(self.given.clone());
            }
            let charge: usize = self.given.entries.iter().map(Entry::charged_bytes).sum();
            if charge > 0 && charge + self.sender.next_charged_bytes() > self.bytes_max {
                return Ok(self.given.clone());
            }
            let Some(push) = self.sender.poll_push(Instant::now()) else {
                return Ok(self.given.clone());
            };
            // What is given out makes room for more: the answer is bounded here.
            let (epoch, seq) = (push.epoch, push.through);
            let acked = self.sender.handle_ack(Ack { epoch, seq, refused: vec![] }, Instant::now());
            debug_assert!(acked.is_ok(), "what was polled was sent");
            let given = &mut self.given;
            given.through = push.through;
            given.entries.extend(push.entries);
            given.account.tally = push.account.tally;
            given.seal = push.seal;
            given.account.losses.extend(push.account.losses);
            given.account.is_inherited |= push.account.is_inherited;
            let bytes: usize = given.entries.iter().map(Entry::bytes).sum();
            if given.entries.len() >= self.count || bytes >= self.bytes_max / 2 {
                return Ok(given.clone());
            }
        }
    }

    async fn perform(&mut self, task: OriginTask) -> Result<(), ApiError> {
        match &task {
            // The caller acknowledges with its next request.
            OriginTask::RecordAck { .. } => {
                self.sender.handle_ack_recorded();
                return Ok(());
            }
            OriginTask::RecordLosses(losses, _) => {
                losses.iter().for_each(|loss| self.hub.say_loss(loss));
            }
            OriginTask::Read { .. } | OriginTask::DeadLetter(_) => {}
        }
        self.hub.metrics.traffic.handle_task(&task);
        match self.hub.checked(self.origin.perform(self.epoch, &task, unix_ms()).await)? {
            TaskResult::Read(read) => self.sender.handle_read(read, Instant::now()),
            TaskResult::OriginChanged => return Err(stale_epoch(self.epoch)),
            TaskResult::DeadLettered => self.sender.handle_dead_lettered(),
            TaskResult::LossesRecorded => self.sender.handle_losses_recorded(),
            TaskResult::AckRecorded => self.sender.handle_ack_recorded(),
        }
        Ok(())
    }
}

/// Where the caller stands, by the same proof as in a handshake.
async fn place(
    hub: &Hub,
    origin: &OriginStore,
    caller: &Caller,
    ask: &Xread,
    standing: OriginStanding,
) -> Result<SenderStart, ApiError> {
    let known = standing.memory.epoch.max(Epoch::FIRST);
    let epoch = if ask.seq.is_zero() { Epoch::UNKNOWN } else { ask.epoch.unwrap_or(known) };
    let (acked, mark) = (standing.memory.acked, standing.memory.high_water_mark);
    let tally = match ask.tally {
        told if !told.is_unknown() => told,
        _ if mark.seq == ask.seq => ask.tally.at_end(mark.added),
        _ if acked.seq == ask.seq => acked.tally,
        unknown => unknown,
    };
    // A request says how far it got, by the word of who made it.
    let seal = standing.memory.seal_key.map(|key| key.seal(epoch, ask.seq, tally));
    let cursor = Cursor { epoch, seq: ask.seq, tally, seal, ..Cursor::default() };
    let mut position = resume::find_position(&standing, &cursor, None, PartnerMatch::Same);
    if position.finding == ResumeFinding::OriginReplaced {
        // Only who speaks of epochs can follow one, and a session does that with its handshake.
        let is_sane = ask.seq.ms <= unix_ms() + SEQ_AHEAD_MAX.as_millis() as u64;
        if caller.generation.is_none() && ask.epoch == Some(known) && is_sane {
            let begun =
                hub.checked(origin.start_sender(&cursor, &StartWith::SAME, unix_ms()).await)?;
            return Err(stale_epoch(begun.position.epoch));
        }
        return Err(stale_epoch(known));
    }
    if ask.epoch.is_some_and(|asked| asked != position.epoch) {
        return Err(stale_epoch(position.epoch));
    }
    if position.epoch != standing.memory.epoch {
        return hub.checked(origin.start_sender(&cursor, &StartWith::SAME, unix_ms()).await);
    }
    // Who names an epoch and nothing of it yet begins where it does. A session names just the place that
    // its handshake has proved: a copy that was wiped begins with all that is still there.
    if caller.generation.is_none()
        && ask.epoch.is_some()
        && ask.seq.is_zero()
        && let Some(life) = standing.memory.epochs.last()
    {
        (position.after, position.tally) = (life.start.seq, life.start.tally);
    }
    Ok(SenderStart { position, standing })
}
