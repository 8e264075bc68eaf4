//! Reads the entries for a client, over HTTP and over `spoke.v1.json` alike.
//!
//! A request is a session with one answer: it starts at the caller's cursor, with the same proof
//! and the same sender, and the next request acknowledges it with its cursor.

use std::{
    cmp::Ordering,
    pin::pin,
    time::{Duration, Instant},
};

use http::StatusCode;
use serde::Deserialize;
use spoke_diagnostics::unix_ms;
use spoke_protocol::{
    Checkpoint, ClientId, Direction, Entry, Epoch, PartnerMatch, Seq, Tally,
    limits::{BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, BLOCK_MAX, SEQ_AHEAD_MAX},
    message::{Ack, Cursor, GoawayReason, Push, ReceiveLimits},
    sync::{
        LinkPath, OriginStanding, OriginTask, ResumeFinding, Sender, SenderStart, SessionEnding,
        SessionSummary, TrimMode, UnackedAtEnd, find_position,
    },
    wire::json::XreadBody,
};
use spoke_service::api_error::ApiError;
use spoke_store::{OriginStore, StartWith, TaskResult, presence};

use crate::{
    authenticate::{Caller, malformed, unauthorized},
    limits::{BUDGET_COPIES, BUDGET_PATIENCE},
    memory_budget::MemoryCharge,
    state::{HubState, stale_epoch, superseded},
    token_watch::{TokenKey, token_ended},
};

/// Charge of an answer before its size is known: the entries, a page of them as Redis returns it,
/// and the JSON. An answer with one large entry is larger, and rare.
const ANSWER_BYTES: usize = BUDGET_COPIES * BATCH_BYTES_MAX;

/// Parameters of `xread`.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct XreadRequest {
    /// Cursor; all entries up to it are acknowledged.
    #[serde(default)]
    pub seq: Seq,
    /// Tally at the cursor, from the answer that ended there.
    #[serde(default)]
    pub tally: Tally,
    /// Epoch that `seq` belongs to, if the caller knows it.
    #[serde(default)]
    pub epoch: Option<Epoch>,
    /// Maximum number of entries.
    #[serde(default)]
    pub count: Option<u64>,
    /// Maximum wait for new entries.
    #[serde(default)]
    pub block_ms: u64,
}

/// Kind of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallerKind {
    /// Agent in a session: a repeated cursor means that the answer did not arrive.
    Agent,
    /// Another program, which may repeat a cursor as often as it likes.
    Program,
}

/// Reads the entries after `ask.seq`, and waits for new ones if requested. The answer is charged
/// until it is sent, as entries and as JSON.
///
/// # Errors
/// 400, 409, 429, 503.
pub(crate) async fn xread(
    hub: &HubState,
    caller: &Caller,
    caller_kind: CallerKind,
    ask: XreadRequest,
) -> Result<(XreadBody, MemoryCharge), ApiError> {
    let count = match ask.count.unwrap_or(BATCH_ENTRIES_MAX as u64) {
        0 => return Err(malformed("invalid count: expected an integer of 1 or more")),
        count => count.min(BATCH_ENTRIES_MAX as u64) as usize,
    };
    let until = Instant::now() + Duration::from_millis(ask.block_ms).min(BLOCK_MAX);
    let mut reader = AnswerReader::begin(hub, caller, caller_kind, (&ask, count)).await?;
    let (first, charge) = reader.read().await?;
    if !is_empty_answer(&first) || ask.block_ms == 0 {
        reader.note_sent(&first);
        return Ok((answer(hub, first), charge));
    }
    // A waiting request holds no memory of the budget.
    let mut charge = charge;
    charge.shrink(0);
    let (_guard, stopped) = hub.connections.register_read(&caller.client, caller.generation)?;
    let mut stopped = pin!(stopped);
    let session = TokenKey::of(hub, caller);
    let mut token_ended = pin!(token_ended(hub, caller, &session));
    let news = hub.hints.watch_stream(reader.origin.key());
    loop {
        tokio::select! {
            () = news.changed() => {}
            () = hub.shutdown.begun() => return Ok((answer(hub, first), charge)),
            Ok(_) = &mut stopped => return Err(superseded()),
            goaway = &mut token_ended => return match goaway.reason {
                // The next request is counted at the new rate.
                GoawayReason::Restart => Ok((answer(hub, first), charge)),
                _ => Err(unauthorized(hub)),
            },
            () = tokio::time::sleep_until(until.into()) => return Ok((answer(hub, first), charge)),
        }
        check_generation(hub, caller).await?;
        reader.sender.handle_news();
        let (push, charge) = reader.read().await?;
        news.handle_read_through(reader.sender.read_through());
        if is_empty_answer(&push) {
            continue;
        }
        // New entries may arrive before the hint that the session ended: check the session after
        // the read, so that no entry added after its end is returned.
        if hub.store_result(hub.sessions.find_client_by_key(&session.get()).await)?.is_none() {
            return Err(unauthorized(hub));
        }
        reader.note_sent(&push);
        return Ok((answer(hub, push), charge));
    }
}

