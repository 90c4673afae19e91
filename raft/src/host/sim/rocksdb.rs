//! As much of RocksDB as this crate uses, in memory: same names, same promises, and its losses.
//!
//! Invariant: an answer is RocksDB's: of what was written, of what went bad, of a disk that is full.
//! Not here: files, compaction, caches: they change no answer; what survives an end (`store`).

use std::collections::VecDeque;
use std::fmt;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::store::{Op, Rows, Store};
use super::{AT_A_SYNC, current, disk, end, trace};

type Found = (Box<[u8]>, Box<[u8]>);

/// What went wrong.
#[derive(Debug, Clone)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// A database that is open.
pub struct DB {
    path: PathBuf,
    store: Arc<Mutex<Store>>,
}

impl Drop for DB {
    fn drop(&mut self) {
        self.store.lock().is_open = false;
    }
}

/// Settings, none of which changes an answer.
#[derive(Debug, Default)]
pub struct Options;

impl Options {
    pub(crate) fn set_compression_type(&mut self, _how: DBCompressionType) {}
}

/// How files are compressed.
#[derive(Debug, Clone, Copy)]
pub enum DBCompressionType {
    /// As ours are.
    Lz4,
}

/// Whether a write goes through the WAL.
#[derive(Debug, Default)]
pub struct WriteOptions {
    without_wal: bool,
}

impl WriteOptions {
    pub(crate) fn disable_wal(&mut self, without: bool) {
        self.without_wal = without;
    }

    pub(crate) fn set_memtable_insert_hint_per_batch(&mut self, _hint: bool) {}
}

/// Whether a flush is waited for: always.
#[derive(Debug, Default)]
pub struct FlushOptions;

impl FlushOptions {
    pub(crate) fn set_wait(&mut self, _wait: bool) {}
}

/// What a read sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadTier {
    /// Everything.
    All,
    /// What would survive a loss of power.
    Persisted,
}

/// How to read.
#[derive(Debug, Default)]
pub struct ReadOptions {
    lower: Option<Vec<u8>>,
    upper: Option<Vec<u8>>,
    persisted: bool,
}

impl ReadOptions {
    pub(crate) fn set_iterate_lower_bound(&mut self, key: Vec<u8>) {
        self.lower = Some(key);
    }

    pub(crate) fn set_iterate_upper_bound(&mut self, key: Vec<u8>) {
        self.upper = Some(key);
    }

    pub(crate) fn set_total_order_seek(&mut self, _total: bool) {}

    pub(crate) fn fill_cache(&mut self, _fill: bool) {}

    pub(crate) fn set_read_tier(&mut self, tier: ReadTier) {
        self.persisted = tier == ReadTier::Persisted;
    }
}

/// Which way.
#[derive(Debug, Clone, Copy)]
pub enum Direction {
    /// Ascending.
    Forward,
    /// Descending.
    Reverse,
}

/// Where an iteration begins.
#[derive(Debug, Clone, Copy)]
pub enum IteratorMode<'a> {
    /// At this key, or the next one in the direction.
    From(&'a [u8], Direction),
}

/// A range of keys.
#[derive(Debug, Clone, Copy)]
pub struct Range<'a> {
    from: &'a [u8],
    to: &'a [u8],
}

impl<'a> Range<'a> {
    pub(crate) fn new(from: &'a [u8], to: &'a [u8]) -> Self {
        Self { from, to }
    }
}

/// Several writes that become one record.
#[derive(Debug, Default)]
pub struct WriteBatch(Vec<Op>);

fn owned(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}

impl WriteBatch {
    pub(crate) fn with_capacity_bytes(_bytes: usize) -> Self {
        Self::default()
    }

    pub(crate) fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.0.push(Op::Put(owned(key), owned(value)));
    }

    pub(crate) fn delete(&mut self, key: impl AsRef<[u8]>) {
        self.0.push(Op::Delete(owned(key)));
    }

    pub(crate) fn delete_range(&mut self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) {
        self.0.push(Op::DeleteRange(owned(from), owned(to)));
    }

    pub(crate) fn size_in_bytes(&self) -> usize {
        let size = |op: &Op| match op {
            Op::Put(one, other) | Op::DeleteRange(one, other) => one.len() + other.len(),
            Op::Delete(key) => key.len(),
        };
        self.0.iter().map(size).sum()
    }
}

/// A value, held.
pub(crate) struct Pinned(Bytes);

impl std::ops::Deref for Pinned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Where an iteration goes on: the rest of its range, and which way.
#[derive(Debug, Clone)]
struct Rest {
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
    direction: Direction,
}

