//! The log on disk: one RocksDB instance for all groups of a node, written by one thread with one sync for all of them.
//!
//! Invariant: nothing is completed before the sync that covers it; operations of a group reach the disk in the order in
//! which they were submitted; the first error ends the process, for after a failed sync the page cache lies.
//! Not here: what entries mean (`adapter`), their bytes (`records`), what is in memory (`tail`).

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::records::{self, Meta};
use super::tail::{Tail, cost};
use super::watermark::{Synced, Watermark};
use super::{Completion, Durability, Ident, LogBackend, LogOp, LogState, Ticket};
use crate::error::StorageFault;
use crate::failpoints;
use crate::host::rocksdb::{
    self, DB, IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions,
};
use crate::host::{self, Inbox, Sender, Thread, Worker};
use crate::seeded::{Bug, armed};
use crate::state::DbFigures;
use crate::types::{GroupId, LogId, NodeId, StoredEntry, Vote};

/// Operations waiting for the log-IO thread weigh at most this much; beyond it `submit` waits, which stops that group's
/// core: 32 MiB are far more than a disk takes in one sync.
const QUEUE_KIB_MAX: u32 = 32 * 1024;
/// One write batch: about 40 ms on a disk of 100 MB/s, far below an election timeout.
const BATCH_BYTES_MAX: usize = 4 << 20;
const BATCH_OPS_MAX: usize = 4096;
/// Newest entries kept in memory, for all groups together.
const TAIL_BYTES: usize = 16 << 20;

/// What to do when the log's disk fails: by default one line, and the end of the process.
pub type OnFailure = Arc<dyn Fn(&StorageFault) + Send + Sync>;

/// The default: an error on `log/` is never survived (pitfall 5).
pub fn abort_on_failure() -> OnFailure {
    Arc::new(|fault| {
        tracing::error!(%fault, "the log's disk failed: this node ends now; replace the disk if it happens again");
        host::abort();
    })
}

/// The log of a node.
pub struct RocksLog {
    db: Arc<DB>,
    shared: Arc<Shared>,
    stored: Mutex<Stored>,
    /// What the watermark said at the open, and what was recovered.
    opened_at: (u64, u64),
    queue: Arc<Semaphore>,
    sender: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<Thread>>,
}

struct Shared {
    groups: Mutex<BTreeMap<GroupId, Tail>>,
    next_ticket: Mutex<u64>,
    durable: watch::Sender<u64>,
}

struct Job {
    group: GroupId,
    op: LogOp,
    ticket: Ticket,
    done: Completion,
    _room: OwnedSemaphorePermit,
}

/// Options of the instance; a test reads back what RocksDB makes of them.
#[cfg(not(holdfast_sim))]
fn options() -> Options {
    use rocksdb::{DBCompressionType, DBRecoveryMode, SliceTransform};
    let mut it = Options::default();
    it.create_if_missing(true);
    it.set_manual_wal_flush(true);
    it.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    it.set_paranoid_checks(true);
    it.set_track_and_verify_wals_in_manifest(true);
    it.set_wal_bytes_per_sync(0);
    it.set_recycle_log_file_num(0);
    it.set_write_buffer_size(64 << 20);
    it.set_max_write_buffer_number(6);
    it.set_max_total_wal_size(512 << 20);
    it.set_level_zero_slowdown_writes_trigger(1 << 20);
    it.set_level_zero_stop_writes_trigger(1 << 20);
    it.set_soft_pending_compaction_bytes_limit(1 << 50);
    it.set_hard_pending_compaction_bytes_limit(1 << 50);
    // What was just written is most likely purged before anything compacts it further.
    let (none, lz4) = (DBCompressionType::None, DBCompressionType::Lz4);
    it.set_compression_per_level(&[none, none, lz4, lz4, lz4, lz4, lz4]);
    it.set_prefix_extractor(SliceTransform::create_fixed_prefix(records::PREFIX_BYTES));
    it.set_max_open_files(256);
    it.set_keep_log_file_num(4);
    it.set_max_log_file_size(4 << 20);
    it.set_enable_pipelined_write(false);
    it
}

#[cfg(holdfast_sim)]
fn options() -> Options {
    Options::default()
}

