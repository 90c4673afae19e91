//! What a group's log holds, in memory and authoritative after open: its ends, its vote, and the newest entries.
//!
//! Invariant: an entry leaves the cache only after the log-IO thread has written it; before that it would be readable
//! nowhere.

use std::collections::VecDeque;
use std::ops::Range;

use super::{LogOp, LogState, Ticket};
use crate::types::{LogId, StoredEntry};

/// One group's log in memory.
#[derive(Debug, Default)]
pub(super) struct Tail {
    pub(super) state: LogState,
    /// Contiguous, ending with the last entry of the log.
    entries: VecDeque<StoredEntry>,
    bytes: usize,
    /// Appends that are not durable yet: first index, and the ticket that makes it and what follows durable.
    pending: VecDeque<(u64, Ticket)>,
    /// The newest ticket that was written: entries under it may leave the cache.
    written: u64,
    /// Bytes taken since the process began.
    pub(super) taken_bytes: u64,
}

impl Tail {
    pub(super) fn open(state: LogState) -> Self {
        let written = state.last.map_or(0, |id| id.index + 1);
        Self {
            state,
            written,
            ..Self::default()
        }
    }

    /// Takes an operation into memory as it is submitted.
    pub(super) fn take(&mut self, op: &LogOp, ticket: Ticket) {
        match op {
            LogOp::Append(entries) => self.append(entries, ticket),
            LogOp::Truncate(last) => self.truncate(*last),
            LogOp::Purge(upto) => self.purge(*upto),
            LogOp::Vote(vote) => self.state.vote = Some(*vote),
            LogOp::Barrier => {}
        }
    }

    fn append(&mut self, entries: &[StoredEntry], ticket: Ticket) {
        let Some(first) = entries.first() else { return };
        let next = self.state.last.map_or(0, |id| id.index + 1);
        debug_assert!(
            first.id.index == next || self.state.last.is_none(),
            "append at {} after {next}",
            first.id.index
        );
        if self.state.last == self.state.purged {
            self.state.first = first.id.index;
        }
        self.pending.push_back((first.id.index, ticket));
        for entry in entries {
            self.bytes += cost(entry);
            self.taken_bytes += cost(entry) as u64;
            self.entries.push_back(entry.clone());
        }
        self.state.last = self.entries.back().map(|entry| entry.id);
    }

    fn truncate(&mut self, last: Option<LogId>) {
        let end = self.state.last.map(|id| id.index);
        if last.is_some_and(|last| end <= Some(last.index)) {
            return; // there is nothing after it
        }
        let keep = last.map_or(0, |id| id.index + 1);
        while self
            .entries
            .back()
            .is_some_and(|entry| entry.id.index >= keep)
        {
            let gone = self.entries.pop_back().expect("there is a last one");
            self.bytes -= cost(&gone);
        }
        while self.pending.back().is_some_and(|(first, _)| *first >= keep) {
            self.pending.pop_back();
        }
        self.written = self.written.min(keep);
        self.state.last = last.or(self.state.purged);
    }

    fn purge(&mut self, upto: LogId) {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.id.index <= upto.index)
        {
            let gone = self.entries.pop_front().expect("there is a first one");
            self.bytes -= cost(&gone);
        }
        self.state.purged = self.state.purged.max(Some(upto));
        self.state.first = self.state.first.max(upto.index + 1);
        if self.state.last.is_none_or(|last| last.index <= upto.index) {
            self.state.last = Some(upto);
        }
    }

    /// The ticket under which the entry at `index`, as it reads now, becomes durable; none: it is already.
    pub(super) fn ticket_of(&self, index: u64) -> Option<Ticket> {
        self.pending
            .iter()
            .rev()
            .find(|(first, _)| *first <= index)
            .map(|(_, ticket)| *ticket)
    }

    /// Everything up to this ticket is on disk; the cache may shrink to `bytes_max`.
    pub(super) fn durable(&mut self, ticket: Ticket, bytes_max: usize) {
        while self
            .pending
            .front()
            .is_some_and(|(_, pending)| *pending <= ticket)
        {
            self.pending.pop_front();
        }
        let end = self.state.last.map_or(0, |id| id.index + 1);
        self.written = self.pending.front().map_or(end, |(first, _)| *first);
        while self.bytes > bytes_max
            && self
                .entries
                .front()
                .is_some_and(|entry| entry.id.index < self.written)
        {
            let gone = self.entries.pop_front().expect("there is a first one");
            self.bytes -= cost(&gone);
        }
    }

    /// What of a range exists, by the ends that memory knows.
    pub(super) fn existing(&self, range: &Range<u64>) -> Range<u64> {
        let end = self.state.last.map_or(0, |id| id.index + 1);
        range.start.max(self.state.first)..range.end.min(end)
    }

    pub(super) fn is_cached(&self, range: &Range<u64>) -> bool {
        let range = self.existing(range);
        range.is_empty()
            || self
                .entries
                .front()
                .is_some_and(|first| first.id.index <= range.start)
    }

    /// What of a range has to be read from disk. An index that the cache holds may stand there in an older form: truncated
    /// and written again in memory, while the log-IO thread is not that far yet.
    pub(super) fn on_disk(&self, range: &Range<u64>) -> Range<u64> {
        let Range { start, end } = self.existing(range);
        let cached = self.entries.front().map_or(end, |entry| entry.id.index);
        start..end.min(cached)
    }

    /// Entries of a cached range, at most about `bytes_max` bytes, at least one if there is any.
    pub(super) fn read(&self, range: &Range<u64>, bytes_max: usize) -> Vec<StoredEntry> {
        let range = self.existing(range);
        let Some(first) = self.entries.front().map(|entry| entry.id.index) else {
            return Vec::new();
        };
        let skip = usize::try_from(range.start.saturating_sub(first)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let mut read = Vec::new();
        for entry in self.entries.iter().skip(skip) {
            bytes += cost(entry);
            if entry.id.index >= range.end || (bytes > bytes_max && !read.is_empty()) {
                break;
            }
            read.push(entry.clone());
        }
        read
    }
}

