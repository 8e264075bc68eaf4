//! The sender's work at its own origin: it reads entries and cuts them into batches, has dead letters and
//! losses written down, and records what was acknowledged.

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
    sync::accounting,
};

impl Sender {
    /// What a read brought.
    pub fn handle_read(
        &mut self,
        OriginRead { mut entries, extent, is_end }: OriginRead,
        now: Instant,
    ) {
        self.is_reading = false;
        self.keep_back(&mut entries, now);
        self.mark = self.mark.max(extent.last);
        self.stats.added = extent.added;
        // News that came while the read was under way has set this again.
        self.has_news |= !is_end && self.ahead_of_clock.is_none();
        let is_end = is_end && self.ahead_of_clock.is_none();
        if self.ahead_of_clock.is_some() && entries.is_empty() {
            return;
        }
        let (after, place) = (self.read.seq, self.read);
        let (losses, tally) =
            accounting::find_missing(self.epoch, place, self.acked_before, &extent);
        if !losses.is_empty() && !self.flights.is_empty() {
            // Losses are counted from the copy's cursor, where the next session would count from: look
            // again once all before them is acknowledged.
            (self.awaits_acks, self.has_news) = (true, true);
            return;
        }
        let is_news = !losses.is_empty() || !self.untold.is_empty() || !entries.is_empty();
        let through = match entries.last() {
            Some(last) if !is_end => last.seq,
            // Deleted entries may stand behind the last one.
            _ => extent.last.max(after),
        };
        if !is_news || through == after {
            return;
        }
        let (epoch, acked) = (self.epoch, self.acked_before);
        if let Some(due) = accounting::find_unrecorded(epoch, place, acked, &extent, self.written) {
            self.stats.lost_entries += due.0.iter().filter_map(|loss| loss.count).sum::<u64>();
            // It takes the place of the last one, of which the copy may have heard.
            (self.written, self.is_told) = (Some(due.1), false);
            self.losses = Some(due);
        }
        self.untold.extend(losses);
        let joint = std::mem::replace(&mut self.joint, through);
        let (mut batches, letters) =
            batching::split(self.direction, &self.fitting(), (epoch, joint, tally), entries);
        if batches.is_empty() {
            let account = BatchAccount { tally, ..BatchAccount::default() };
            batches.push_back(Push { epoch, after: joint, through, account, ..Push::default() });
        }
        self.finish(&mut batches, (after, through), is_end.then_some(extent.added));
        self.read =
            Checkpoint::new(through, batches.back().map_or(tally, |push| push.account.tally));
        self.ready.extend(batches);
        let buried = self.buried;
        self.letters.extend(letters.into_iter().filter(|(seq, _)| *seq > buried));
    }

    /// What is too far ahead stays where it is, and what comes behind it with it: nothing is lost, and
    /// it is carried once the clock has come near enough.
    fn keep_back(&mut self, entries: &mut Vec<Entry>, now: Instant) {
        let Some(ceiling) = self.clock.map(|clock| clock.ceiling(now)) else { return };
        let at = entries.iter().position(|entry| entry.seq > ceiling);
        let since = self.ahead_of_clock.map_or(now, |(_, since)| since);
        self.ahead_of_clock = at.map(|at| (entries[at].seq, since));
        entries.truncate(at.unwrap_or(entries.len()));
    }

