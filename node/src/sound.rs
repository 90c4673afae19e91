//! Is a data folder sound? What `holdfast doctor disk` asks: `raft` opens and reads it, and each payload and row must mean something.
//!
//! Invariant: the folder is changed no more than a start changes it.
//! Not here: how it is opened (`raft::inspect`), how the answer looks (`cli`).

use std::path::Path;

use bytes::Bytes;
use holdfast_proto::domain::{keys, log, rows};
use holdfast_raft::{EntryKind, NodeId, StorageFault, StoredEntry, inspect};

pub use holdfast_raft::inspect::{Found, GroupFound, Stage};

/// Looks at the stopped node's `folder`.
///
/// # Errors
/// How far the look came, and what a start would say.
pub fn look(folder: &Path, node: u64) -> Result<Found, (Stage, StorageFault)> {
    inspect::inspect(folder, NodeId(node), &mut Meaning)
}

/// Whether bytes are entries and rows of this build.
struct Meaning;

impl inspect::Judge for Meaning {
    fn entry(&mut self, entry: &StoredEntry) -> Result<(), String> {
        if entry.kind != EntryKind::Normal {
            return Ok(());
        }
        let decoded = log::decode(entry.payload.clone());
        decoded.map(drop).map_err(|cause| cause.to_string())
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let key = keys::decode(key).map_err(|cause| cause.to_string())?;
        let decoded = rows::decode(&key, &Bytes::copy_from_slice(value));
        decoded.map(drop).map_err(|cause| cause.to_string())
    }
}
