//! The disks of all nodes: databases by path, and files with what of them is synced.
//!
//! Invariant: what a node reads back after its end is what was durable, and of the rest as much as the kind of end may leave.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::store::{Rows, Store};
use super::{Rng, trace};

/// What Linux says of a disk that is full.
const ENOSPC: i32 = 28;

thread_local! {
    static DISKS: Disks = Disks::default();
}

#[derive(Default)]
struct Disks {
    databases: Mutex<BTreeMap<PathBuf, Arc<Mutex<Store>>>>,
    files: Mutex<BTreeMap<PathBuf, Arc<Mutex<Content>>>>,
    tables: Mutex<BTreeMap<PathBuf, Rows>>,
    folders: Mutex<BTreeSet<PathBuf>>,
    /// Names that were made since the folder which they are in was synced, in order.
    names: Mutex<Vec<PathBuf>>,
    /// How many of them a loss of power takes; none where names are always kept.
    loses_names: Mutex<Option<Rng>>,
    /// Whether syncing a folder does nothing.
    lies: Mutex<bool>,
    /// How much of each node's disk is free, in percent, where that is not all of it.
    free: Mutex<BTreeMap<PathBuf, u64>>,
}

impl Disks {
    /// A name that was not there before.
    fn named(&self, path: &Path) {
        self.names.lock().push(path.to_owned());
    }

    /// A name is gone, and what it led to.
    fn forget(&self, name: &Path) {
        let is_other = |path: &PathBuf| !path.starts_with(name);
        self.databases.lock().retain(|path, _| is_other(path));
        self.files.lock().retain(|path, _| is_other(path));
        self.tables.lock().retain(|path, _| is_other(path));
        self.folders.lock().retain(is_other);
    }

    /// Of the names below `folder` that are not synced, some of the first stay.
    fn lose_names(&self, folder: &Path) {
        let mut names = self.names.lock();
        let (ours, others) = names.drain(..).partition(|path| path.starts_with(folder));
        *names = others;
        let ours: Vec<PathBuf> = ours;
        let mut loses = self.loses_names.lock();
        let Some(rng) = loses.as_mut().filter(|_| !ours.is_empty()) else {
            return;
        };
        let kept = usize::try_from(rng.below(ours.len() as u64 + 1)).unwrap_or(0);
        for name in &ours[kept..] {
            trace(&format!("disk {} loses its name", name.display()));
            self.forget(name);
        }
    }
}

/// From here on a loss of power takes names that were not synced, as this seed has it.
pub fn lose_names(seed: u64) {
    DISKS.with(|disks| *disks.loses_names.lock() = Some(Rng::new(seed)));
}

/// From here on syncing a folder does nothing: for whoever wants to know whether that would be noticed.
pub fn lie_about_names() {
    DISKS.with(|disks| *disks.lies.lock() = true);
}

/// So much of the disk below `folder` is free, in percent; at 0 nothing can be written to it.
pub fn set_free_percent(folder: &Path, percent: u64) {
    trace(&format!("disk {} has {percent} % free", folder.display()));
    DISKS.with(|disks| disks.free.lock().insert(folder.to_owned(), percent));
}

/// How much of the disk below `folder` is free, in percent.
pub fn free_percent(folder: &Path) -> u64 {
    DISKS.with(|disks| disks.free.lock().get(folder).copied().unwrap_or(100))
}

pub(super) fn is_full(path: &Path) -> bool {
    DISKS.with(|disks| {
        let free = disks.free.lock();
        let mut full = free.iter().filter(|(_, percent)| **percent == 0);
        full.any(|(folder, _)| path.starts_with(folder))
    })
}

/// One of the values in the log below `folder` goes bad. Whether there was any.
pub fn rot_log(folder: &Path, rng: &mut Rng) -> bool {
    let path = folder.join("log");
    let store = DISKS.with(|disks| disks.databases.lock().get(&path).cloned());
    let rotten = store.and_then(|store| store.lock().rot(rng));
    if let Some((key, rot)) = &rotten {
        trace(&format!("disk {}: {key:02x?} {rot:?}", path.display()));
    }
    rotten.is_some()
}