impl RocksLog {
    /// Opens the log of `node` in `folder`, or makes a new one in an empty folder.
    ///
    /// # Errors
    /// `LostLog` (HF6001): it is shorter than what was synced. `NotOurs`: it is another node's, or in use. `Io`: the
    /// folder cannot be written; the text says which and why.
    pub fn open(folder: &Path, node: NodeId) -> Result<Arc<Self>, StorageFault> {
        Self::open_with(folder, node, abort_on_failure())
    }

    /// As `open`, and waits for the disk as asked.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_synced(
        folder: &Path,
        node: NodeId,
        sync: Durability,
    ) -> Result<Arc<Self>, StorageFault> {
        Self::open_as(folder, node, sync, abort_on_failure())
    }

    /// As `open`, with another end than the process's when the disk fails.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_with(
        folder: &Path,
        node: NodeId,
        on_failure: OnFailure,
    ) -> Result<Arc<Self>, StorageFault> {
        Self::open_as(folder, node, Durability::Synced, on_failure)
    }

    fn open_as(
        folder: &Path,
        node: NodeId,
        sync: Durability,
        on_failure: OnFailure,
    ) -> Result<Arc<Self>, StorageFault> {
        crate::folder::make(folder).map_err(|cause| {
            StorageFault::io(
                format!("making the data folder {}", folder.display()),
                cause,
            )
        })?;
        let path = folder.join("log");
        let db = Arc::new(DB::open(&options(), &path).map_err(|cause| opening(&path, &cause))?);
        named(folder)?;
        let Identified {
            stored,
            mark,
            votes,
            opened_at,
        } = identify(&db, folder, node)?;
        let shared = Arc::new(Shared {
            groups: Mutex::default(),
            next_ticket: Mutex::new(0),
            durable: watch::Sender::new(0),
        });
        let (sender, jobs) = host::unbounded();
        let io = LogIo {
            db: Arc::clone(&db),
            shared: Arc::clone(&shared),
            mark,
            votes,
            sync,
            on_failure,
        };
        let thread = host::start("log-io".to_owned(), io, jobs)
            .map_err(|cause| StorageFault::io("starting the log-IO thread", cause))?;
        Ok(Arc::new(Self {
            db,
            shared,
            stored: Mutex::new(stored),
            opened_at,
            queue: Arc::new(Semaphore::new(QUEUE_KIB_MAX as usize)),
            sender: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Looks at a group's log in memory; at first sight its ends and vote are read from disk.
    fn with_tail<T>(&self, group: GroupId, look: impl FnOnce(&mut Tail) -> T) -> T {
        let mut groups = self.shared.groups.lock();
        let tail = groups.entry(group).or_insert_with(|| match self.read_ends(group) {
            Ok(state) => Tail::open(state),
            Err(fault) => {
                tracing::error!(%fault, group = group.0, "the log of a group cannot be read; replace this node");
                host::abort();
            }
        });
        look(tail)
    }

    /// Up to which record of its store the log was synced, as the watermark had it at the open, and recovered.
    pub(crate) fn opened_at(&self) -> (u64, u64) {
        self.opened_at
    }

    pub(crate) fn read_ends(&self, group: GroupId) -> Result<LogState, StorageFault> {
        let log_id = |meta| -> Result<Option<LogId>, StorageFault> {
            self.meta(group, meta)?
                .map(|bytes| records::decode_log_id(&bytes))
                .transpose()
        };
        let purged = log_id(Meta::Purged)?;
        let first = purged.map_or(0, |id| id.index + 1);
        self.verify_begins(group, first)?;
        let last = self.last_entry(group)?.max(purged);
        let vote = self
            .meta(group, Meta::Vote)?
            .map(|b| records::decode_vote(&b))
            .transpose()?;
        let committed = match log_id(Meta::Committed)? {
            Some(id) if Some(id) <= purged || self.has_entry(group, id)? => Some(id),
            Some(_) | None => None,
        };
        Ok(LogState {
            purged,
            first,
            last,
            vote,
            committed,
        })
    }

    /// How RocksDB fares.
    pub fn figures(&self) -> DbFigures {
        DbFigures::of("log", &self.db)
    }

    /// The database, for its figures.
    pub fn db(&self) -> &DB {
        &self.db
    }

    fn meta(&self, group: GroupId, meta: Meta) -> Result<Option<Vec<u8>>, StorageFault> {
        self.db
            .get(records::meta_key(group, meta))
            .map_err(|cause| StorageFault::io("reading the log's records", cause))
    }

    /// Entries begin right after what was purged, or there are none.
    fn verify_begins(&self, group: GroupId, first: u64) -> Result<(), StorageFault> {
        let from = records::entry_key(group, first);
        let mode = IteratorMode::From(&from, rocksdb::Direction::Forward);
        let Some(found) = self.db.iterator(mode).next() else {
            return Ok(());
        };
        let (key, _) =
            found.map_err(|cause| StorageFault::io("reading the log's beginning", cause))?;
        match records::index_in(&key, group) {
            Some(index) if index != first => {
                let what = format!("the log of group {}", group.0);
                let cause = format!("it begins with entry {index} where {first} is due");
                Err(StorageFault::corrupt(what, cause))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether this very entry stands in the log. A hint of what is committed may have reached the disk ahead of its entry,
    /// or of the truncation that makes room for it: followed then, a restart would apply what was never committed.
    fn has_entry(&self, group: GroupId, id: LogId) -> Result<bool, StorageFault> {
        let found = self
            .db
            .get(records::entry_key(group, id.index))
            .map_err(|cause| StorageFault::io("reading the log", cause))?;
        let found = found.map(|bytes| records::decode_entry(id.index, &bytes));
        Ok(found.is_some_and(|entry| entry.is_ok_and(|entry| entry.id == id)))
    }

    fn last_entry(&self, group: GroupId) -> Result<Option<LogId>, StorageFault> {
        let end = records::entry_key(group, u64::MAX);
        let mode = IteratorMode::From(&end, rocksdb::Direction::Reverse);
        let Some(found) = self.db.iterator(mode).next() else {
            return Ok(None);
        };
        let (key, value) =
            found.map_err(|cause| StorageFault::io("reading the log's end", cause))?;
        let Some(index) = records::index_in(&key, group) else {
            return Ok(None);
        };
        Ok(Some(records::decode_entry(index, &value)?.id))
    }

    pub(crate) fn read_disk(
        &self,
        group: GroupId,
        range: &Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<StoredEntry>, StorageFault> {
        let mut read = Vec::new();
        let mut bytes = 0;
        let mut upper = ReadOptions::default();
        upper.set_iterate_upper_bound(records::entry_key(group, range.end).to_vec());
        let start = records::entry_key(group, range.start);
        let mode = IteratorMode::From(&start, rocksdb::Direction::Forward);
        for item in self.db.iterator_opt(mode, upper) {
            let (key, value) = item.map_err(|cause| StorageFault::io("reading the log", cause))?;
            let Some(index) = records::index_in(&key, group) else {
                break;
            };
            let entry = records::decode_entry(index, &value)?;
            bytes += cost(&entry);
            if bytes > bytes_max && !read.is_empty() {
                break;
            }
            read.push(entry);
        }
        Ok(read)
    }
}

/// The names in the data folder survive a loss of power from here on: a log whose name is lost is lost.
fn named(folder: &Path) -> Result<(), StorageFault> {
    crate::folder::sync(folder).map_err(|cause| {
        StorageFault::io(
            format!("syncing the data folder {}", folder.display()),
            cause,
        )
    })
}

/// Whether the entry, or the word that it was purged, is synced in the log of `folder`.
#[cfg(holdfast_sim)]
pub(crate) fn durable(folder: &Path, group: GroupId, id: LogId) -> bool {
    let path = folder.join("log");
    let get = |key: &[u8]| host::sim::disk::durable(&path, key);
    let purged = get(&records::meta_key(group, Meta::Purged))
        .and_then(|bytes| records::decode_log_id(&bytes).ok());
    let entry = get(&records::entry_key(group, id.index))
        .and_then(|bytes| records::decode_entry(id.index, &bytes).ok());
    purged.is_some_and(|it| it.index >= id.index) || entry.is_some_and(|it| it.id == id)
}

fn opening(path: &Path, cause: &rocksdb::Error) -> StorageFault {
    let text = cause.to_string();
    // Its words for a lock of another process and of this one; a damaged "block" is something else.
    if text.contains("lock file") || text.contains("lock hold") {
        let cause = format!(
            "{} is in use by another process; stop it first",
            path.display()
        );
        return StorageFault::NotOurs { cause };
    }
    StorageFault::opening(path, text)
}

/// What the log says of the node, under `records::IDENT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    ident: Ident,
    reservation: Option<Vec<u8>>,
}

impl Stored {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![1];
        bytes.extend_from_slice(&self.ident.node.0.to_be_bytes());
        bytes.extend_from_slice(self.ident.incarnation.as_bytes());
        bytes.push(u8::from(self.reservation.is_some()));
        bytes.extend_from_slice(self.reservation.as_deref().unwrap_or_default());
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StorageFault> {
        let bad = |cause: &str| StorageFault::corrupt("the node's identity", cause);
        let (body, crc) = bytes
            .split_last_chunk::<4>()
            .ok_or_else(|| bad("it is cut short"))?;
        if crc32fast::hash(body) != u32::from_be_bytes(*crc) {
            return Err(bad("its checksum does not match"));
        }
        if body.len() < 26 || body[0] != 1 {
            return Err(bad("its format is unknown; a newer release wrote it"));
        }
        let node = u64::from_be_bytes(body[1..9].try_into().expect("eight bytes"));
        let incarnation = Uuid::from_slice(&body[9..25]).expect("sixteen bytes");
        let reservation = (body[25] == 1).then(|| body[26..].to_vec());
        Ok(Self {
            ident: Ident {
                node: NodeId(node),
                incarnation,
            },
            reservation,
        })
    }
}

/// An opened log of a known owner.
struct Identified {
    stored: Stored,
    mark: Watermark,
    votes: u64,
    opened_at: (u64, u64),
}

/// Whose log this is; a new folder becomes `node`'s: database, identity, watermark, each synced before the next.
fn identify(db: &DB, folder: &Path, node: NodeId) -> Result<Identified, StorageFault> {
    let path = folder.join("WATERMARK");
    let io = |what: &str, cause: io::Error| {
        StorageFault::io(format!("{what} {}", path.display()), cause)
    };
    let found = db
        .get(records::IDENT)
        .map_err(|cause| StorageFault::io("reading the node's identity", cause))?;
    let Some(bytes) = found else {
        // An empty log is new only if nothing was ever synced here: else its very beginning is gone.
        let judged = !armed(Bug::WatermarkIgnored);
        if judged && Watermark::was_synced(&path).map_err(|e| io("reading", e))? {
            let cause = "it was synced before, and is empty now".to_owned();
            return Err(StorageFault::LostLog { cause });
        }
        let ident = Ident {
            node,
            incarnation: host::uuid(),
        };
        let stored = Stored {
            ident,
            reservation: None,
        };
        let mark = Watermark::create(&path, ident.incarnation).map_err(|e| io("making", e))?;
        named(folder)?; // a log without its watermark is refused
        write_ident(db, &stored)?;
        return Ok(Identified {
            stored,
            mark,
            votes: 0,
            opened_at: (0, db.latest_sequence_number()),
        });
    };
    let stored = Stored::decode(&bytes)?;
    let owner = stored.ident.node;
    if owner != node {
        let cause = format!(
            "{} belongs to node {}, this process was started as node {}; start it with its own folder",
            folder.display(),
            owner.0,
            node.0
        );
        return Err(StorageFault::NotOurs { cause });
    }
    let (mark, synced) = Watermark::open(&path, stored.ident.incarnation)
        .map_err(|cause| StorageFault::corrupt(path.display().to_string(), cause))?;
    let found = db.latest_sequence_number();
    if found < synced.sequence && !armed(Bug::WatermarkIgnored) {
        let synced = synced.sequence;
        let cause = format!("it was synced up to record {synced} and recovered up to {found}");
        return Err(StorageFault::LostLog { cause });
    }
    let votes = votes_in(db)?;
    if votes < synced.votes {
        let synced = synced.votes;
        let cause = format!("{synced} writes of votes were synced and {votes} recovered");
        return Err(StorageFault::LostLog { cause });
    }
    Ok(Identified {
        stored,
        mark,
        votes,
        opened_at: (synced.sequence, found),
    })
}

fn votes_in(db: &DB) -> Result<u64, StorageFault> {
    let found = db
        .get(records::VOTES)
        .map_err(|cause| StorageFault::io("reading the number of votes", cause))?;
    found.map_or(Ok(0), |bytes| records::decode_votes(&bytes))
}

fn write_ident(db: &DB, stored: &Stored) -> Result<(), StorageFault> {
    let wrote = db
        .put(records::IDENT, stored.encode())
        .and_then(|()| db.flush_wal(true));
    wrote.map_err(|cause| StorageFault::io("writing the node's identity", cause))
}

impl Drop for RocksLog {
    fn drop(&mut self) {
        self.close();
    }
}

impl LogBackend for RocksLog {
    fn state(&self, group: GroupId) -> LogState {
        self.with_tail(group, |tail| tail.state)
    }

    fn submit(&self, group: GroupId, op: LogOp, done: Completion) -> BoxFuture<'_, Ticket> {
        async move {
            let room = Arc::clone(&self.queue).acquire_many_owned(kib(&op)).await;
            let room = room.expect("the queue is never closed");
            self.with_tail(group, |tail| {
                // Numbered, taken into memory and queued under one lock: the three orders are the same.
                let mut next = self.shared.next_ticket.lock();
                *next += 1;
                let ticket = Ticket(*next);
                tail.take(&op, ticket);
                if let Some(sender) = &*self.sender.lock() {
                    // The thread ended: so does the process.
                    drop(sender.send(Job {
                        group,
                        op,
                        ticket,
                        done,
                        _room: room,
                    }));
                }
                ticket
            })
        }
        .boxed()
    }

    fn hint_committed(&self, group: GroupId, committed: LogId) {
        self.with_tail(group, |tail| tail.state.committed = Some(committed));
    }

    fn read(
        &self,
        group: GroupId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> io::Result<Vec<StoredEntry>> {
        let cached = self.with_tail(group, |tail| {
            if tail.is_cached(&range) {
                Ok(tail.read(&range, bytes_max))
            } else {
                Err(tail.on_disk(&range)) // a deleted range that is not flushed yet is never seen
            }
        });
        match cached {
            Ok(entries) => Ok(entries),
            Err(on_disk) => Ok(self.read_disk(group, &on_disk, bytes_max)?),
        }
    }

    fn is_cached(&self, group: GroupId, range: &Range<u64>) -> bool {
        self.with_tail(group, |tail| tail.is_cached(range))
    }

    fn durable(&self, group: GroupId, index: u64) -> BoxFuture<'_, io::Result<()>> {
        let Some(Ticket(ticket)) = self.with_tail(group, |tail| tail.ticket_of(index)) else {
            return futures::future::ready(Ok(())).boxed();
        };
        let mut durable = self.shared.durable.subscribe();
        async move {
            durable
                .wait_for(|now| *now >= ticket)
                .await
                .map(|_| ())
                .map_err(|_| io::Error::other("the log ended before the entry was durable"))
        }
        .boxed()
    }

    fn ident(&self) -> Ident {
        self.stored.lock().ident
    }

    fn reservation(&self) -> Option<Vec<u8>> {
        self.stored.lock().reservation.clone()
    }

    fn set_reservation(&self, reservation: Option<Vec<u8>>) -> Result<(), StorageFault> {
        let mut stored = self.stored.lock();
        let changed = Stored {
            ident: stored.ident,
            reservation,
        };
        write_ident(&self.db, &changed)?;
        *stored = changed;
        Ok(())
    }

    fn written_bytes(&self, group: GroupId) -> u64 {
        self.with_tail(group, |tail| tail.taken_bytes)
    }

    fn close(&self) {
        drop(self.sender.lock().take());
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            thread.join(); // it has drained the queue
        }
    }
}

fn kib(op: &LogOp) -> u32 {
    let bytes = match op {
        LogOp::Append(entries) => entries.iter().map(cost).sum(),
        LogOp::Truncate(_) | LogOp::Purge(_) | LogOp::Vote(_) | LogOp::Barrier => 64,
    };
    u32::try_from(bytes.div_ceil(1024))
        .unwrap_or(u32::MAX)
        .clamp(1, QUEUE_KIB_MAX)
}

/// The log-IO thread.
struct LogIo {
    db: Arc<DB>,
    shared: Arc<Shared>,
    mark: Watermark,
    /// How many batches with votes were written.
    votes: u64,
    sync: Durability,
    on_failure: OnFailure,
}

impl Worker for LogIo {
    type Job = Job;

    fn patience(&self) -> Option<Duration> {
        None
    }

    fn work(&mut self, first: Job, more: &mut Inbox<Job>) -> bool {
        let batch = gather(first, more);
        match self.write(&batch) {
            Ok(()) => {
                self.complete(batch);
                true
            }
            Err(fault) => {
                for job in batch {
                    (job.done)(Err(fault.clone().into()));
                }
                (self.on_failure)(&fault);
                false
            }
        }
    }

    fn idle(&mut self) -> bool {
        true
    }

    fn end(&mut self) {}
}

impl LogIo {
    fn write(&mut self, jobs: &[Job]) -> Result<(), StorageFault> {
        let mut batch = WriteBatch::default();
        let mut has_vote = false;
        let mut must_sync = false;
        for job in jobs {
            has_vote |= matches!(job.op, LogOp::Vote(_));
            must_sync |= !matches!(job.op, LogOp::Purge(_));
            put(&mut batch, job.group, &job.op);
        }
        if has_vote {
            self.votes += 1;
            batch.put(records::VOTES, records::encode_votes(self.votes));
        }
        self.put_hints(&mut batch, jobs);
        let has_purge = jobs.iter().any(|job| matches!(job.op, LogOp::Purge(_)));
        before_write(has_vote, has_purge)?;
        let failed = |what: &str, cause: rocksdb::Error| StorageFault::io(what, cause);
        metrics::counter!("holdfast_log_written_bytes_total")
            .increment(batch.size_in_bytes() as u64);
        let options = WriteOptions::default();
        self.db
            .write_opt(batch, &options)
            .map_err(|cause| failed("writing the log", cause))?;
        if has_purge {
            failpoints::reach("purge::after-write");
        }
        if must_sync {
            // Read before the sync: what another thread writes after it (a reservation) is not covered by it.
            let sequence = self.db.latest_sequence_number();
            let began = Instant::now();
            let waits = self.sync == Durability::Synced && !armed(Bug::AckBeforeFsync);
            if !armed(Bug::AckBeforeFsync) {
                self.reached("syncing");
            }
            let synced = if failpoints::broken("log::after-write") {
                Err(StorageFault::io("syncing the log", "a failpoint"))
            } else {
                let flushed = self.db.flush_wal(waits);
                flushed.map_err(|cause| failed("syncing the log", cause))
            };
            if !armed(Bug::FsyncErrorSwallowed) {
                synced?;
            }
            failpoints::reach("log::after-sync");
            metrics::histogram!("holdfast_log_fsync_duration_seconds").record(began.elapsed());
            if waits {
                let votes = self.votes;
                self.mark
                    .store(Synced { sequence, votes }, has_vote)
                    .map_err(|cause| StorageFault::io("writing the watermark", cause))?;
            }
            if has_vote {
                failpoints::reach("vote::after-write");
            }
        }
        metrics::histogram!("holdfast_log_group_commit_entries").record(entries_in(jobs));
        Ok(())
    }

    /// Tests delay a sync here.
    #[cfg(feature = "testing")]
    fn reached(&self, step: &'static str) {
        crate::testing::reached(self.db.path(), step);
    }

    #[cfg(not(feature = "testing"))]
    fn reached(&self, _step: &'static str) {}

    /// The newest `committed` per group, at the end of a batch, and only if its entry is written by then.
    fn put_hints(&self, batch: &mut WriteBatch, jobs: &[Job]) {
        let mut written: BTreeMap<GroupId, u64> = BTreeMap::new();
        for job in jobs {
            if let LogOp::Append(entries) = &job.op
                && let Some(last) = entries.last()
            {
                written.insert(job.group, last.id.index);
            }
        }
        let groups = self.shared.groups.lock();
        for (group, last_written) in written {
            let committed = groups.get(&group).and_then(|tail| tail.state.committed);
            if let Some(id) = committed.filter(|id| id.index <= last_written) {
                let key = records::meta_key(group, Meta::Committed);
                batch.put(key, records::encode_log_id(&id));
            }
        }
    }

    /// Newest first per group: openraft then takes the older ones as known already; votes and barriers after them.
    fn complete(&self, batch: Vec<Job>) {
        let Some(newest) = batch.last().map(|job| job.ticket) else {
            return;
        };
        failpoints::reach("log::before-callback");
        {
            let mut groups = self.shared.groups.lock();
            let share = TAIL_BYTES / groups.len().max(1);
            for tail in groups.values_mut() {
                tail.durable(newest, share.max(1 << 20));
            }
        }
        self.shared.durable.send_replace(newest.0);
        let mut logs: BTreeMap<GroupId, Vec<Completion>> = BTreeMap::new();
        let mut waiters = Vec::new();
        for job in batch {
            match job.op {
                LogOp::Append(_)
                    if armed(Bug::CompletionLost) && job.ticket.0.is_multiple_of(64) =>
                {
                    std::mem::forget(job.done);
                }
                LogOp::Append(_) | LogOp::Truncate(_) | LogOp::Purge(_) => {
                    logs.entry(job.group).or_default().push(job.done);
                }
                LogOp::Vote(_) | LogOp::Barrier => waiters.push(job.done),
            }
        }
        let newest_first = logs.into_values().flat_map(|done| done.into_iter().rev());
        for done in newest_first.chain(waiters) {
            done(Ok(()));
        }
        failpoints::reach("log::after-callback");
    }
}

/// Where a test run may make a write fail, or end the process.
#[expect(
    clippy::fn_params_excessive_bools,
    reason = "what the batch holds, each named where it is called"
)]
fn before_write(has_vote: bool, has_purge: bool) -> Result<(), StorageFault> {
    if has_vote {
        failpoints::reach("vote::before-write");
    }
    if has_purge {
        failpoints::reach("purge::before-write");
    }
    if failpoints::broken("log::before-write") {
        return Err(StorageFault::io("writing the log", "a failpoint"));
    }
    Ok(())
}

/// What has queued up meanwhile goes along: batching by load, no timer.
fn gather(first: Job, jobs: &mut Inbox<Job>) -> Vec<Job> {
    let mut bytes = weight(&first);
    let mut batch = vec![first];
    while bytes < BATCH_BYTES_MAX && batch.len() < BATCH_OPS_MAX {
        let Ok(next) = jobs.try_recv() else { break };
        bytes += weight(&next);
        batch.push(next);
    }
    batch
}

fn weight(job: &Job) -> usize {
    kib(&job.op) as usize * 1024
}

#[expect(clippy::cast_precision_loss, reason = "a figure for a histogram")]
fn entries_in(jobs: &[Job]) -> f64 {
    let entries: usize = jobs
        .iter()
        .map(|job| {
            if let LogOp::Append(entries) = &job.op {
                entries.len()
            } else {
                0
            }
        })
        .sum();
    entries as f64
}

/// In the order given: truncate-then-append of an index is a range delete and then a put, never the opposite.
fn put(batch: &mut WriteBatch, group: GroupId, op: &LogOp) {
    match op {
        LogOp::Append(entries) => {
            for entry in entries {
                let key = records::entry_key(group, entry.id.index);
                batch.put(key, records::encode_entry(entry));
            }
        }
        LogOp::Truncate(last) => {
            let from = records::entry_key(group, last.map_or(0, |id| id.index + 1));
            batch.delete_range(from, records::entry_key(group, u64::MAX));
        }
        LogOp::Purge(upto) => {
            let key = records::meta_key(group, Meta::Purged);
            batch.put(key, records::encode_log_id(upto));
            let end = records::entry_key(group, upto.index + 1);
            batch.delete_range(records::entry_key(group, 0), end);
        }
        LogOp::Vote(_) if armed(Bug::VoteNotPersisted) => {}
        LogOp::Vote(vote) => {
            let vote: &Vote = vote;
            batch.put(
                records::meta_key(group, Meta::Vote),
                records::encode_vote(vote),
            );
        }
        LogOp::Barrier => {}
    }
}
