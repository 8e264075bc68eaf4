//! The sender's work at its own origin: reads entries and cuts them into batches, has dead letters and
//! losses written, and records acknowledgements.

use std::{collections::VecDeque, time::Instant};

use super::{
    Sender, batching,
    task::{BlockedTask, OriginRead, OriginTask, ReadSize},
};
use crate::{
    entry::{Direction, Entry},
    limits::RECORD_INTERVAL,
    loss::{BatchAccount, Checkpoint},
    message::{Push, ReceiveLimits},
    seq::Seq,
    sync::loss_accounting,
};

impl Sender {
    /// Takes the result of [`OriginTask::Read`].
    pub fn handle_read(
        &mut self,
        OriginRead { mut entries, extent, is_end }: OriginRead,
        now: Instant,
    ) {
        self.is_reading = false;
        self.hold_back_future(&mut entries, now);
        self.high_water_mark = self.high_water_mark.max(extent.last);
        self.stats.added = extent.added;
        // News during the read has set this again.
        self.has_news |= !is_end && self.ahead_of_clock.is_none();
        let is_end = is_end && self.ahead_of_clock.is_none();
        if self.ahead_of_clock.is_some() && entries.is_empty() {
            return;
        }
        let (after, place) = (self.read_through.seq, self.read_through);
        let (losses, tally) =
            loss_accounting::find_missing(self.epoch, place, self.acked_before, &extent);
        if !losses.is_empty() && !self.in_flight.is_empty() {
            // Losses are counted from the copy's cursor, as the next session would count them: read again
            // once everything before them is acknowledged.
            (self.awaits_acks, self.has_news) = (true, true);
            return;
        }
        let is_news = !losses.is_empty() || !self.unsent_losses.is_empty() || !entries.is_empty();
        let through = match entries.last() {
            Some(last) if !is_end => last.seq,
            // Deleted entries may follow the last one.
            _ => extent.last.max(after),
        };
        if !is_news || through == after {
            return;
        }
        let (epoch, acked) = (self.epoch, self.acked_before);
        if let Some(found) =
            loss_accounting::find_unrecorded(epoch, place, acked, &extent, self.recorded_losses)
        {
            self.stats.lost_entries += found.0.iter().filter_map(|loss| loss.count).sum::<u64>();
            // This replaces the last record, which the copy may have acknowledged.
            (self.recorded_losses, self.losses_acked) = (Some(found.1), false);
            self.pending_losses = Some(found);
        }
        self.unsent_losses.extend(losses);
        let joins_after = std::mem::replace(&mut self.joins_after, through);
        let (mut batches, dead_letters) = batching::split(
            self.direction,
            &self.effective_limits(),
            epoch,
            Checkpoint::new(joins_after, tally),
            entries,
        );
        if batches.is_empty() {
            let account = BatchAccount { tally, ..BatchAccount::default() };
            batches.push_back(Push {
                epoch,
                after: joins_after,
                through,
                account,
                ..Push::default()
            });
        }
        self.complete_accounts(&mut batches, (after, through), is_end.then_some(extent.added));
        self.read_through =
            Checkpoint::new(through, batches.back().map_or(tally, |push| push.account.tally));
        self.ready.extend(batches);
        let written = self.dead_lettered;
        self.dead_letters.extend(dead_letters.into_iter().filter(|(seq, _)| *seq > written));
    }

    /// Drops the entries from the first one that is too far ahead of the peer's clock. They stay in the stream,
    /// and are carried once the clock has come near enough.
    fn hold_back_future(&mut self, entries: &mut Vec<Entry>, now: Instant) {
        let Some(ceiling) = self.peer_clock.map(|clock| clock.ceiling(now)) else { return };
        let at = entries.iter().position(|entry| entry.seq > ceiling);
        let since = self.ahead_of_clock.map_or(now, |(_, since)| since);
        self.ahead_of_clock = at.map(|at| (entries[at].seq, since));
        entries.truncate(at.unwrap_or(entries.len()));
    }

    /// Adds the losses to the first batch, the end of the stream to the last one, and marks the inherited ones.
    fn complete_accounts(
        &mut self,
        batches: &mut VecDeque<Push>,
        (mut after, through): (Seq, Seq),
        added: Option<u64>,
    ) {
        if let Some(first) = batches.front_mut() {
            first.account.losses = std::mem::take(&mut self.unsent_losses);
        }
        if let Some(last) = batches.back_mut() {
            last.through = through;
            let tally = last.account.tally;
            last.account.tally = added.map_or(tally, |added| tally.at_end(added));
        }
        for push in batches {
            push.account.is_inherited = after < self.inherited;
            after = push.through;
        }
    }

