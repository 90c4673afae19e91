//! The neutral words of consensus and disk: what `log/`, `state/`, `peer/` and `adapter/` pass to each other.
//!
//! Not here: openraft's types (only `adapter/` knows them), bytes on disk (`log/`, `state/`).

use std::fmt;

use bytes::Bytes;

/// A Raft group: partitions are 1..=P; 0 is reserved for the cluster itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

/// A node's number in the cluster. Never reused: a wiped disk means a new id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// Names one log entry: which leader (term, node) put what at which index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The leader's term.
    pub term: u64,
    /// The leader's node id.
    pub node: NodeId,
    /// The index in the log of its group, from 0.
    pub index: u64,
}

/// A stored vote: promised (`committed == false`) or known to be the leader (`committed == true`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    /// The term voted in.
    pub term: u64,
    /// Whom the vote is for.
    pub node: NodeId,
    /// Whether a quorum granted it.
    pub committed: bool,
}

/// What kind of thing a log entry carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A leader's first entry: carries nothing.
    Blank = 0,
    /// A batch of commands for the machine.
    Normal = 1,
    /// A membership of the group, encoded by the adapter.
    Membership = 2,
}

/// One log entry as the log stores it and the stream carries it. Cloning shares the payload.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredEntry {
    /// Where it stands.
    pub id: LogId,
    /// What it carries.
    pub kind: EntryKind,
    /// The bytes it carries; empty for `Blank`.
    pub payload: Bytes,
}

impl fmt::Debug for StoredEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} {:?} {} bytes",
            self.id,
            self.kind,
            self.payload.len()
        )
    }
}

/// Where a thing happened: every reply carries one. Ordered within one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The group.
    pub group: GroupId,
    /// The log index.
    pub index: u64,
    /// The number of the command within its entry.
    pub slot: u32,
}
