//! A log in memory that is slow to say what is durable: completions are held, counted, and let go as a test wants.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_raft::StorageFault;
use holdfast_raft::log::memory::MemoryLog;
use holdfast_raft::log::{Completion, Ident, LogBackend, LogOp, LogState, Ticket};
use holdfast_raft::types::{GroupId, LogId, NodeId, StoredEntry};
use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

/// Nothing is durable before [`Delayed::sync`].
pub struct Delayed {
    inner: MemoryLog,
    held: Mutex<VecDeque<Held>>,
    submitted: watch::Sender<u64>,
    synced: watch::Sender<u64>,
}

struct Held {
    ticket: u64,
    kind: &'static str,
    /// The entries that this operation wrote.
    wrote: Range<u64>,
    done: Completion,
}

impl Delayed {
    pub fn new() -> Arc<Self> {
        let ident = Ident {
            node: NodeId(1),
            incarnation: Uuid::new_v4(),
        };
        Arc::new(Self {
            inner: MemoryLog::new(ident),
            held: Mutex::default(),
            submitted: watch::Sender::new(0),
            synced: watch::Sender::new(0),
        })
    }

    /// What waits for a sync, in the order in which it was submitted.
    pub fn waiting(&self) -> Vec<&'static str> {
        self.held.lock().iter().map(|it| it.kind).collect()
    }

    /// How many operations were submitted, as it grows.
    pub fn submitted(&self) -> watch::Receiver<u64> {
        self.submitted.subscribe()
    }

    /// Syncs the oldest operations that wait, at most so many, and completes them newest first, as the log on disk does.
    pub fn sync(&self, at_most: usize) {
        let mut batch: Vec<Held> = {
            let mut held = self.held.lock();
            let count = at_most.min(held.len());
            held.drain(..count).collect()
        };
        let Some(newest) = batch.last().map(|it| it.ticket) else {
            return;
        };
        self.synced.send_replace(newest);
        batch.reverse();
        for it in batch {
            (it.done)(Ok(()));
        }
    }
}

impl LogBackend for Delayed {
    fn state(&self, group: GroupId) -> LogState {
        self.inner.state(group)
    }

    fn submit(&self, group: GroupId, op: LogOp, done: Completion) -> BoxFuture<'_, Ticket> {
        let (kind, wrote) = match &op {
            LogOp::Append(entries) => {
                let first = entries.first().map_or(0, |it| it.id.index);
                ("append", first..first + entries.len() as u64)
            }
            LogOp::Truncate(_) => ("truncate", 0..0),
            LogOp::Purge(_) => ("purge", 0..0),
            LogOp::Vote(_) => ("vote", 0..0),
            LogOp::Barrier => ("barrier", 0..0),
        };
        let ticket = {
            // In memory at once, and numbered, under one lock: the two orders are the same.
            let mut held = self.held.lock();
            let taken = self.inner.submit(group, op, Box::new(drop));
            let ticket = taken.now_or_never().expect("memory never waits");
            held.push_back(Held {
                ticket: ticket.0,
                kind,
                wrote,
                done,
            });
            ticket
        };
        self.submitted.send_modify(|count| *count += 1);
        futures::future::ready(ticket).boxed()
    }

    fn hint_committed(&self, group: GroupId, committed: LogId) {
        self.inner.hint_committed(group, committed);
    }

    fn read(
        &self,
        group: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> io::Result<Vec<StoredEntry>> {
        self.inner.read(group, range, bytes_max)
    }

    fn is_cached(&self, group: GroupId, range: &Range<u64>) -> bool {
        self.inner.is_cached(group, range)
    }

    fn durable(&self, _group: GroupId, index: u64) -> BoxFuture<'_, io::Result<()>> {
        let held = self.held.lock();
        let newest = held.iter().rev().find(|it| it.wrote.contains(&index));
        let ticket = newest.map_or(0, |it| it.ticket);
        let mut synced = self.synced.subscribe();
        async move {
            let waited = synced.wait_for(|now| *now >= ticket).await;
            waited.map(drop).map_err(io::Error::other)
        }
        .boxed()
    }

    fn ident(&self) -> Ident {
        self.inner.ident()
    }

    fn reservation(&self) -> Option<Vec<u8>> {
        self.inner.reservation()
    }

    fn set_reservation(&self, reservation: Option<Vec<u8>>) -> Result<(), StorageFault> {
        self.inner.set_reservation(reservation)
    }

    fn written_bytes(&self, group: GroupId) -> u64 {
        self.inner.written_bytes(group)
    }

    fn close(&self) {}
}
