//! Decides which acknowledged entries are trimmed from the origin, so that some of the newest stay.

use std::collections::VecDeque;

use crate::{entry::Entry, message::Push, seq::Seq};

/// The minimum number of entries between two trim points: finer ones would take more memory than they free.
const TRIM_POINT_ENTRIES_MIN: usize = 16;

/// Whether acknowledged entries are trimmed from the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrimMode {
    /// They stay. The app's own MAXLEN bounds the stream.
    Keep,
    /// They are trimmed, except for about this many of the newest: a hub that lost its latest entries asks
    /// for them again.
    Acked {
        /// The number of acknowledged entries that stay.
        keep_entries: usize,
    },
}

/// A seq up to which the origin may be trimmed once it is acknowledged, and the number of entries since the
/// trim point before.
pub(super) struct TrimPoint {
    through: Seq,
    entries: usize,
}

/// The trim points of entries that were acknowledged in this session and are still in the origin, oldest
/// first.
pub(super) struct TrimQueue {
    trim: TrimMode,
    points: VecDeque<TrimPoint>,
    entries: usize,
}

impl TrimQueue {
    pub(super) fn new(trim: TrimMode) -> Self {
        Self { trim, points: VecDeque::new(), entries: 0 }
    }

    pub(super) fn handle_acked(&mut self, points: Vec<TrimPoint>) {
        self.entries += points.iter().map(|point| point.entries).sum::<usize>();
        self.points.extend(points);
    }

    pub(super) fn poll_trim(&mut self) -> Option<Seq> {
        let TrimMode::Acked { keep_entries } = self.trim else { return None };
        let mut trim = None;
        while let Some(point) = self.points.front()
            && self.entries - point.entries >= keep_entries
        {
            self.entries -= point.entries;
            trim = Some(point.through);
            self.points.pop_front();
        }
        trim
    }

    /// Returns the trim points of a batch, a quarter of `keep_entries` apart: what stays comes near to
    /// `keep_entries`, and the trim points stay few.
    pub(super) fn trim_points(&self, push: &Push) -> Vec<TrimPoint> {
        let TrimMode::Acked { keep_entries } = self.trim else { return Vec::new() };
        let point = |part: &[Entry]| {
            let through = part.last().map_or(push.through, |entry| entry.seq);
            TrimPoint { through, entries: part.len() }
        };
        push.entries.chunks((keep_entries / 4).max(TRIM_POINT_ENTRIES_MIN)).map(point).collect()
    }
}