/// Returns whether the answer only repeats the caller's cursor.
fn is_empty_answer(push: &Push) -> bool {
    push.entries.is_empty() && push.account.losses.is_empty()
}

/// Returns the number of entries between two tallies, or 0 if unknown.
fn entries_between(before: Tally, after: Tally) -> u64 {
    if before.is_unknown() || after.is_unknown() {
        return 0;
    }
    let carried = |tally: Tally| tally.added - tally.dead - tally.lost;
    carried(after).saturating_sub(carried(before))
}

fn answer(hub: &HubState, push: Push) -> XreadBody {
    let sent = &hub.metrics.traffic.sent;
    sent.batches.add(u64::from(!push.entries.is_empty()));
    sent.bytes.add(push.bytes() as u64);
    let Push { epoch, through, entries, account, seal, .. } = push;
    let entries = entries.into_iter().map(Into::into).collect();
    XreadBody { epoch, entries, seq: through, account, seal }
}

async fn check_generation(hub: &HubState, caller: &Caller) -> Result<(), ApiError> {
    let Some(ours) = caller.generation else { return Ok(()) };
    let partition = hub.partitions.of(&caller.client);
    let newest = presence::generation(partition.redis(), partition.keys(), &caller.client).await;
    match hub.store_result(newest)?.cmp(&ours) {
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(superseded()),
        Ordering::Less => {
            let message = "unknown session: the hub's redis no longer has it; start a new one";
            Err(ApiError::new(StatusCode::CONFLICT, "gap", message))
        }
    }
}

struct AnswerReader<'a> {
    hub: &'a HubState,
    client: &'a ClientId,
    caller_kind: CallerKind,
    origin: OriginStore,
    sender: Sender,
    epoch: Epoch,
    count: usize,
    /// Maximum bytes of an answer with more than one entry.
    bytes_max: usize,
    /// Start of the answer, and its entries so far.
    answered: Push,
}

impl<'a> AnswerReader<'a> {
    /// Checks the caller's cursor against the stream, and records its acknowledgement.
    async fn begin(
        hub: &'a HubState,
        caller: &'a Caller,
        caller_kind: CallerKind,
        (ask, count): (&XreadRequest, usize),
    ) -> Result<Self, ApiError> {
        check_generation(hub, caller).await?;
        let origin = hub.origin(&caller.client);
        if caller.generation.is_some() {
            hub.store_result(origin.touch(unix_ms()).await)?;
        }
        let standing = hub.store_result(origin.standing().await)?;
        let begun = find_start(hub, &origin, caller, ask, standing).await?;
        let (position, acked) = (begun.position, begun.standing.memory.acked.seq);
        let (after, tally) = (position.after, position.tally);
        if ask.seq > acked {
            let record =
                origin.record_ack(position.epoch, Checkpoint::new(after, tally), None, false).await;
            if !hub.store_result(record)? {
                return Err(stale_epoch(position.epoch));
            }
            let before = begun.standing.memory.acked.tally;
            hub.metrics.traffic.sent.entries.add(entries_between(before, tally));
        }
        let path = match caller_kind {
            CallerKind::Agent => {
                let at = (position.epoch, position.after);
                hub.link_paths.begin(&caller.client, at, Instant::now())
            }
            CallerKind::Program => LinkPath::default(),
        };
        let count = path.limit().map_or(count, |limit| count.min(limit.entries));
        let bytes_max =
            path.limit().map_or(BATCH_BYTES_MAX, |limit| limit.bytes.min(BATCH_BYTES_MAX));
        let granted = ReceiveLimits { batch_entries: count, ..ReceiveLimits::default() };
        let mut sender =
            Sender::new(Direction::Down, granted, TrimMode::Keep, &begun).with_path(&path);
        sender.handle_news();
        let mut answered = Push { epoch: position.epoch, after, through: after, ..Push::default() };
        answered.account.tally = tally;
        Ok(Self {
            hub,
            client: &caller.client,
            caller_kind,
            origin,
            sender,
            epoch: position.epoch,
            count,
            bytes_max,
            answered,
        })
    }

    /// Reads at most one batch. It ends after the last entry read, including entries that cannot be
    /// sent.
    async fn read(&mut self) -> Result<(Push, MemoryCharge), ApiError> {
        let _permit = self.hub.client_limits.read_permit(self.client).await;
        let charge = self.hub.budget.take(self.client, ANSWER_BYTES, BUDGET_PATIENCE).await?;
        let push = self.fill_answer().await?;
        let mut charge = charge;
        charge.shrink(BUDGET_COPIES * push.bytes());
        Ok((push, charge))
    }