/// Whether anybody has met a value gone bad below `folder`.
pub fn is_rot_seen(folder: &Path) -> bool {
    DISKS.with(|disks| {
        let databases = disks.databases.lock();
        let mut ours = databases
            .iter()
            .filter(|(path, _)| path.starts_with(folder));
        ours.any(|(_, store)| store.lock().is_rot_seen)
    })
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
        if end == End::PowerLost {
            disks.lose_names(folder);
        }
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
    DISKS.with(|disks| {
        let mut databases = disks.databases.lock();
        if !databases.contains_key(path) {
            disks.named(path);
        }
        Arc::clone(databases.entry(path.to_owned()).or_default())
    })
}

pub(super) fn put_table(path: PathBuf, rows: Rows) {
    DISKS.with(|disks| disks.tables.lock().insert(path, rows));
}

pub(super) fn take_table(path: &Path) -> Option<Rows> {
    DISKS.with(|disks| disks.tables.lock().remove(path))
}

/// Makes the folder and those it is in.
pub(crate) fn create_dir_all(folder: impl AsRef<Path>) -> io::Result<()> {
    let folder = folder.as_ref();
    let is_missing = |it: &&Path| !exists(it).unwrap_or(false);
    let mut missing: Vec<&Path> = folder.ancestors().take_while(is_missing).collect();
    if !missing.is_empty() && is_full(folder) {
        return Err(io::Error::from_raw_os_error(ENOSPC));
    }
    missing.reverse();
    DISKS.with(|disks| {
        for made in missing {
            disks.folders.lock().insert(made.to_owned());
            disks.named(made);
        }
    });
    Ok(())
}

/// Removes the folder, and what is in it.
#[expect(clippy::unnecessary_wraps, reason = "a real disk may fail")]
pub(crate) fn remove_dir_all(folder: impl AsRef<Path>) -> io::Result<()> {
    let folder = folder.as_ref();
    DISKS.with(|disks| disks.forget(folder));
    Ok(())
}

/// Whether there is such a folder; the root always is.
#[expect(clippy::unnecessary_wraps, reason = "a real disk may fail")]
pub(crate) fn exists(folder: impl AsRef<Path>) -> io::Result<bool> {
    let folder = folder.as_ref();
    let is_made = DISKS.with(|disks| disks.folders.lock().contains(folder));
    Ok(is_made || folder.parent().is_none())
}

/// A file; or a folder, whose names are what is synced.
#[derive(Debug)]
pub(crate) struct File {
    content: Arc<Mutex<Content>>,
    folder: Option<PathBuf>,
}

impl File {
    pub(crate) fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let found = DISKS.with(|disks| disks.files.lock().get(path).cloned());
        let is_folder = exists(path)?;
        // Tables are opened only to be synced, and are synced as they are made.
        let is_table = DISKS.with(|it| it.tables.lock().contains_key(path));
        let folder = is_folder.then(|| path.to_owned());
        match found {
            Some(content) => Ok(Self { content, folder }),
            None if is_folder || is_table => Ok(Self {
                content: Arc::default(),
                folder,
            }),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "a real disk may fail")]
    pub(crate) fn sync_all(&self) -> io::Result<()> {
        let mut content = self.content.lock();
        content.synced = content.now.clone();
        if let Some(folder) = &self.folder {
            let is_elsewhere = |name: &PathBuf| name.parent() != Some(folder);
            DISKS.with(|disks| {
                if !*disks.lies.lock() {
                    disks.names.lock().retain(is_elsewhere);
                }
            });
        }
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
        let content = self.content.lock();
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let from = content.now.get(at..).unwrap_or_default();
        let len = from.len().min(to.len());
        to[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    fn write_all_at(&self, from: &[u8], at: u64) -> io::Result<()> {
        let mut content = self.content.lock();
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
                if !files.contains_key(path) {
                    disks.named(path);
                }
                return Some(Arc::clone(files.entry(path.to_owned()).or_default()));
            }
            files.get(path).cloned()
        });
        let content = content.ok_or(io::ErrorKind::NotFound)?;
        if self.truncate {
            content.lock().now.clear();
        }
        Ok(File {
            content,
            folder: None,
        })
    }
}