    /// The losses go with the first batch; the last one knows how many entries there are.
    fn finish(
        &mut self,
        batches: &mut VecDeque<Push>,
        (mut after, through): (Seq, Seq),
        added: Option<u64>,
    ) {
        if let Some(first) = batches.front_mut() {
            first.account.losses = std::mem::take(&mut self.untold);
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

    /// The origin cannot be used as it is. The task is tried again at `again_at`; once it can be done the
    /// session has to end.
    pub fn handle_unreadable(&mut self, task: OriginTask, again_at: Instant) {
        self.undone =
            Some(Box::new(BlockedTask { task, again_at: Some(again_at), is_tried: false }));
    }

    /// Whether that is so.
    pub fn is_unreadable(&self) -> bool {
        self.undone.is_some()
    }

    /// Whether this is the answer to the task that is tried again.
    pub fn is_retried(&self, task: &OriginTask) -> bool {
        self.undone.as_ref().is_some_and(|undone| undone.is_tried && undone.task == *task)
    }

    /// The dead letters that `OriginTask::DeadLetter` named are written.
    pub fn handle_dead_lettered(&mut self) {
        self.is_burying = false;
    }

    /// The losses that `OriginTask::RecordLosses` named are in the ledger.
    pub fn handle_losses_recorded(&mut self) {
        self.is_writing = false;
    }

    /// What `OriginTask::RecordAck` named is written down.
    pub fn handle_ack_recorded(&mut self) {
        self.is_recording = false;
    }

    /// The next thing to do at the store.
    pub fn poll_task(&mut self, now: Instant) -> Option<OriginTask> {
        if let Some(undone) = &mut self.undone {
            return undone.poll(now);
        }
        if !self.letters.is_empty() && !self.is_burying {
            self.is_burying = true;
            let letters = std::mem::take(&mut self.letters);
            let last = letters.iter().map(|(seq, _)| *seq).max().unwrap_or_default();
            self.buried = self.buried.max(last);
            return Some(OriginTask::DeadLetter(letters));
        }
        if !self.is_writing
            && let Some((losses, written)) = self.losses.take()
        {
            self.is_writing = true;
            return Some(OriginTask::RecordLosses(losses, written));
        }
        self.awaits_acks &= !self.flights.is_empty();
        let may_read = !self.is_reading && !self.awaits_acks && !self.is_refused;
        if self.has_news && may_read && self.ready.is_empty() {
            self.has_news = false;
            self.is_reading = true;
            let ReceiveLimits { batch_entries: entries, batch_bytes: bytes, .. } = self.fitting();
            let (after, batch, mark) = (self.read.seq, ReadSize { entries, bytes }, self.mark);
            return Some(OriginTask::Read { after, batch, high_water_mark: mark });
        }
        self.poll_record(now)
    }

    fn poll_record(&mut self, now: Instant) -> Option<OriginTask> {
        let is_due = self.has_unrecorded() && self.record_from.is_none_or(|from| from <= now);
        if !is_due {
            return None;
        }
        self.is_recording = true;
        self.record_from = Some(now + RECORD_INTERVAL);
        Some(self.record())
    }

    /// When an origin that cannot be read is tried again.
    pub fn retry_at(&self) -> Option<Instant> {
        self.undone.as_ref().filter(|undone| !undone.is_tried)?.again_at
    }

    /// When `poll_task` next has a `OriginTask::RecordAck`, if nothing happens before. The first is due at
    /// once; while entries flow one stands for many, since one that is late, or was never written,
    /// only makes the next handshake look at more.
    pub fn record_due(&self) -> Option<Instant> {
        self.record_from.filter(|_| self.has_unrecorded())
    }

    /// What a device writes down at the end of a session, so that the next hub, or the next name, begins
    /// just there. At a hub, where thousands end together, the next handshake looks at a little more.
    pub fn poll_final_record(&mut self) -> Option<OriginTask> {
        let is_due = self.direction == Direction::Up && self.recorded != self.acked;
        is_due.then(|| self.record())
    }

    fn record(&mut self) -> OriginTask {
        self.recorded = self.acked;
        let is_told = std::mem::take(&mut self.is_told);
        let acked = Checkpoint::new(self.acked, self.acked_tally);
        let trim = self.slack.poll_trim();
        OriginTask::RecordAck { acked, trim_through: trim, clears_recorded_losses: is_told }
    }

    fn has_unrecorded(&self) -> bool {
        self.recorded != self.acked && !self.is_recording
    }
}
