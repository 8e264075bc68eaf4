//! A model of a Redis, as the protocol uses it. A rewind drops the latest writes of all its data together.

use bytes::Bytes;

use crate::{
    entry::{Direction, Entry},
    loss::{Loss, LossCause},
    message::Cursor,
    partner::{Partner, PartnerMatch},
    seal::SealKey,
    seq::{Epoch, Seq},
    sync::{
        dedup::{CopiedEntry, CopyIndex, UncertainRange},
        loss_accounting::Extent,
        receiver::{Append, AppendResult},
        resume::{self, HighWaterMark, OriginMemory, OriginStanding, SenderStart},
        sender::{OriginRead, OriginTask},
    },
};

/// The Redis of a device, with one client, or of the hub, with all clients.
#[derive(Clone)]
pub(super) struct ModelRedis {
    pub(super) clients: Vec<ModelClient>,
    /// The in stream, in order of arrival.
    pub(super) copy: Vec<(usize, Epoch, Entry)>,
    /// The direction of its own origins.
    pub(super) direction: Direction,
    pub(super) ledger: Vec<(usize, Direction, Loss)>,
    /// The identity of the hub.
    pub(super) identity: u8,
}

/// The data of one client.
#[derive(Clone, Default)]
pub(super) struct ModelClient {
    pub(super) entries: Vec<Entry>,
    /// The payloads of all entries ever added, as far as this state of the Redis has them.
    pub(super) payloads_added: Vec<Bytes>,
    last: Seq,
    added: u64,
    deleted: Seq,
    /// The position of the consumer group.
    last_delivered: Option<Seq>,
    memory: OriginMemory,
    pub(super) dead: Vec<Seq>,
    pub(super) cursor: Cursor,
    generation: u64,
}

impl ModelClient {
    /// XADD by an app. The clock may be behind.
    pub(super) fn add(&mut self, clock: u64, (name, payload): (Bytes, Bytes)) -> Seq {
        let seq = Seq::new(clock, 0).max(self.last.after());
        (self.last, self.added) = (seq, self.added + 1);
        self.payloads_added.push(payload.clone());
        self.entries.push(Entry { seq, fields: vec![(name, payload)] });
        seq
    }

    /// XTRIM MAXLEN.
    pub(super) fn trim(&mut self, kept: usize) -> Vec<Entry> {
        self.entries.drain(..self.entries.len().saturating_sub(kept)).collect()
    }

    /// XDEL.
    pub(super) fn delete(&mut self, at: usize) -> Entry {
        let entry = self.entries.remove(at);
        self.deleted = self.deleted.max(entry.seq);
        entry
    }

    /// DEL of the stream.
    pub(super) fn delete_all(&mut self) -> Vec<Entry> {
        (self.last, self.added, self.deleted, self.last_delivered) =
            (Seq::ZERO, 0, Seq::ZERO, None);
        std::mem::take(&mut self.entries)
    }

    /// DEL of the hash.
    pub(super) fn forget(&mut self) {
        (self.memory, self.cursor, self.generation) =
            (OriginMemory::default(), Cursor::default(), 0);
    }

    fn extent(&self) -> Extent {
        Extent {
            first: self.entries.first().map_or(Seq::ZERO, |entry| entry.seq),
            last: self.last,
            max_deleted: self.deleted,
            length: self.entries.len() as u64,
            added: self.added,
            last_delivered: self.last_delivered,
        }
    }

    fn standing(&self) -> OriginStanding {
        let (extent, memory) = (self.extent(), self.memory.clone());
        OriginStanding { extent, memory, ..OriginStanding::default() }
    }
}

impl ModelRedis {
    pub(super) fn of(clients: usize, direction: Direction, identity: u8) -> Self {
        let clients = vec![ModelClient::default(); clients];
        Self { clients, copy: Vec::new(), direction, ledger: Vec::new(), identity }
    }

