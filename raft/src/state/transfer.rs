//! Whole snapshots: read out in blocks, received into files, ingested under a new generation.
//!
//! Invariant: what is received counts only once its count, bytes and digest equal the sender's; until the pointer flips, no
//! reader sees it. Whatever is not installed is removed.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use twox_hash::XxHash3_128;

use super::db::{StateDb, stored_key};
use super::rows::own_range;
use crate::error::StorageFault;
use crate::host::rocksdb::{
    DB, DBCompressionType, Direction, IngestExternalFileOptions, IteratorMode, Options,
    ReadOptions, SnapshotWithThreadMode, SstFileWriter,
};
use crate::host::{self, fs};
use crate::types::{GroupId, LogId};

/// Rows of a block weigh about this much.
const BLOCK_BYTES: usize = 512 << 10;

/// What is known of a snapshot besides its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapMeta {
    /// The last entry it covers.
    pub last: Option<LogId>,
    /// Where its membership was logged.
    pub membership_at: Option<LogId>,
    /// The membership, as the adapter encoded it.
    pub membership: Bytes,
}

/// A part of a snapshot on the wire: rows in key order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The rows, length-prefixed.
    pub rows: Bytes,
    /// crc32 of `rows`.
    pub crc: u32,
    /// The first key in it.
    pub first_key: Bytes,
    /// The last key in it.
    pub last_key: Bytes,
}

/// The end of a snapshot: what the receiver must have counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trailer {
    /// Rows.
    pub count: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Digest of all rows.
    pub rows_digest: u128,
    /// The group's running digest at the last entry.
    pub running_digest: u128,
}

/// The rows of a snapshot: to be read here, or received and waiting to be installed (removed when dropped).
pub enum SnapData {
    /// Rows of this node.
    Local(Box<dyn Blocks>),
    /// Received, complete and checked.
    Staged(Staged),
}

/// A snapshot being read, block by block. Blocking.
pub trait Blocks: Send + Sync {
    /// The next block; `None` after the last one.
    ///
    /// # Errors
    /// The disk cannot be read.
    fn next_block(&mut self) -> Result<Option<Block>, StorageFault>;
    /// After the last block.
    fn trailer(&self) -> Trailer;
    /// Another reader from the beginning, of the same moment.
    fn restart(&self) -> Box<dyn Blocks>;
}

/// Counts and digests rows, the same way at both ends.
struct Tally {
    count: u64,
    bytes: u64,
    hasher: XxHash3_128,
}

impl Tally {
    fn new() -> Self {
        Self {
            count: 0,
            bytes: 0,
            hasher: XxHash3_128::new(),
        }
    }

    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.count += 1;
        self.bytes += (key.len() + value.len()) as u64;
        for part in [key, value] {
            self.hasher.write(&(part.len() as u64).to_be_bytes());
            self.hasher.write(part);
        }
    }

    fn trailer(&self, running_digest: u128) -> Trailer {
        let rows_digest = self.hasher.finish_128();
        Trailer {
            count: self.count,
            bytes: self.bytes,
            rows_digest,
            running_digest,
        }
    }
}

/// A moment of the database that lives as long as it is needed.
struct Moment {
    // Dropped before `db`: fields are dropped in the order of their declaration.
    snapshot: SnapshotWithThreadMode<'static, DB>,
    _db: Arc<DB>,
}

#[expect(
    unsafe_code,
    reason = "a snapshot that owns its database cannot be said with lifetimes"
)]
fn moment(db: &Arc<DB>) -> Arc<Moment> {
    // SAFETY: the snapshot borrows the `DB` inside the `Arc`, which stands at one address and is kept alive by `_db` until
    // after the snapshot is dropped.
    let lasting: &'static DB = unsafe { &*Arc::as_ptr(db) };
    Arc::new(Moment {
        snapshot: lasting.snapshot(),
        _db: Arc::clone(db),
    })
}

/// The rows of one group as of one moment.
pub(super) struct LocalBlocks {
    moment: Arc<Moment>,
    group: GroupId,
    generation: u32,
    running_digest: u128,
    tally: Tally,
    next: Option<Vec<u8>>,
}

impl LocalBlocks {
    pub(super) fn of(db: &Arc<DB>, group: GroupId, generation: u32, running_digest: u128) -> Self {
        Self::reading(moment(db), group, generation, running_digest)
    }

    fn reading(moment: Arc<Moment>, group: GroupId, generation: u32, running_digest: u128) -> Self {
        let next = Some(own_range(group, generation).0.to_vec());
        Self {
            moment,
            group,
            generation,
            running_digest,
            tally: Tally::new(),
            next,
        }
    }
}

impl Blocks for LocalBlocks {
    fn next_block(&mut self) -> Result<Option<Block>, StorageFault> {
        let Some(from) = self.next.take() else {
            return Ok(None);
        };
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(own_range(self.group, self.generation).1.to_vec());
        options.fill_cache(false);
        options.set_total_order_seek(true); // all kinds of rows
        let mode = IteratorMode::From(&from, Direction::Forward);
        let mut rows = BytesMut::new();
        let (mut first_key, mut last_key) = (None, Bytes::new());
        for item in self.moment.snapshot.iterator_opt(mode, options) {
            let (key, value) =
                item.map_err(|cause| StorageFault::io("reading a snapshot", cause))?;
            if rows.len() >= BLOCK_BYTES {
                self.next = Some(key.to_vec());
                break;
            }
            let own = &key[8..];
            put_part(&mut rows, own);
            put_part(&mut rows, &value);
            self.tally.add(own, &value);
            last_key = Bytes::copy_from_slice(own);
            first_key.get_or_insert_with(|| last_key.clone());
        }
        let Some(first_key) = first_key else {
            return Ok(None);
        };
        let rows = rows.freeze();
        Ok(Some(Block {
            crc: crc32fast::hash(&rows),
            rows,
            first_key,
            last_key,
        }))
    }

