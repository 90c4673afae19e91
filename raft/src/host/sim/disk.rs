//! The disks of all nodes: databases by path, and files with what of them is synced.
//!
//! Invariant: what a node reads back after its end is what was durable, and of the rest as much as the kind of end may leave.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::rocksdb::{Rows, Store};
use super::{Rng, trace};

thread_local! {
    static DISKS: Disks = Disks::default();
}

#[derive(Default)]
struct Disks {
    databases: Mutex<BTreeMap<PathBuf, Arc<Mutex<Store>>>>,
    files: Mutex<BTreeMap<PathBuf, Arc<Mutex<Content>>>>,
    tables: Mutex<BTreeMap<PathBuf, Rows>>,
    folders: Mutex<BTreeSet<PathBuf>>,
}

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is killed: what the system was told survives, synced or not.
    Killed,
    /// The machine loses power: what was not synced is lost, from some record on.
    PowerLost,
}

/// What the end of the process leaves of everything below `folder`.
pub fn crash(folder: &Path, end: End, rng: &mut Rng) {
    DISKS.with(|disks| {
        for (path, store) in disks.databases.lock().iter() {
            if path.starts_with(folder) {
                let (kept, lost) = store.lock().crash(end, rng);
                trace(&format!(
                    "disk {} {end:?}: {kept} unsynced records kept, {lost} lost",
                    path.display()
                ));
            }
        }
        for (path, content) in disks.files.lock().iter() {
            if path.starts_with(folder) && end == End::PowerLost && rng.percent(50) {
                let mut content = content.lock();
                content.now = content.synced.clone();
            }
        }
        disks
            .tables
            .lock()
            .retain(|path, _| !path.starts_with(folder));
    });
}

/// The folder is gone: another disk is put in.
pub fn wipe(folder: &Path) {
    DISKS.with(|disks| {
        disks
            .databases
            .lock()
            .retain(|path, _| !path.starts_with(folder));
        disks
            .files
            .lock()
            .retain(|path, _| !path.starts_with(folder));
    });
}

/// What would be read under this key after a loss of power that leaves only what was synced.
pub(crate) fn durable(database: &Path, key: &[u8]) -> Option<bytes::Bytes> {
    DISKS.with(|disks| {
        let databases = disks.databases.lock();
        databases.get(database)?.lock().durable(key)
    })
}

pub(super) fn database(path: &Path) -> Arc<Mutex<Store>> {
    DISKS.with(|disks| Arc::clone(disks.databases.lock().entry(path.to_owned()).or_default()))
}

pub(super) fn put_table(path: PathBuf, rows: Rows) {
    DISKS.with(|disks| disks.tables.lock().insert(path, rows));
}

pub(super) fn take_table(path: &Path) -> Option<Rows> {
    DISKS.with(|disks| disks.tables.lock().remove(path))
}

/// Makes the folder and those it is in. Names are durable at once.
#[expect(clippy::unnecessary_wraps, reason = "a real disk may be full")]
pub(crate) fn create_dir_all(folder: impl AsRef<Path>) -> io::Result<()> {
    let all = folder.as_ref().ancestors().map(Path::to_owned);
    DISKS.with(|disks| disks.folders.lock().extend(all));
    Ok(())
}

/// Removes the folder, and what is in it.
#[expect(clippy::unnecessary_wraps, reason = "a real disk may fail")]
pub(crate) fn remove_dir_all(folder: impl AsRef<Path>) -> io::Result<()> {
    let folder = folder.as_ref();
    DISKS.with(|disks| {
        disks
            .tables
            .lock()
            .retain(|path, _| !path.starts_with(folder));
        disks
            .folders
            .lock()
            .retain(|path| !path.starts_with(folder));
    });
    Ok(())
}

/// Whether there is such a folder; the root always is.
#[expect(clippy::unnecessary_wraps, reason = "a real disk may fail")]
pub(crate) fn exists(folder: impl AsRef<Path>) -> io::Result<bool> {
    let folder = folder.as_ref();
    let is_made = DISKS.with(|disks| disks.folders.lock().contains(folder));
    Ok(is_made || folder.parent().is_none())
}

/// A file, or a folder, which is always in order.
#[derive(Debug)]
pub(crate) struct File(Arc<Mutex<Content>>);

impl File {
    pub(crate) fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let found = DISKS.with(|disks| disks.files.lock().get(path).cloned());
        // Tables and folders are opened only to be synced, and are synced as they are made.
        let is_synced = exists(path)? || DISKS.with(|it| it.tables.lock().contains_key(path));
        match found {
            Some(content) => Ok(Self(content)),
            None if is_synced => Ok(Self(Arc::default())),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "a real disk may fail")]
    pub(crate) fn sync_all(&self) -> io::Result<()> {
        let mut content = self.0.lock();
        content.synced = content.now.clone();
        Ok(())
    }

    pub(crate) fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }
}

/// Reading and writing at a place.
pub(crate) trait FileExt {
    fn read_at(&self, to: &mut [u8], at: u64) -> io::Result<usize>;
    fn write_all_at(&self, from: &[u8], at: u64) -> io::Result<()>;
}

impl FileExt for File {
    fn read_at(&self, to: &mut [u8], at: u64) -> io::Result<usize> {
        let content = self.0.lock();
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let from = content.now.get(at..).unwrap_or_default();
        let len = from.len().min(to.len());
        to[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    fn write_all_at(&self, from: &[u8], at: u64) -> io::Result<()> {
        let mut content = self.0.lock();
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let end = at + from.len();
        if content.now.len() < end {
            content.now.resize(end, 0);
        }
        content.now[at..end].copy_from_slice(from);
        Ok(())
    }
}

/// How a file is opened.
#[derive(Debug, Default)]
pub(crate) struct OpenOptions {
    create: bool,
    truncate: bool,
}

impl OpenOptions {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn read(&mut self, _may: bool) -> &mut Self {
        self
    }

    pub(crate) fn write(&mut self, _may: bool) -> &mut Self {
        self
    }

    pub(crate) fn create(&mut self, create: bool) -> &mut Self {
        self.create = create;
        self
    }

    pub(crate) fn truncate(&mut self, truncate: bool) -> &mut Self {
        self.truncate = truncate;
        self
    }

    pub(crate) fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let path = path.as_ref();
        let content = DISKS.with(|disks| {
            let mut files = disks.files.lock();
            if self.create {
                return Some(Arc::clone(files.entry(path.to_owned()).or_default()));
            }
            files.get(path).cloned()
        });
        let content = content.ok_or(io::ErrorKind::NotFound)?;
        if self.truncate {
            content.lock().now.clear();
        }
        Ok(File(content))
    }
}