/// Bytes that an entry weighs in memory and on its way.
pub(super) fn cost(entry: &StoredEntry) -> usize {
    entry.payload.len() + 64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{EntryKind, NodeId};

    fn entries(range: Range<u64>, term: u64) -> Vec<StoredEntry> {
        range
            .map(|index| StoredEntry {
                id: LogId {
                    term,
                    node: NodeId(1),
                    index,
                },
                kind: EntryKind::Normal,
                payload: vec![0; 100].into(),
            })
            .collect()
    }

    #[test]
    fn what_is_not_written_never_leaves_the_cache() {
        let mut tail = Tail::default();
        tail.take(&LogOp::Append(entries(0..10, 1)), Ticket(1));
        tail.take(&LogOp::Append(entries(10..20, 1)), Ticket(2));
        tail.durable(Ticket(1), 0);
        assert!(!tail.is_cached(&(0..10)));
        assert!(tail.is_cached(&(10..20)));
        assert_eq!(tail.read(&(10..20), usize::MAX).len(), 10);
    }

    #[test]
    fn an_index_that_was_written_again_is_durable_only_in_its_new_form() {
        let mut tail = Tail::default();
        tail.take(&LogOp::Append(entries(0..10, 1)), Ticket(1));
        tail.durable(Ticket(1), usize::MAX);
        assert_eq!(tail.ticket_of(7), None);
        tail.take(
            &LogOp::Truncate(Some(LogId {
                term: 1,
                node: NodeId(1),
                index: 4,
            })),
            Ticket(2),
        );
        tail.take(&LogOp::Append(entries(5..8, 2)), Ticket(3));
        assert_eq!(tail.ticket_of(7), Some(Ticket(3)));
        assert_eq!(tail.ticket_of(4), None);
    }

    #[test]
    fn what_the_cache_holds_is_never_read_from_disk() {
        let mut tail = Tail::default();
        tail.take(&LogOp::Append(entries(0..10, 1)), Ticket(1));
        tail.durable(Ticket(1), 0);
        assert_eq!(tail.on_disk(&(3..20)), 3..10);
        let last = entries(5..6, 1)[0].id;
        tail.take(&LogOp::Truncate(Some(last)), Ticket(2));
        tail.take(&LogOp::Append(entries(6..9, 2)), Ticket(3));
        assert_eq!(tail.on_disk(&(3..9)), 3..6, "6 to 8 lie there of term 1");
    }

    #[test]
    fn a_read_is_bounded_but_never_empty_while_there_is_something() {
        let mut tail = Tail::default();
        tail.take(&LogOp::Append(entries(0..10, 1)), Ticket(1));
        assert_eq!(tail.read(&(3..10), 1).len(), 1);
        assert_eq!(tail.read(&(3..10), 400).len(), 2);
        assert_eq!(tail.read(&(3..100), usize::MAX).len(), 7);
    }

    #[test]
    fn purging_beyond_the_end_leaves_the_mark_as_the_last_entry() {
        let mut tail = Tail::default();
        tail.take(&LogOp::Append(entries(0..3, 1)), Ticket(1));
        let upto = LogId {
            term: 5,
            node: NodeId(2),
            index: 100,
        };
        tail.take(&LogOp::Purge(upto), Ticket(2));
        assert_eq!(
            (tail.state.purged, tail.state.last),
            (Some(upto), Some(upto))
        );
    }
}