impl Rest {
    fn of(mode: IteratorMode<'_>, options: ReadOptions) -> Self {
        let IteratorMode::From(at, direction) = mode;
        let at = at.to_vec();
        let (from, to) = match direction {
            Direction::Forward => (
                Bound::Included(at.max(options.lower.unwrap_or_default())),
                options.upper.map_or(Bound::Unbounded, Bound::Excluded),
            ),
            Direction::Reverse => (
                options.lower.map_or(Bound::Unbounded, Bound::Included),
                match options.upper {
                    Some(upper) if upper <= at => Bound::Excluded(upper),
                    Some(_) | None => Bound::Included(at),
                },
            ),
        };
        Self {
            from,
            to,
            direction,
        }
    }

    /// The next rows, at most `count`; the rest is what lies behind them.
    fn take(&mut self, rows: &Rows, count: usize) -> VecDeque<Found> {
        let (from, to) = (self.from.as_ref(), self.to.as_ref());
        let is_empty = match (from, to) {
            (Bound::Included(from), Bound::Excluded(to))
            | (Bound::Excluded(from), Bound::Excluded(to) | Bound::Included(to)) => from >= to,
            (Bound::Included(from), Bound::Included(to)) => from > to,
            _ => false,
        };
        if is_empty {
            return VecDeque::new();
        }
        let found = rows.range::<[u8], _>((from.map(Vec::as_slice), to.map(Vec::as_slice)));
        let boxed = |(key, value): (&Bytes, &Bytes)| (Box::from(&**key), Box::from(&**value));
        let all: VecDeque<Found> = match self.direction {
            Direction::Forward => found.take(count).map(boxed).collect(),
            Direction::Reverse => found.rev().take(count).map(boxed).collect(),
        };
        if let Some((last, _)) = all.back() {
            let behind = Bound::Excluded(last.to_vec());
            match self.direction {
                Direction::Forward => self.from = behind,
                Direction::Reverse => self.to = behind,
            }
        }
        all
    }
}

/// Rows of a database that nobody writes meanwhile: there is one thread, and no iteration waits for anything.
pub(crate) struct Walk<'a> {
    rows: Seen<'a>,
    rest: Rest,
    taken: VecDeque<Found>,
    count: usize,
}

enum Seen<'a> {
    Now(&'a Mutex<Store>),
    Then(&'a Rows),
}

impl<'a> Walk<'a> {
    fn new(rows: Seen<'a>, rest: Rest) -> Self {
        Self {
            rows,
            rest,
            taken: VecDeque::new(),
            count: 4,
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Found, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.taken.is_empty() {
            self.taken = match self.rows {
                Seen::Now(store) => self.rest.take(store.lock().rows(), self.count),
                Seen::Then(rows) => self.rest.take(rows, self.count),
            };
            self.count = (self.count * 2).min(256);
        }
        let (key, value) = self.taken.pop_front()?;
        match self.rows {
            Seen::Now(store) => {
                let read = store.lock().read(&key, &value).map_err(Error);
                Some(read.map(|value| (key, value.into_boxed_slice())))
            }
            Seen::Then(_) => Some(Ok((key, value))),
        }
    }
}

/// Nothing is written to a disk that is full.
fn has_room(path: &Path) -> Result<(), Error> {
    if disk::is_full(path) {
        return Err(Error("IO error: No space left on device".to_owned()));
    }
    Ok(())
}

#[expect(
    clippy::unnecessary_wraps,
    clippy::unused_self,
    clippy::needless_pass_by_value,
    reason = "the names and signatures are RocksDB's"
)]
impl DB {
    pub(crate) fn open(_options: &Options, path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        has_room(&path)?; // each open writes a new list of files
        let store = disk::database(&path);
        if std::mem::replace(&mut store.lock().is_open, true) {
            return Err(Error("lock hold by current process".to_owned()));
        }
        Ok(Self { path, store })
    }

