//! The log of all groups of a node: what consensus needs of it.
//!
//! Invariant: operations take effect in memory as they are submitted and reach the disk in the same order; a completion
//! runs only after everything submitted before it is durable.
//! Not here: what the entries mean.

pub mod memory;
pub(crate) mod records;
pub mod rocks;
mod tail;
pub mod watermark;

use std::io;
use std::ops::Range;

use futures::future::BoxFuture;
use uuid::Uuid;

use crate::error::StorageFault;
use crate::types::{GroupId, LogId, NodeId, StoredEntry, Vote};

/// The order in which operations were submitted, over all groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Called once the operation and all before it are durable, or have failed. May run on the log-IO thread: it must not block.
pub type Completion = Box<dyn FnOnce(io::Result<()>) + Send>;

/// One change of a group's log.
#[derive(Debug)]
pub enum LogOp {
    /// Entries that follow the last one.
    Append(Vec<StoredEntry>),
    /// Everything after this entry goes, all of it for `None`.
    Truncate(Option<LogId>),
    /// Everything up to and with this entry goes.
    Purge(LogId),
    /// A vote.
    Vote(Vote),
    /// Nothing: completes when all before it is durable.
    Barrier,
}

/// What a group's log holds, from memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogState {
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    /// Where the entries begin: after `purged`, or at 0, unless an empty log was begun later than that.
    pub first: u64,
    /// The last entry, or `purged` when there is none.
    pub last: Option<LogId>,
    /// The vote.
    pub vote: Option<Vote>,
    /// The last known committed entry: a hint.
    pub committed: Option<LogId>,
}

/// A place to keep logs: RocksDB, or memory.
pub trait LogBackend: Send + Sync + 'static {
    /// What the group's log holds now, everything submitted included.
    fn state(&self, group: GroupId) -> LogState;

    /// Submits one operation. It is readable on return; `done` runs when it is durable. Waits while the queue is full.
    fn submit(&self, group: GroupId, op: LogOp, done: Completion) -> BoxFuture<'_, Ticket>;

    /// Remembers the committed entry; reaches the disk with some later batch, never ahead of the entry itself.
    fn hint_committed(&self, group: GroupId, committed: LogId);

    /// Entries of `range` in order, checked, from its first existing one on: at most about `bytes_max` bytes, but at least one entry
    /// if there is any. May read the disk: call it from a blocking pool unless [`LogBackend::is_cached`] says otherwise.
    fn read(
        &self,
        group: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> io::Result<Vec<StoredEntry>>;

    /// Whether all of `range` is in memory.
    fn is_cached(&self, group: GroupId, range: &Range<u64>) -> bool;

    /// Waits until the entry at `index`, as it reads now, is durable. An index that was truncated and written again is
    /// durable only in its new form.
    fn durable(&self, group: GroupId, index: u64) -> BoxFuture<'_, io::Result<()>>;

    /// Whose log this is.
    fn ident(&self) -> Ident;

    /// The reservation, as `groups` encoded it.
    fn reservation(&self) -> Option<Vec<u8>>;

    /// Stores or removes the reservation; durable on return. Blocking.
    ///
    /// # Errors
    /// The disk failed: the process should end.
    fn set_reservation(&self, reservation: Option<Vec<u8>>) -> Result<(), StorageFault>;

    /// Bytes of log written for the group since the process started: what the snapshot policy counts.
    fn written_bytes(&self, group: GroupId) -> u64;

    /// Writes what is queued, syncs, and ends the log-IO thread. Blocking; nothing may be submitted after it.
    fn close(&self);
}

/// When the log waits for the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// Before anything is completed.
    #[default]
    Synced,
    /// Never: what is completed survives the end of the process, and not that of the machine. For data that nobody keeps.
    Unsynced,
}

/// Whose data folder this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ident {
    /// The node.
    pub node: NodeId,
    /// The incarnation made with the folder.
    pub incarnation: Uuid,
}