    fn back(&self) -> Direction {
        match self.direction {
            Direction::Up => Direction::Down,
            Direction::Down => Direction::Up,
        }
    }

    /// Returns the cursor, or the entry that a search finds in its place.
    pub(super) fn cursor(&self, client: usize) -> Cursor {
        let kept = self.clients[client].cursor;
        let mut own = self.copy.iter().rev().filter(|(of, ..)| *of == client);
        match own.next().filter(|_| !kept.epoch.is_known()) {
            Some((_, epoch, entry)) => Cursor {
                epoch: if self.back() == Direction::Up { *epoch } else { Epoch::UNKNOWN },
                seq: entry.seq,
                digest: Some(entry.digest()),
                is_found: true,
                ..Cursor::default()
            },
            None => kept,
        }
    }

    /// open_session.lua. `now` grows with each call.
    pub(super) fn open_session(&mut self, client: usize, now: u64) -> u64 {
        self.clients[client].generation = now;
        now
    }

    /// Returns the recorded peer of a device.
    pub(super) fn partner(&self) -> Option<Partner> {
        self.clients[0].memory.partner.clone()
    }

    /// begin_epoch.lua. `partner` is the peer to record.
    pub(super) fn begin(
        &mut self,
        client: usize,
        cursor: &Cursor,
        (partner_match, partner): (PartnerMatch, Option<Partner>),
    ) -> SenderStart {
        let own = &mut self.clients[client];
        let mut standing = own.standing();
        let at_cursor = own.entries.iter().find(|entry| entry.seq == cursor.seq);
        let position =
            resume::find_position(&standing, cursor, at_cursor.map(Entry::digest), partner_match);
        if position.epoch != standing.memory.epoch {
            let key = SealKey::new([client as u8 ^ position.epoch.0 as u8; 16]);
            standing.memory = standing.memory.begin_epoch(&position, &standing.extent, key);
            if position.raises_last_id(cursor) {
                own.last = own.last.max(cursor.seq);
            }
            if !own.last.is_zero() {
                standing.memory.last_delivered = Some(position.after);
            }
            own.last_delivered = standing.memory.last_delivered;
            self.ledger.extend(position.loss.map(|loss| (client, self.direction, loss)));
        }
        standing.memory.inherited = position.inherited;
        standing.memory.partner = partner.or(standing.memory.partner);
        own.memory = standing.memory.clone();
        SenderStart { position, standing }
    }

    /// origin_tasks.lua, dead_letter.lua and record_losses.lua. Returns none if the stream was replaced.
    pub(super) fn perform(
        &mut self,
        client: usize,
        epoch: Epoch,
        task: &OriginTask,
    ) -> Option<OriginRead> {
        let own = &mut self.clients[client];
        let mut read = OriginRead { entries: Vec::new(), extent: own.extent(), is_end: false };
        let seen = match task {
            OriginTask::Read { high_water_mark: mark, .. } => *mark,
            OriginTask::RecordAck { acked, .. } => acked.seq,
            OriginTask::DeadLetter(dead_letters) => {
                dead_letters.iter().map(|(seq, _)| *seq).max().unwrap_or_default()
            }
            OriginTask::RecordLosses(..) => Seq::ZERO,
        };
        if own.memory.epoch != epoch
            || own.memory.high_water_mark.seq < seen
            || !own.standing().is_intact()
        {
            return None;
        }
        match task {
            OriginTask::Read { after, batch, .. } => {
                if own.last > own.memory.high_water_mark.seq {
                    own.memory.high_water_mark = HighWaterMark { seq: own.last, added: own.added };
                }
                let past = own.entries.iter().filter(|entry| entry.seq > *after);
                read.is_end = past.clone().count() <= batch.entries;
                read.entries = past.take(batch.entries).cloned().collect();
                let reached = read.entries.last().map_or(Seq::ZERO, |entry| entry.seq);
                let reached = if read.is_end { own.last } else { reached };
                if !own.last.is_zero() {
                    own.last_delivered = Some(own.last_delivered.unwrap_or_default().max(reached));
                }
                own.memory.last_delivered = own.last_delivered;
            }
            OriginTask::RecordLosses(losses, written) => {
                if own.memory.recorded_losses != Some(*written) {
                    own.memory.recorded_losses = Some(*written);
                    let direction = self.direction;
                    self.ledger.extend(losses.iter().map(|loss| (client, direction, *loss)));
                }
            }
            OriginTask::DeadLetter(dead_letters) => {
                own.dead.extend(dead_letters.iter().map(|(seq, _)| *seq));
                let last = dead_letters.iter().map(|(seq, _)| *seq).max();
                own.memory.dead_lettered = own.memory.dead_lettered.max(last.unwrap_or_default());
            }
            OriginTask::RecordAck {
                acked,
                trim_through: trim,
                clears_recorded_losses: is_told,
            } => {
                own.memory.acked = *acked;
                if *is_told {
                    own.memory.recorded_losses = None;
                }
                own.entries.retain(|entry| trim.is_none_or(|trim| entry.seq > trim));
            }
        }
        Some(read)
    }