    #[cfg(feature = "testing")]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.get_opt(key, &ReadOptions::default())
    }

    pub(crate) fn get_pinned(&self, key: impl AsRef<[u8]>) -> Result<Option<Pinned>, Error> {
        let found = self.store.lock().get(key.as_ref(), false).map_err(Error)?;
        Ok(found.map(|value| Pinned(value.into())))
    }

    pub(crate) fn get_opt(
        &self,
        key: impl AsRef<[u8]>,
        options: &ReadOptions,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut store = self.store.lock();
        store.get(key.as_ref(), options.persisted).map_err(Error)
    }

    pub(crate) fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Error> {
        self.put_opt(key, value, &WriteOptions::default())
    }

    pub(crate) fn put_opt(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &WriteOptions,
    ) -> Result<(), Error> {
        let mut batch = WriteBatch::default();
        batch.put(key, value);
        self.write_opt(batch, options)
    }

    pub(crate) fn write_opt(&self, batch: WriteBatch, options: &WriteOptions) -> Result<(), Error> {
        self.store.lock().write(batch.0, !options.without_wal);
        Ok(())
    }

    /// The log's sync: here its disk fails, and here a process likes to die.
    pub(crate) fn flush_wal(&self, sync: bool) -> Result<(), Error> {
        let host = current();
        let habits = host.habits();
        has_room(&self.path)?;
        self.store.lock().tell();
        if host.chance(habits.dies_at_sync_ppm) {
            end(AT_A_SYNC);
        }
        if host.chance(habits.sync_fails_ppm) {
            return Err(Error("Input/output error".to_owned()));
        }
        let mut store = self.store.lock();
        if sync {
            store.sync();
            trace(&format!("n{} synced {}", host.node, store.sequence()));
        }
        Ok(())
    }

    pub(crate) fn flush_opt(&self, _options: &FlushOptions) -> Result<(), Error> {
        has_room(&self.path)?;
        self.store.lock().sync();
        Ok(())
    }

    pub(crate) fn latest_sequence_number(&self) -> u64 {
        self.store.lock().sequence()
    }

    pub(crate) fn iterator(&self, mode: IteratorMode<'_>) -> Walk<'_> {
        self.iterator_opt(mode, ReadOptions::default())
    }

    pub(crate) fn iterator_opt(&self, mode: IteratorMode<'_>, options: ReadOptions) -> Walk<'_> {
        Walk::new(Seen::Now(&self.store), Rest::of(mode, options))
    }

    pub(crate) fn get_approximate_sizes(&self, ranges: &[Range<'_>]) -> Vec<u64> {
        let store = self.store.lock();
        let size = |it: &Range<'_>| {
            let rows = store
                .rows()
                .range::<[u8], _>((Bound::Included(it.from), Bound::Excluded(it.to)));
            rows.map(|(key, value)| (key.len() + value.len()) as u64)
                .sum()
        };
        ranges.iter().map(size).collect()
    }

    pub(crate) fn property_int_value(&self, _name: &str) -> Result<Option<u64>, Error> {
        Ok(None)
    }

    pub(crate) fn property_value(&self, _name: &str) -> Result<Option<String>, Error> {
        Ok(None)
    }

    pub(crate) fn snapshot(&self) -> SnapshotWithThreadMode<'_, Self> {
        SnapshotWithThreadMode {
            rows: self.store.lock().rows().clone(),
            _of: std::marker::PhantomData,
        }
    }

    pub(crate) fn ingest_external_file_opts(
        &self,
        _options: &IngestExternalFileOptions,
        files: Vec<PathBuf>,
    ) -> Result<(), Error> {
        has_room(&self.path)?;
        let mut store = self.store.lock();
        for file in files {
            let rows = disk::take_table(&file)
                .ok_or_else(|| Error(format!("{}: no such file", file.display())))?;
            let ops = rows.into_iter().map(|(key, value)| Op::Put(key, value));
            store.write(ops.collect(), false);
        }
        // Files that are taken in are in the manifest, and all that was in memory is flushed before.
        store.sync();
        Ok(())
    }
}

/// A moment of a database.
pub struct SnapshotWithThreadMode<'a, D> {
    rows: Rows,
    _of: std::marker::PhantomData<&'a D>,
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the names and signatures are RocksDB's"
)]
impl<D> SnapshotWithThreadMode<'_, D> {
    pub(crate) fn iterator_opt(&self, mode: IteratorMode<'_>, options: ReadOptions) -> Walk<'_> {
        Walk::new(Seen::Then(&self.rows), Rest::of(mode, options))
    }
}

/// How files are taken in.
#[derive(Debug, Default)]
pub struct IngestExternalFileOptions;

impl IngestExternalFileOptions {
    pub(crate) fn set_move_files(&mut self, _may_move: bool) {}
}

/// Writes a table.
pub struct SstFileWriter<'a> {
    to: Mutex<Option<PathBuf>>,
    rows: Rows,
    _options: &'a Options,
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the names and signatures are RocksDB's"
)]
impl<'a> SstFileWriter<'a> {
    pub(crate) fn create(options: &'a Options) -> Self {
        Self {
            to: Mutex::default(),
            rows: Rows::new(),
            _options: options,
        }
    }

    pub(crate) fn open(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        *self.to.lock() = Some(path.as_ref().to_owned());
        Ok(())
    }

    pub(crate) fn put(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        self.rows.insert(owned(key), owned(value));
        Ok(())
    }

    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        let to = self.to.lock().take();
        let to = to.ok_or_else(|| Error("no file was opened".to_owned()))?;
        has_room(&to)?;
        disk::put_table(to, std::mem::take(&mut self.rows));
        Ok(())
    }
}
