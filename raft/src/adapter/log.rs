//! openraft's log storage over our [`LogBackend`].
//!
//! Invariant: `append` and `save_committed` only enqueue, for the core awaits them inline; `save_vote` returns after the
//! sync. No read of the disk runs on the consensus runtime.
//! Not here: the disk (`log`).

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use tokio::sync::oneshot;

use crate::adapter::stages::Stages;
use crate::adapter::types::{
    CoreEntry, CoreLogId, CoreVote, Types, core_entry, core_log_id, core_vote, our_log_id,
    our_vote, stored_entry,
};
use crate::log::{LogBackend, LogOp};
use crate::types::{GroupId, StoredEntry};

/// How many bytes of entries one read brings: also the size of one message to a follower.
const READ_BYTES: usize = 1 << 20;

/// The log of one group.
#[derive(Clone)]
pub struct Log {
    group: GroupId,
    backend: Arc<dyn LogBackend>,
    stages: Stages,
}

impl Log {
    pub(crate) fn new(group: GroupId, backend: Arc<dyn LogBackend>, stages: Stages) -> Self {
        Self {
            group,
            backend,
            stages,
        }
    }

    /// One read of at most [`READ_BYTES`], at least one entry if there is any.
    async fn read(&self, range: Range<u64>) -> io::Result<Vec<StoredEntry>> {
        if self.backend.is_cached(self.group, &range) {
            return self.backend.read(self.group, range, READ_BYTES);
        }
        let (backend, group) = (Arc::clone(&self.backend), self.group);
        crate::host::blocking(move || backend.read(group, range, READ_BYTES))
            .await
            .map_err(io::Error::other)?
    }

    fn bounds(&self, range: &impl RangeBounds<u64>) -> Range<u64> {
        let start = match range.start_bound() {
            Bound::Included(at) => *at,
            Bound::Excluded(at) => at + 1,
            Bound::Unbounded => 0,
        };
        let state = self.backend.state(self.group);
        // What was purged is gone and what was not appended is not there: openraft tolerates both at the ends.
        let after_last = state.last.map_or(0, |id| id.index + 1);
        let end = match range.end_bound() {
            Bound::Included(at) => at + 1,
            Bound::Excluded(at) => *at,
            Bound::Unbounded => u64::MAX,
        };
        start.max(state.first)..end.min(after_last)
    }
}

/// Entries of `range` must follow each other and begin at its start.
fn verify_contiguous(from: u64, entries: &[StoredEntry]) -> io::Result<()> {
    for (entry, expected) in entries.iter().zip(from..) {
        if entry.id.index != expected {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "the log has a hole: entry {expected} was read as {}",
                    entry.id.index
                ),
            ));
        }
    }
    Ok(())
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<CoreEntry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let mut rest = self.bounds(&range);
        let mut all = Vec::new();
        while rest.start < rest.end {
            let part = self.read(rest.clone()).await?;
            if part.is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("entries {rest:?} of group {} are in no place", self.group.0),
                ));
            }
            verify_contiguous(rest.start, &part)?;
            rest.start += part.len() as u64;
            for entry in part {
                all.push(core_entry(entry)?);
            }
        }
        Ok(all)
    }

    async fn read_vote(&mut self) -> io::Result<Option<CoreVote>> {
        Ok(self.backend.state(self.group).vote.map(core_vote))
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> io::Result<Vec<CoreEntry>> {
        let range = self.bounds(&(start..end));
        if range.start >= range.end {
            return Ok(Vec::new());
        }
        let entries = self.read(range.clone()).await?;
        verify_contiguous(range.start, &entries)?;
        entries.into_iter().map(core_entry).collect()
    }

    /// Chunk by chunk: a long lag must not be loaded whole.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<CoreEntry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let rest = self.bounds(&range);
        let log = self.clone();
        let chunks = futures::stream::unfold((log, rest), |(mut log, mut rest)| async move {
            if rest.start >= rest.end {
                return None;
            }
            let part = log.limited_get_log_entries(rest.start, rest.end).await;
            let items: Vec<io::Result<CoreEntry>> = match part {
                Ok(entries) if entries.is_empty() => {
                    let what = format!("entries {rest:?} of the log are in no place");
                    rest.start = rest.end;
                    vec![Err(io::Error::new(io::ErrorKind::InvalidData, what))]
                }
                Ok(entries) => {
                    rest.start += entries.len() as u64;
                    entries.into_iter().map(Ok).collect()
                }
                Err(cause) => {
                    rest.start = rest.end;
                    vec![Err(cause)]
                }
            };
            Some((futures::stream::iter(items), (log, rest)))
        });
        chunks.flatten().boxed()
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let state = self.backend.state(self.group);
        Ok(LogState {
            last_purged_log_id: state.purged.map(core_log_id),
            last_log_id: state.last.map(core_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &CoreVote) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        // The core gone means that nobody waits: the vote is on disk all the same.
        let done = Box::new(move |result| drop(tx.send(result)));
        self.backend
            .submit(self.group, LogOp::Vote(our_vote(vote)), done)
            .await;
        rx.await
            .map_err(|_| io::Error::other("the log ended before a vote was durable"))?
    }

    async fn save_committed(&mut self, committed: Option<CoreLogId>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.backend
                .hint_committed(self.group, our_log_id(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<CoreLogId>> {
        Ok(self.backend.state(self.group).committed.map(core_log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = CoreEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<StoredEntry> = entries.into_iter().map(stored_entry).collect();
        let since = entries.last().map(|it| self.stages.appended(it.id.index));
        let stages = self.stages.clone();
        let done = Box::new(move |result: io::Result<()>| {
            if let Some(since) = since.filter(|_| result.is_ok()) {
                stages.synced(since);
            }
            callback.io_completed(result);
        });
        self.backend
            .submit(self.group, LogOp::Append(entries), done)
            .await;
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<CoreLogId>) -> io::Result<()> {
        let op = LogOp::Truncate(last.as_ref().map(our_log_id));
        self.backend.submit(self.group, op, Box::new(drop)).await;
        Ok(())
    }

    async fn purge(&mut self, upto: CoreLogId) -> io::Result<()> {
        self.backend
            .submit(self.group, LogOp::Purge(our_log_id(&upto)), Box::new(drop))
            .await;
        Ok(())
    }
}