    /// append.lua, after the search.
    pub(super) fn append(
        &mut self,
        client: usize,
        generation: Option<u64>,
        append: &Append,
    ) -> AppendResult {
        let back = self.back();
        let mut entries = append.entries.clone();
        let mut losses = append.account.losses.clone();
        if append.account.is_inherited {
            let older =
                self.copy.iter().filter(|(of, epoch, _)| *of == client && *epoch <= append.epoch);
            let epoch = |epoch: Epoch| match back {
                Direction::Up => epoch,
                // A device's copy does not keep epochs.
                Direction::Down => Epoch::UNKNOWN,
            };
            let found = older.map(|(_, of, entry)| CopiedEntry {
                epoch: epoch(*of),
                seq: entry.seq,
                digest: entry.digest(),
            });
            let deduplicated = CopyIndex::new(found, true).deduplicate(entries);
            entries = deduplicated.entries;
            losses.extend(deduplicated.uncertain.map(|UncertainRange { first, last, count }| {
                Loss {
                    epoch: append.epoch,
                    from: first,
                    to: last,
                    count: Some(count),
                    cause: LossCause::Uncertain,
                }
            }));
        }
        let own = &mut self.clients[client];
        let mut cursor = own.cursor.seq;
        if let Some(generation) = generation
            && generation != own.generation
        {
            let is_newer = own.generation > generation;
            return if is_newer { AppendResult::Superseded } else { AppendResult::Gap(cursor) };
        }
        if append.known.is_some_and(|known| (own.cursor.epoch, own.cursor.seq) < known) {
            return AppendResult::Gap(cursor);
        }
        if append.epoch < own.cursor.epoch {
            return AppendResult::StaleEpoch(own.cursor.epoch);
        }
        if append.epoch > own.cursor.epoch {
            cursor = Seq::ZERO;
        }
        if append.after.is_some_and(|after| after > cursor) {
            return AppendResult::Gap(cursor);
        }
        let total = entries.len() as u64;
        entries.retain(|entry| entry.seq > cursor);
        let accepted = entries.len() as u64;
        self.copy.extend(entries.into_iter().map(|entry| (client, append.epoch, entry)));
        if append.after.is_none_or(|after| cursor <= after) {
            self.ledger.extend(losses.into_iter().map(|loss| (client, back, loss)));
        }
        if append.through > cursor {
            cursor = append.through;
            let (epoch, digest, tally) = (append.epoch, append.digest, append.account.tally);
            let seal = append.seal;
            own.cursor = Cursor { epoch, seq: cursor, digest, tally, seal, is_found: false };
        }
        AppendResult::Done { cursor, accepted, duplicates: total - accepted, id: None }
    }
}