    fn trailer(&self) -> Trailer {
        self.tally.trailer(self.running_digest)
    }

    fn restart(&self) -> Box<dyn Blocks> {
        let moment = Arc::clone(&self.moment);
        Box::new(Self::reading(
            moment,
            self.group,
            self.generation,
            self.running_digest,
        ))
    }
}

fn put_part(rows: &mut BytesMut, part: &[u8]) {
    let len = u32::try_from(part.len()).expect("a row is far below 4 GiB");
    rows.put_u32(len);
    rows.put_slice(part);
}

/// A part and what follows it.
fn split_part(rows: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = rows.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*len) as usize)
}

/// A snapshot being received. Blocking; dropped unfinished, it removes what it wrote.
pub struct Staging {
    db: Arc<StateDb>,
    group: GroupId,
    generation: u32,
    folder: Folder,
    writer: Option<SstFileWriter<'static>>,
    tally: Tally,
    last_key: Option<Bytes>,
}

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(cause) = fs::remove_dir_all(&self.0) {
            tracing::debug!(%cause, "a staging folder is removed at the next start");
        }
    }
}

impl Staging {
    pub(crate) fn begin(
        db: &Arc<StateDb>,
        group: GroupId,
        generation: u32,
    ) -> Result<Self, StorageFault> {
        let folder = db
            .staging
            .join(format!("{}-{generation}-{}", group.0, host::uuid()));
        fs::create_dir_all(&folder)
            .map_err(|cause| StorageFault::io(format!("making {}", folder.display()), cause))?;
        let folder = Folder(folder);
        let db = Arc::clone(db);
        Ok(Self {
            db,
            group,
            generation,
            folder,
            writer: None,
            tally: Tally::new(),
            last_key: None,
        })
    }

    /// Takes the next block.
    ///
    /// # Errors
    /// Out of order, damaged, or the disk is full.
    pub fn write(&mut self, block: &Block) -> Result<(), StorageFault> {
        let bad = |cause: &str| StorageFault::corrupt("a block of a snapshot", cause);
        if crc32fast::hash(&block.rows) != block.crc {
            return Err(bad("its checksum does not match"));
        }
        let mut rest: &[u8] = &block.rows;
        while !rest.is_empty() {
            let (key, more) = split_part(rest).ok_or_else(|| bad("a row is cut short"))?;
            let (value, more) = split_part(more).ok_or_else(|| bad("a row is cut short"))?;
            if self.last_key.as_ref().is_some_and(|last| **last >= *key) {
                return Err(bad("its rows are out of order"));
            }
            self.put(key, value)?;
            self.last_key = Some(Bytes::copy_from_slice(key));
            rest = more;
        }
        Ok(())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageFault> {
        let failed = |cause| StorageFault::io("writing a received snapshot", cause);
        if self.writer.is_none() {
            let writer = SstFileWriter::create(sst_options());
            writer
                .open(self.folder.0.join("rows.sst"))
                .map_err(failed)?;
            self.writer = Some(writer);
        }
        self.tally.add(key, value);
        let writer = self.writer.as_mut().expect("it was opened just now");
        writer
            .put(stored_key(self.group, self.generation, key), value)
            .map_err(failed)
    }

    /// What its trailer would have to say.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn counted(&self, running_digest: u128) -> Trailer {
        self.tally.trailer(running_digest)
    }

    /// Checks the whole against the trailer and syncs it.
    ///
    /// # Errors
    /// Not what was sent, or the disk failed.
    pub fn finish(mut self, trailer: &Trailer) -> Result<Staged, StorageFault> {
        let counted = self.tally.trailer(trailer.running_digest);
        if counted != *trailer {
            let cause = format!("{counted:?} was received of {trailer:?}");
            return Err(StorageFault::corrupt("a received snapshot", cause));
        }
        let failed = |cause: String| StorageFault::io("finishing a received snapshot", cause);
        let mut files = Vec::new();
        if let Some(mut writer) = self.writer.take() {
            writer.finish().map_err(|cause| failed(cause.to_string()))?;
            let file = self.folder.0.join("rows.sst");
            let synced = fs::File::open(&file).and_then(|file| file.sync_all());
            synced.map_err(|cause| failed(cause.to_string()))?;
            files.push(file);
        }
        let synced = fs::File::open(&self.folder.0).and_then(|folder| folder.sync_all());
        synced.map_err(|cause| failed(cause.to_string()))?;
        let (db, generation, digest) = (self.db, self.generation, trailer.running_digest);
        Ok(Staged {
            db,
            generation,
            digest,
            files,
            _folder: self.folder,
        })
    }
}

fn sst_options() -> &'static Options {
    static OPTIONS: std::sync::OnceLock<Options> = std::sync::OnceLock::new();
    OPTIONS.get_or_init(|| {
        let mut options = Options::default();
        options.set_compression_type(DBCompressionType::Lz4);
        options
    })
}

/// A snapshot that has been received.
pub struct Staged {
    db: Arc<StateDb>,
    generation: u32,
    digest: u128,
    files: Vec<PathBuf>,
    _folder: Folder,
}

impl Staged {
    /// Takes the files into the database under their generation, where no reader sees them yet.
    pub(super) fn ingest(self) -> Result<(u32, u128), StorageFault> {
        if !self.files.is_empty() {
            let mut options = IngestExternalFileOptions::default();
            options.set_move_files(true);
            self.db
                .db
                .ingest_external_file_opts(&options, self.files.clone())
                .map_err(|cause| StorageFault::io("taking in a received snapshot", cause))?;
        }
        Ok((self.generation, self.digest))
    }
}