    /// Takes note that a task failed because the origin's keys cannot be used. The task is tried again at
    /// `retry_at`; once it succeeds, the session has to end.
    pub fn handle_unreadable(&mut self, task: OriginTask, retry_at: Instant) {
        self.blocked =
            Some(Box::new(BlockedTask { task, retry_at: Some(retry_at), is_running: false }));
    }

    /// Returns whether the origin's keys cannot be used.
    pub fn is_unreadable(&self) -> bool {
        self.blocked.is_some()
    }

    /// Returns whether this is the task that is being tried again.
    pub fn is_retried(&self, task: &OriginTask) -> bool {
        self.blocked.as_ref().is_some_and(|blocked| blocked.is_running && blocked.task == *task)
    }

    /// Takes note that [`OriginTask::DeadLetter`] is done.
    pub fn handle_dead_lettered(&mut self) {
        self.is_dead_lettering = false;
    }

    /// Takes note that [`OriginTask::RecordLosses`] is done.
    pub fn handle_losses_recorded(&mut self) {
        self.is_recording_losses = false;
    }

    /// Takes note that [`OriginTask::RecordAck`] is done.
    pub fn handle_ack_recorded(&mut self) {
        self.is_recording_ack = false;
    }

    /// Returns the next task for the store.
    pub fn poll_task(&mut self, now: Instant) -> Option<OriginTask> {
        if let Some(blocked) = &mut self.blocked {
            return blocked.poll(now);
        }
        if !self.dead_letters.is_empty() && !self.is_dead_lettering {
            self.is_dead_lettering = true;
            let dead_letters = std::mem::take(&mut self.dead_letters);
            let last = dead_letters.iter().map(|(seq, _)| *seq).max().unwrap_or_default();
            self.dead_lettered = self.dead_lettered.max(last);
            return Some(OriginTask::DeadLetter(dead_letters));
        }
        if !self.is_recording_losses
            && let Some((losses, record)) = self.pending_losses.take()
        {
            self.is_recording_losses = true;
            return Some(OriginTask::RecordLosses(losses, record));
        }
        self.awaits_acks &= !self.in_flight.is_empty();
        let may_read = !self.is_reading && !self.awaits_acks && !self.is_on_hold;
        if self.has_news && may_read && self.ready.is_empty() {
            self.has_news = false;
            self.is_reading = true;
            let ReceiveLimits { batch_entries: entries, batch_bytes: bytes, .. } =
                self.effective_limits();
            let (after, batch) = (self.read_through.seq, ReadSize { entries, bytes });
            let high_water_mark = self.high_water_mark;
            return Some(OriginTask::Read { after, batch, high_water_mark });
        }
        self.poll_record(now)
    }

    fn poll_record(&mut self, now: Instant) -> Option<OriginTask> {
        let is_due = self.has_unrecorded() && self.record_due_at.is_none_or(|due_at| due_at <= now);
        if !is_due {
            return None;
        }
        self.is_recording_ack = true;
        self.record_due_at = Some(now + RECORD_INTERVAL);
        Some(self.take_record())
    }

    /// Returns when a task that failed is tried again.
    pub fn retry_at(&self) -> Option<Instant> {
        self.blocked.as_ref().filter(|blocked| !blocked.is_running)?.retry_at
    }

    /// Returns when [`Self::poll_task`] has the next [`OriginTask::RecordAck`]. The first is due at once. While
    /// entries flow, one record stands for many acknowledgements: a record that is late or missing only makes
    /// the next handshake look at more.
    pub fn record_due(&self) -> Option<Instant> {
        self.record_due_at.filter(|_| self.has_unrecorded())
    }

    /// Returns the last record of a device's session, so that a session with another hub, or under another
    /// name, begins exactly there. A hub writes none: thousands of its sessions end together, and the next
    /// handshake looks at a little more.
    pub fn poll_final_record(&mut self) -> Option<OriginTask> {
        let is_due = self.direction == Direction::Up && self.recorded_ack != self.acked.seq;
        is_due.then(|| self.take_record())
    }

    fn take_record(&mut self) -> OriginTask {
        self.recorded_ack = self.acked.seq;
        let clears_recorded_losses = std::mem::take(&mut self.losses_acked);
        let (acked, trim_through) = (self.acked, self.trim_queue.poll_trim());
        OriginTask::RecordAck { acked, trim_through, clears_recorded_losses }
    }

    fn has_unrecorded(&self) -> bool {
        self.recorded_ack != self.acked.seq && !self.is_recording_ack
    }
}
