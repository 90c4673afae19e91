//! The database of a node's states: one RocksDB instance for all groups, without a WAL, since the log replays it.
//!
//! Invariant: one column family, so a flush persists a prefix of the write history of every group at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::pointer::{self, Pointer};
#[cfg(not(holdfast_sim))]
use super::tuning::tuned;
use crate::error::StorageFault;
#[cfg(holdfast_sim)]
use crate::host::rocksdb::Options;
use crate::host::rocksdb::{DB, FlushOptions, ReadOptions, ReadTier, WriteBatch, WriteOptions};
use crate::types::{GroupId, NodeId};

/// Key of the identity; no group has this number.
const IDENT: &[u8] = b"\xff\xff\xff\xffident";
/// Group, generation and kind of a key: what the prefix filters know.
pub(super) const PREFIX_BYTES: usize = 9;

/// The database of a node's states, all groups.
pub struct StateDb {
    pub(crate) db: Arc<DB>,
    pub(super) staging: PathBuf,
}

#[cfg(holdfast_sim)]
fn tuned() -> Result<Options, StorageFault> {
    Ok(Options::default())
}

impl StateDb {
    /// Opens or creates it.
    ///
    /// # Errors
    /// Not this node's, damaged, or the disk failed.
    pub fn open(folder: &Path, node: NodeId, incarnation: Uuid) -> Result<Arc<Self>, StorageFault> {
        let (path, staging) = (folder.join("state"), folder.join("state-staging"));
        let opened = DB::open(&tuned()?, &path);
        let db = Arc::new(opened.map_err(|cause| StorageFault::opening(&path, cause.to_string()))?);
        // A state whose name a loss of power takes cannot be rebuilt once its log has been purged.
        let what = |cause| StorageFault::io(format!("syncing {}", folder.display()), cause);
        crate::folder::sync(folder).map_err(what)?;
        // What was received and not installed when the process ended is of no use.
        if crate::host::fs::exists(&staging).unwrap_or(false) {
            let what = |cause| StorageFault::io(format!("clearing {}", staging.display()), cause);
            crate::host::fs::remove_dir_all(&staging).map_err(what)?;
        }
        verify_ident(&db, &path, node, incarnation)?;
        Ok(Arc::new(Self { db, staging }))
    }

    /// How RocksDB fares.
    pub fn figures(&self) -> DbFigures {
        DbFigures::of("state", &self.db)
    }

    /// Flushes; the instance closes with its last user.
    pub fn close(&self) {
        if let Err(fault) = self.flush() {
            tracing::warn!(%fault, "the state could not be flushed at the end; it is replayed from the log");
        }
    }

    /// Everything written so far survives a loss of power.
    pub(super) fn flush(&self) -> Result<(), StorageFault> {
        let mut wait = FlushOptions::default();
        wait.set_wait(true);
        self.db
            .flush_opt(&wait)
            .map_err(|cause| StorageFault::io("flushing the state", cause))
    }

    pub(super) fn write(&self, batch: WriteBatch) -> Result<(), StorageFault> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        options.set_memtable_insert_hint_per_batch(true);
        let wrote = self.db.write_opt(batch, &options);
        wrote.map_err(|cause| StorageFault::io("writing the state", cause))
    }

    pub(crate) fn pointer(&self, group: GroupId, tier: ReadTier) -> Result<Pointer, StorageFault> {
        let mut options = ReadOptions::default();
        options.set_read_tier(tier);
        let found = self.db.get_opt(pointer::key(group), &options);
        let found = found.map_err(|cause| StorageFault::io("reading a group's pointer", cause))?;
        found.map_or_else(|| Ok(Pointer::default()), |bytes| Pointer::decode(&bytes))
    }

    /// The entry at which the rows of a group were found to be wrong, if they were.
    pub(super) fn found_wrong(&self, group: GroupId) -> Result<Option<u64>, StorageFault> {
        let found = self.db.get(pointer::mark(group));
        let found = found.map_err(|cause| StorageFault::io("reading a group's mark", cause))?;
        let index = |bytes: Vec<u8>| {
            let bytes = <[u8; 8]>::try_from(bytes);
            let bad = |_| StorageFault::corrupt("the mark of a group", "it is no index");
            bytes.map(u64::from_be_bytes).map_err(bad)
        };
        found.map(index).transpose()
    }

    /// From here on the rows of a group are known to be wrong, also after a restart.
    pub(super) fn mark_wrong(&self, group: GroupId, index: u64) -> Result<(), StorageFault> {
        let mut batch = WriteBatch::default();
        batch.put(pointer::mark(group), index.to_be_bytes());
        self.write(batch)?;
        self.flush()
    }

    /// A step of an install: tests take an image of the folder there.
    #[cfg(feature = "testing")]
    pub(super) fn reached(&self, step: &'static str) {
        crate::testing::reached(&self.staging, step);
    }

    #[cfg(not(feature = "testing"))]
    pub(super) fn reached(&self, _step: &'static str) {}

    /// Removes generations of a group other than the one that counts: left over from an install that did not end.
    pub(super) fn drop_other_generations(
        &self,
        group: GroupId,
        counts: u32,
    ) -> Result<(), StorageFault> {
        let mut batch = WriteBatch::default();
        batch.delete_range(prefix(group, 0), prefix(group, counts));
        batch.delete_range(prefix(group, counts + 1), prefix(group, u32::MAX));
        self.write(batch)
    }
}