    /// Notes the answer as sent; the cursor of the next request tells whether it arrived.
    fn note_sent(&self, push: &Push) {
        let Some(first) = push.entries.first().filter(|_| self.caller_kind == CallerKind::Agent)
        else {
            return;
        };
        let (entries, bytes) = (push.entries.len(), push.bytes());
        let under_way = UnackedAtEnd { first: first.seq, through: push.through, entries, bytes };
        let start = (push.epoch, push.after);
        let trip =
            SessionSummary { start, acked: push.after, limit: None, unacked: Some(under_way) };
        self.hub.link_paths.end(self.client, &trip, SessionEnding::Broken, Instant::now());
    }

    async fn fill_answer(&mut self) -> Result<Push, ApiError> {
        loop {
            while let Some(task) = self.sender.poll_task(Instant::now()) {
                self.perform(task).await?;
            }
            if self.answered.entries.len() + self.sender.next_entries() > self.count {
                return Ok(self.answered.clone());
            }
            let charge: usize = self.answered.entries.iter().map(Entry::charged_bytes).sum();
            if charge > 0 && charge + self.sender.next_charged_bytes() > self.bytes_max {
                return Ok(self.answered.clone());
            }
            let Some(push) = self.sender.poll_push(Instant::now()) else {
                return Ok(self.answered.clone());
            };
            // The answer is bounded here, so the entries need no window.
            let (epoch, seq) = (push.epoch, push.through);
            let acked = self.sender.handle_ack(Ack { epoch, seq, refused: vec![] }, Instant::now());
            debug_assert!(acked.is_ok(), "the acknowledged batch was sent");
            let answered = &mut self.answered;
            answered.through = push.through;
            answered.entries.extend(push.entries);
            answered.account.tally = push.account.tally;
            answered.seal = push.seal;
            answered.account.losses.extend(push.account.losses);
            answered.account.is_inherited |= push.account.is_inherited;
            let bytes: usize = answered.entries.iter().map(Entry::bytes).sum();
            if answered.entries.len() >= self.count || bytes >= self.bytes_max / 2 {
                return Ok(answered.clone());
            }
        }
    }

    async fn perform(&mut self, task: OriginTask) -> Result<(), ApiError> {
        match &task {
            // The next request of the caller acknowledges.
            OriginTask::RecordAck { .. } => {
                self.sender.handle_ack_recorded();
                return Ok(());
            }
            OriginTask::RecordLosses(losses, _) => {
                losses.iter().for_each(|loss| self.hub.log_loss(loss));
            }
            OriginTask::Read { .. } | OriginTask::DeadLetter(_) => {}
        }
        self.hub.metrics.traffic.handle_task(&task);
        match self.hub.store_result(self.origin.perform(self.epoch, &task, unix_ms()).await)? {
            TaskResult::Read(read) => self.sender.handle_read(read, Instant::now()),
            TaskResult::OriginChanged => return Err(stale_epoch(self.epoch)),
            TaskResult::DeadLettered => self.sender.handle_dead_lettered(),
            TaskResult::LossesRecorded => self.sender.handle_losses_recorded(),
            TaskResult::AckRecorded => self.sender.handle_ack_recorded(),
        }
        Ok(())
    }
}

/// Finds the caller's position, with the same proof as in a handshake.
async fn find_start(
    hub: &HubState,
    origin: &OriginStore,
    caller: &Caller,
    ask: &XreadRequest,
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
    // The seal covers the cursor of the request as the caller states it.
    let seal = standing.memory.seal_key.map(|key| key.seal(epoch, ask.seq, tally));
    let cursor = Cursor { epoch, seq: ask.seq, tally, seal, ..Cursor::default() };
    let mut position = find_position(&standing, &cursor, None, PartnerMatch::Same);
    if position.finding == ResumeFinding::OriginReplaced {
        // Only a caller that names epochs can follow a new one; a session starts it in its
        // handshake.
        let is_sane = ask.seq.ms <= unix_ms() + SEQ_AHEAD_MAX.as_millis() as u64;
        if caller.generation.is_none() && ask.epoch == Some(known) && is_sane {
            let begun =
                hub.store_result(origin.start_sender(&cursor, &StartWith::SAME, unix_ms()).await)?;
            return Err(stale_epoch(begun.position.epoch));
        }
        return Err(stale_epoch(known));
    }
    if ask.epoch.is_some_and(|asked| asked != position.epoch) {
        return Err(stale_epoch(position.epoch));
    }
    if position.epoch != standing.memory.epoch {
        return hub.store_result(origin.start_sender(&cursor, &StartWith::SAME, unix_ms()).await);
    }
    // A caller that names an epoch without a cursor starts at the epoch's start. A session starts
    // at the cursor that its handshake has proved: a wiped copy gets all entries that are left.
    if caller.generation.is_none()
        && ask.epoch.is_some()
        && ask.seq.is_zero()
        && let Some(life) = standing.memory.epochs.last()
    {
        (position.after, position.tally) = (life.start.seq, life.start.tally);
    }
    Ok(SenderStart { position, standing })
}
