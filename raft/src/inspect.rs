//! Is this data folder sound? Opens it exactly as a start does, then reads all of it.
//!
//! Invariant: it changes no more than a start would, and never makes a folder. What it finds is what a start would find; what a start
//! reads later, it reads now, so damage that would show one day shows here.
//! Not here: what payloads and rows mean (`node`).

use std::path::Path;
use std::sync::Arc;

use twox_hash::XxHash3_128;

use crate::error::StorageFault;
use crate::host::rocksdb::{Direction, IteratorMode, ReadOptions, ReadTier};
use crate::log::rocks::RocksLog;
use crate::log::{Ident, LogBackend};
use crate::peer::identity::Reservation;
use crate::state::StateDb;
use crate::types::{GroupId, LogId, NodeId, StoredEntry, Vote};

/// One read of the log.
const READ_BYTES: usize = 4 << 20;

/// What lies in a data folder.
#[derive(Debug, Clone)]
pub struct Found {
    /// Whose it is.
    pub ident: Ident,
    /// The cluster it belongs to, if any.
    pub reservation: Option<Reservation>,
    /// Up to which record of the log's store the watermark says that it was synced.
    pub synced: u64,
    /// Up to which record it was recovered: never less.
    pub recovered: u64,
    /// Each group of the cluster.
    pub groups: Vec<GroupFound>,
}

/// What lies there of one group.
#[derive(Debug, Clone)]
pub struct GroupFound {
    /// Which.
    pub group: GroupId,
    /// The last entry that was purged.
    pub purged: Option<LogId>,
    /// The last entry, or `purged`.
    pub last: Option<LogId>,
    /// The vote.
    pub vote: Option<Vote>,
    /// The last entry known to be committed: a hint.
    pub committed: Option<LogId>,
    /// Index and checksum of each entry.
    pub entries: Vec<(u64, u32)>,
    /// Up to which entry the state on disk has been applied; the rest is replayed.
    pub applied: Option<LogId>,
    /// The running digest there.
    pub digest: u128,
    /// How many rows the state has.
    pub rows: u64,
    /// A digest of all its rows.
    pub rows_digest: u128,
}

/// How far the look came before it found something wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A start would refuse the log.
    OpeningLog,
    /// A start would refuse the state.
    OpeningState,
    /// It would open, and stop at what it reads.
    Reading,
}

/// What the look may be told by: an entry or a row is handed over as it is read, and may be found wanting.
pub trait Judge {
    /// An entry of a group's log.
    ///
    /// # Errors
    /// It means nothing.
    fn entry(&mut self, entry: &StoredEntry) -> Result<(), String>;

    /// A row of a group's state.
    ///
    /// # Errors
    /// It means nothing.
    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), String>;
}

/// Looks at `folder`, which no process may have open. A folder in which nothing lies yet becomes `node`'s, as at a start.
///
/// # Errors
/// How far it came, and what is wrong: the text is what a start would say.
pub fn inspect(
    folder: &Path,
    node: NodeId,
    judge: &mut dyn Judge,
) -> Result<Found, (Stage, StorageFault)> {
    let at = |stage| move |fault| (stage, fault);
    // Nothing is written here, so nothing can fail to be.
    let quiet = Arc::new(|fault: &StorageFault| tracing::error!(%fault, "the log's disk failed"));
    let log = RocksLog::open_with(folder, node, quiet).map_err(at(Stage::OpeningLog))?;
    let ident = log.ident();
    let db =
        StateDb::open(folder, ident.node, ident.incarnation).map_err(at(Stage::OpeningState))?;
    let found = read_all(&log, &db, judge).map_err(at(Stage::Reading));
    log.close();
    found
}

fn read_all(log: &RocksLog, db: &StateDb, judge: &mut dyn Judge) -> Result<Found, StorageFault> {
    let reservation = log
        .reservation()
        .map(|bytes| Reservation::decode(&bytes))
        .transpose()
        .map_err(|cause| StorageFault::corrupt("the reservation", cause))?;
    let groups = reservation.iter().flat_map(Reservation::groups);
    let groups = groups
        .map(|group| read_group(log, db, group, judge))
        .collect::<Result<_, _>>()?;
    let (synced, recovered) = log.opened_at();
    Ok(Found {
        ident: log.ident(),
        reservation,
        synced,
        recovered,
        groups,
    })
}

fn read_group(
    log: &RocksLog,
    db: &StateDb,
    group: GroupId,
    judge: &mut dyn Judge,
) -> Result<GroupFound, StorageFault> {
    let ends = log.read_ends(group)?;
    let pointer = db.pointer(group, ReadTier::All)?;
    let hole = |cause: String| StorageFault::corrupt(format!("group {}", group.0), cause);
    if pointer.last < ends.purged {
        return Err(hole(format!(
            "its state ends with {:?} and its log begins after {:?}",
            pointer.last, ends.purged
        )));
    }
    let mut entries = Vec::new();
    let end = ends.last.map_or(0, |id| id.index + 1);
    let mut next = ends.first;
    while next < end {
        for entry in log.read_disk(group, &(next..end), READ_BYTES)? {
            if entry.id.index != next {
                return Err(hole(format!("entry {next} of its log is missing")));
            }
            if let Some(applied) = pointer.last.filter(|it| it.index == next)
                && applied != entry.id
            {
                return Err(hole(format!(
                    "its state was made from {applied:?}, its log has {:?} there",
                    entry.id
                )));
            }
            let what = || format!("log entry {next} of group {}", group.0);
            judge
                .entry(&entry)
                .map_err(|cause| StorageFault::corrupt(what(), cause))?;
            entries.push((next, sum_of(&entry)));
            next += 1;
        }
        if entries.last().is_none_or(|(index, _)| index + 1 != next) {
            return Err(hole(format!("entries from {next} on are in no place")));
        }
    }
    let (rows, rows_digest) = read_rows(db, group, pointer.generation, judge)?;
    Ok(GroupFound {
        group,
        purged: ends.purged,
        last: ends.last,
        vote: ends.vote,
        committed: ends.committed,
        entries,
        applied: pointer.last,
        digest: pointer.digest,
        rows,
        rows_digest,
    })
}

fn sum_of(entry: &StoredEntry) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    for number in [entry.id.term, entry.id.node.0, entry.id.index] {
        sum.update(&number.to_be_bytes());
    }
    sum.update(&[entry.kind as u8]);
    sum.update(&entry.payload);
    sum.finalize()
}

fn read_rows(
    db: &StateDb,
    group: GroupId,
    generation: u32,
    judge: &mut dyn Judge,
) -> Result<(u64, u128), StorageFault> {
    let (from, to) = crate::state::own_range(group, generation);
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(to.to_vec());
    options.set_total_order_seek(true); // all kinds of rows
    let mode = IteratorMode::From(&from, Direction::Forward);
    let (mut rows, mut digest) = (0, XxHash3_128::new());
    for item in db.db.iterator_opt(mode, options) {
        let (key, value) = item.map_err(|cause| StorageFault::io("reading the state", cause))?;
        judge
            .row(&key[from.len()..], &value)
            .map_err(|cause| StorageFault::corrupt(format!("a row of group {}", group.0), cause))?;
        for part in [&key, &value] {
            digest.write(&(part.len() as u64).to_be_bytes());
            digest.write(part);
        }
        rows += 1;
    }
    Ok((rows, digest.finish_128()))
}