/// Up to which entry the state in `folder` would survive a loss of power.
#[cfg(holdfast_sim)]
pub(crate) fn durable(folder: &Path, group: GroupId) -> u64 {
    let found = crate::host::sim::disk::durable(&folder.join("state"), &pointer::key(group));
    let pointer = found.and_then(|bytes| Pointer::decode(&bytes).ok());
    pointer.and_then(|it| it.last).map_or(0, |id| id.index)
}

/// How one database fares, by RocksDB's own account.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DbFigures {
    /// Which: `log` or `state`.
    pub db: &'static str,
    /// What lives in it, about.
    pub live_bytes: u64,
    /// Files that were flushed and not compacted yet.
    pub l0_files: u64,
    /// How long writes were held up since the process started, in seconds.
    pub stall_seconds: f64,
    /// What compaction has yet to rewrite, about.
    pub compaction_pending_bytes: u64,
}

impl DbFigures {
    pub(crate) fn of(name: &'static str, db: &DB) -> Self {
        let number = |property: &str| db.property_int_value(property).ok().flatten().unwrap_or(0);
        let files = db.property_value("rocksdb.num-files-at-level0");
        let stats = db.property_value("rocksdb.dbstats").ok().flatten();
        Self {
            db: name,
            live_bytes: number("rocksdb.estimate-live-data-size"),
            l0_files: files
                .ok()
                .flatten()
                .and_then(|it| it.parse().ok())
                .unwrap_or(0),
            stall_seconds: stats.and_then(|it| stall_seconds(&it)).unwrap_or(0.0),
            compaction_pending_bytes: number("rocksdb.estimate-pending-compaction-bytes"),
        }
    }
}

/// From the line `Cumulative stall: 00:01:2.500 H:M:S, 0.1 percent`: counting it ourselves would slow every write.
fn stall_seconds(stats: &str) -> Option<f64> {
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix("Cumulative stall: "))?;
    let parts = line.split_whitespace().next()?.split(':');
    parts
        .map(|part| part.parse::<f64>().ok())
        .try_fold(0.0, |sum, part| Some(sum * 60.0 + part?))
}

fn verify_ident(db: &DB, path: &Path, node: NodeId, incarnation: Uuid) -> Result<(), StorageFault> {
    let mut ours = node.0.to_be_bytes().to_vec();
    ours.extend_from_slice(incarnation.as_bytes());
    let io = |cause| StorageFault::io(format!("the identity in {}", path.display()), cause);
    match db.get(IDENT).map_err(io)? {
        Some(found) if found == ours => Ok(()),
        Some(_) => {
            let cause = format!(
                "{} is of another node or another life of this one; a folder is never mixed from parts",
                path.display()
            );
            Err(StorageFault::NotOurs { cause })
        }
        None => {
            let mut options = WriteOptions::default();
            options.disable_wal(true);
            db.put_opt(IDENT, ours, &options).map_err(io)?;
            let mut wait = FlushOptions::default();
            wait.set_wait(true);
            db.flush_opt(&wait).map_err(io)
        }
    }
}

/// Group and generation, before the machine's own key.
pub(super) fn prefix(group: GroupId, generation: u32) -> [u8; 8] {
    let mut key = [0; 8];
    key[..4].copy_from_slice(&group.0.to_be_bytes());
    key[4..].copy_from_slice(&generation.to_be_bytes());
    key
}

/// A row's key as it is stored.
pub(super) fn stored_key(group: GroupId, generation: u32, key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(8 + key.len());
    stored.extend_from_slice(&prefix(group, generation));
    stored.extend_from_slice(key);
    stored
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rocksdb_says_how_it_fares_in_words_that_are_understood() {
        let folder = tempfile::tempdir().unwrap();
        let db = StateDb::open(folder.path(), NodeId(1), Uuid::nil()).unwrap();
        let stats = db.db.property_value("rocksdb.dbstats").unwrap().unwrap();
        assert_eq!(stall_seconds(&stats), Some(0.0), "{stats}");
        assert_eq!(
            stall_seconds("Cumulative stall: 00:01:2.500 H:M:S, 0.1 percent"),
            Some(62.5)
        );
        assert!(db.figures().live_bytes > 0, "the identity was flushed");
        assert_eq!(db.figures().l0_files, 1);
    }
}
