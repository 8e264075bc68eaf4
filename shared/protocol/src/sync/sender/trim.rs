//! Which of the acknowledged entries may be taken out of the origin, so that some slack stays.

use std::collections::VecDeque;

use crate::{entry::Entry, message::Push, seq::Seq};

/// Cutting finer than this would keep more marks than it frees entries.
const MARK_ENTRIES_MIN: usize = 16;

/// Whether acknowledged entries are taken out of the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrimMode {
    /// They stay; the app's own MAXLEN bounds the stream.
    Keep,
    /// They go, but for about this many of the newest: a hub that lost its tail asks for them again.
    Acked {
        /// How many acknowledged entries stay.
        slack_entries: usize,
    },
}

/// A place where the origin may be cut once it is acknowledged: so many entries up to this one.
pub(super) struct TrimPoint {
    through: Seq,
    entries: usize,
}

/// Acknowledged in this session and still in the origin, oldest first.
pub(super) struct TrimQueue {
    trim: TrimMode,
    kept: VecDeque<TrimPoint>,
    entries: usize,
}

impl TrimQueue {
    pub(super) fn new(trim: TrimMode) -> Self {
        Self { trim, kept: VecDeque::new(), entries: 0 }
    }

    pub(super) fn handle_acked(&mut self, marks: Vec<TrimPoint>) {
        self.entries += marks.iter().map(|mark| mark.entries).sum::<usize>();
        self.kept.extend(marks);
    }

    pub(super) fn poll_trim(&mut self) -> Option<Seq> {
        let TrimMode::Acked { slack_entries } = self.trim else { return None };
        let mut trim = None;
        while let Some(mark) = self.kept.front()
            && self.entries - mark.entries >= slack_entries
        {
            self.entries -= mark.entries;
            trim = Some(mark.through);
            self.kept.pop_front();
        }
        trim
    }

    /// Cuts a quarter of the slack apart, so that what is kept comes near to it and the marks of a
    /// long slack stay few.
    pub(super) fn marks(&self, push: &Push) -> Vec<TrimPoint> {
        let TrimMode::Acked { slack_entries } = self.trim else { return Vec::new() };
        let mark = |part: &[Entry]| {
            let through = part.last().map_or(push.through, |entry| entry.seq);
            TrimPoint { through, entries: part.len() }
        };
        push.entries.chunks((slack_entries / 4).max(MARK_ENTRIES_MIN)).map(mark).collect()
    }
}
