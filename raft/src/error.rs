//! What can go wrong, by operation: one variant per thing the caller does next.
//!
//! Not here: openraft's and RocksDB's own errors, which end inside their modules.

use std::path::Path;
use std::time::Duration;

use crate::types::{GroupId, NodeId};

/// Why a command was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Never appended. Send the command to `leader`, or try again shortly when it is not known.
    #[error("this node does not lead partition {}; {}", group.0, go_to(*leader))]
    NotLeader {
        /// The partition.
        group: GroupId,
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Never appended: too much is waiting already.
    #[error("{queued_bytes} bytes already wait for partition {}; retry in {retry_after:?}", group.0)]
    Overloaded {
        /// The partition.
        group: GroupId,
        /// What waits.
        queued_bytes: usize,
        /// When to try again.
        retry_after: Duration,
    },
    /// Never appended, and never will be: the command is larger than an entry may be.
    #[error(
        "a command of {bytes} bytes is larger than the {bytes_max} an entry holds; send it in parts"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most there may be.
        bytes_max: usize,
    },
    /// May or may not have been applied, or may be applied yet.
    #[error("the command may or may not have been applied; repeat it with the same ids")]
    Unknown,
    /// This node is shutting down; the command was not appended.
    #[error("this node is shutting down; send the command to another one")]
    Stopped,
}

fn go_to(leader: Option<NodeId>) -> String {
    match leader {
        Some(node) => format!("send the command to node {}", node.0),
        None => "no leader is known, retry in a moment".to_owned(),
    }
}

/// Why a read was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader is known that could say how fresh this replica is; retry, or read with `stale`.
    #[error("no leader of partition {} confirmed the read; retry in a moment, or read stale", group.0)]
    NoLeader {
        /// The partition.
        group: GroupId,
    },
    /// This replica did not get as far as asked in time; retry here or elsewhere.
    #[error("this replica has applied up to {applied} and not yet {wanted}; retry, or ask another")]
    Behind {
        /// What it has applied.
        applied: u64,
        /// What was asked for.
        wanted: u64,
    },
    /// This node is shutting down.
    #[error("this node is shutting down; ask another one")]
    Stopped,
    /// The rows could not be read: a person has to look at this node.
    #[error("the rows of this replica cannot be read")]
    Storage(#[source] StorageFault),
}

/// The disk, or what stands on it, cannot be trusted: this node stops, the cluster goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageFault {
    /// Reading or writing failed.
    #[error("{what}: {cause}")]
    Io {
        /// What was attempted, on which file or key.
        what: String,
        /// What the system said.
        cause: String,
    },
    /// Bytes that are not what was written.
    #[error("{what} is damaged: {cause}; replace this node under a new id")]
    Corrupt {
        /// What was read.
        what: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Acknowledged log is gone (HF6001).
    #[error("HF6001: this replica lost acknowledged log: {cause}; replace it under a new node id")]
    LostLog {
        /// What the watermark says and what was found.
        cause: String,
    },
    /// The rows here are not those of a majority (HF6002).
    #[error(
        "HF6002: this replica of group {} has other rows than a majority since entry {index} or before; replace this node under a new id", group.0
    )]
    Diverged {
        /// The group.
        group: GroupId,
        /// Where it was noticed.
        index: u64,
    },
    /// The folder belongs to another node, or is in use.
    #[error("the data folder is not ours: {cause}")]
    NotOurs {
        /// Why.
        cause: String,
    },
    /// The machine refused an entry (`Fault`): this replica alone stops.
    #[error("entry {index} of group {} cannot be applied: {cause}", group.0)]
    Apply {
        /// The group.
        group: GroupId,
        /// The entry.
        index: u64,
        /// What the machine said.
        cause: String,
    },
}

impl StorageFault {
    /// An IO error with what was attempted.
    pub fn io(what: impl Into<String>, cause: impl std::fmt::Display) -> Self {
        Self::Io {
            what: what.into(),
            cause: cause.to_string(),
        }
    }

    /// Damage, with what was read.
    pub fn corrupt(what: impl Into<String>, cause: impl std::fmt::Display) -> Self {
        Self::Corrupt {
            what: what.into(),
            cause: cause.to_string(),
        }
    }

    /// A database that does not open: damaged if it says so, or if a file of it is gone.
    pub(crate) fn opening(path: &Path, cause: String) -> Self {
        let damaged = cause.starts_with("Corruption") || cause.contains("No such file");
        if damaged {
            return Self::corrupt(path.display().to_string(), cause);
        }
        Self::io(format!("opening {}", path.display()), cause)
    }
}

impl From<StorageFault> for std::io::Error {
    fn from(fault: StorageFault) -> Self {
        Self::other(fault)
    }
}
