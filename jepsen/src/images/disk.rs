//! What a disk holds of what was done to it: what was synced for certain, and of the rest any part.
//!
//! Invariant: a sync of a file covers the bytes written to it before the sync began, and not its name; a sync of a folder covers the
//! names in it. That is all a disk must keep: file systems keep more, and differ in what. Texts for people (`LOG`, `LOCK`) are left out.
//! Not here: which part of the rest is kept (`build`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use super::trace::{Call, Event, How};

type Inode = u32;

/// One change of the disk.
#[derive(Debug, Clone)]
pub enum Change {
    /// A new file.
    Create {
        /// Its name.
        path: String,
        /// The file.
        inode: Inode,
    },
    /// Bytes of a file.
    Write {
        /// Which file.
        inode: Inode,
        /// Where in it.
        at: u64,
        /// Which bytes.
        bytes: Arc<[u8]>,
    },
    /// Another length of a file.
    Length {
        /// Which file.
        inode: Inode,
        /// Its length.
        len: u64,
        /// Only if it grows by that.
        at_least: bool,
    },
    /// A name moved.
    Rename {
        /// The old one.
        from: String,
        /// The new one.
        to: String,
        /// Of this file.
        inode: Inode,
    },
    /// Another name of a file.
    Link {
        /// The name.
        path: String,
        /// The file.
        inode: Inode,
    },
    /// A name went.
    Unlink {
        /// Which.
        path: String,
    },
    /// A new folder.
    Mkdir {
        /// Its name.
        path: String,
    },
    /// A folder went.
    Rmdir {
        /// Its name.
        path: String,
    },
}

impl Change {
    /// Whether it changes names, and not bytes.
    pub fn is_of_names(&self) -> bool {
        !matches!(self, Self::Write { .. } | Self::Length { .. })
    }

    /// The object whose sync covers it: a file, or the folders of the names.
    fn is_covered_by(&self, target: &Target) -> bool {
        match (self, target) {
            (Self::Write { inode, .. } | Self::Length { inode, .. }, Target::File(file)) => {
                inode == file
            }
            (Self::Rename { to, .. }, Target::Folder(folder)) => parent(to) == folder,
            (
                Self::Create { path, .. }
                | Self::Link { path, .. }
                | Self::Unlink { path }
                | Self::Mkdir { path }
                | Self::Rmdir { path },
                Target::Folder(folder),
            ) => parent(path) == folder,
            _ => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    File(Inode),
    Folder(String),
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// A sync that ended.
#[derive(Debug, Clone)]
pub struct Sync {
    /// When it had ended (seconds of the wall clock).
    pub at: f64,
    /// What was synced.
    pub path: String,
    /// How many changes had been made when it began, and when it ended.
    pub began: usize,
    /// See `began`.
    pub ended: usize,
}

/// All that was done to the disk.
#[derive(Debug, Default)]
pub struct History {
    /// Changes, each with the number of the sync that first covered it.
    pub changes: Vec<(Change, Option<usize>)>,
    /// Syncs in the order in which they ended.
    pub syncs: Vec<Sync>,
    /// The file of the watermark.
    mark: Option<Inode>,
}

/// A moment at which the node knew that its log was synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// How many changes had been made.
    pub at: usize,
    /// How many of them were made before the sync began that it knew of.
    pub covered: usize,
}

/// The files in which the log's store keeps what it has not sorted yet: each append is in one of them.
pub fn is_wal(path: &str) -> bool {
    path.strip_prefix("log/")
        .and_then(|name| name.strip_suffix(".log"))
        .is_some_and(|name| name.bytes().all(|it| it.is_ascii_digit()))
}

/// A file or folder that the process has open.
struct Opened {
    target: Target,
    path: String,
    position: u64,
    append: bool,
}

/// What the calls have made so far, as the process sees it.
#[derive(Default)]
struct Seen {
    history: History,
    names: BTreeMap<String, Inode>,
    folders: BTreeSet<String>,
    sizes: HashMap<Inode, u64>,
    fds: HashMap<i64, Opened>,
    next: Inode,
    /// Whose syncs do nothing.
    lies: Option<fn(&str) -> bool>,
}

impl History {
    /// From the calls of a process that began with an empty folder.
    ///
    /// # Errors
    /// The calls do not fit each other: the trace is not whole.
    pub fn of(events: &[Event]) -> Result<Self, String> {
        Self::without(events, |_| false)
    }

    /// As `of`, on a disk that lies: syncs of these paths do nothing.
    ///
    /// # Errors
    /// As for `of`.
    pub fn without(events: &[Event], lies: fn(&str) -> bool) -> Result<Self, String> {
        let mut seen = Seen {
            lies: Some(lies),
            ..Seen::default()
        };
        seen.folders.insert(String::new());
        let mut changes_before = Vec::with_capacity(events.len());
        for event in events {
            changes_before.push(seen.history.changes.len());
            seen.take(event, &changes_before)?;
        }
        Ok(seen.history)
    }

    /// The moments at which the node knew that its log was synced: after how many changes it wrote its watermark, and how many there
    /// were when the last sync of the log's own log before that began.
    pub fn told(&self) -> Vec<Told> {
        let mut told = Vec::new();
        let mut syncs = self.syncs.iter().filter(|it| is_wal(&it.path)).peekable();
        let mut covered = None;
        let marks = self.changes.iter().enumerate();
        for (at, _) in marks.filter(|(_, (change, _))| self.is_mark(change)) {
            while let Some(sync) = syncs.next_if(|it| it.ended <= at) {
                covered = Some(sync.began);
            }
            if let Some(covered) = covered.take() {
                told.push(Told { at, covered });
            }
        }
        told
    }

    fn is_mark(&self, change: &Change) -> bool {
        let Change::Write { inode, .. } = change else {
            return false;
        };
        self.mark == Some(*inode)
    }
}

fn is_text(path: &str) -> bool {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    name.starts_with("LOG") || name == "LOCK"
}

impl Seen {
    fn change(&mut self, change: Change) {
        self.history.changes.push((change, None));
    }

    fn take(&mut self, event: &Event, changes_before: &[usize]) -> Result<(), String> {
        match &event.call {
            Call::Restart => self.fds.clear(),
            Call::Open { path, fd, how } => {
                self.fds.remove(fd);
                if !is_text(path) {
                    let opened = Opened {
                        target: self.open(path, *how)?,
                        path: path.clone(),
                        position: 0,
                        append: how.appends,
                    };
                    self.fds.insert(*fd, opened);
                }
            }
            Call::Write { fd, at, bytes } => self.write(*fd, *at, bytes),
            Call::Truncate { fd, len } => self.resize(*fd, *len, false),
            Call::Allocate { fd, len } => {
                if let Some(len) = len {
                    self.resize(*fd, *len, true);
                }
            }
            Call::Rename { from, .. } if is_text(from) => {}
            Call::Rename { from, to } => {
                let inode = self.named(from)?;
                self.names.remove(from);
                self.names.insert(to.clone(), inode);
                let (from, to) = (from.clone(), to.clone());
                self.change(Change::Rename { from, to, inode });
            }
            Call::Link { from, to } => {
                let inode = self.named(from)?;
                self.names.insert(to.clone(), inode);
                let path = to.clone();
                self.change(Change::Link { path, inode });
            }
            Call::Unlink { path } => {
                if self.names.remove(path).is_some() {
                    let path = path.clone();
                    self.change(Change::Unlink { path });
                }
            }
            Call::Mkdir { path } => {
                if self.folders.insert(path.clone()) {
                    let path = path.clone();
                    self.change(Change::Mkdir { path });
                }
            }
            Call::Rmdir { path } => {
                self.folders.remove(path);
                let path = path.clone();
                self.change(Change::Rmdir { path });
            }
            Call::Sync { fd, began } => self.sync(event.at, *fd, changes_before[*began]),
        }
        Ok(())
    }

    fn named(&self, path: &str) -> Result<Inode, String> {
        let known = self.names.get(path).copied();
        known.ok_or_else(|| format!("{path} gets another name, and is no known file"))
    }

    fn resize(&mut self, fd: i64, len: u64, at_least: bool) {
        let Some(inode) = self.file(fd) else {
            return; // a text for people
        };
        let size = self.sizes.entry(inode).or_default();
        *size = if at_least { len.max(*size) } else { len };
        self.change(Change::Length {
            inode,
            len,
            at_least,
        });
    }

    fn open(&mut self, path: &str, how: How) -> Result<Target, String> {
        if self.folders.contains(path) {
            return Ok(Target::Folder(path.to_owned()));
        }
        if let Some(inode) = self.names.get(path).copied() {
            if how.empties {
                self.sizes.insert(inode, 0);
                let (len, at_least) = (0, false);
                self.change(Change::Length {
                    inode,
                    len,
                    at_least,
                });
            }
            return Ok(Target::File(inode));
        }
        if !how.creates {
            return Err(format!("{path} is opened, and nothing made it"));
        }
        let inode = self.next;
        self.next += 1;
        self.names.insert(path.to_owned(), inode);
        if path == "WATERMARK" {
            self.history.mark = Some(inode);
        }
        let path = path.to_owned();
        self.change(Change::Create { path, inode });
        Ok(Target::File(inode))
    }

    fn file(&self, fd: i64) -> Option<Inode> {
        match self.fds.get(&fd)?.target {
            Target::File(inode) => Some(inode),
            Target::Folder(_) => None,
        }
    }

    fn write(&mut self, fd: i64, at: Option<u64>, bytes: &[u8]) {
        let Some(inode) = self.file(fd) else {
            return; // a text for people
        };
        let Some(opened) = self.fds.get_mut(&fd) else {
            return;
        };
        let size = self.sizes.entry(inode).or_default();
        let start = at.unwrap_or(if opened.append {
            *size
        } else {
            opened.position
        });
        let end = start + bytes.len() as u64;
        if at.is_none() {
            opened.position = end;
        }
        *size = (*size).max(end);
        let bytes = bytes.into();
        self.change(Change::Write {
            inode,
            at: start,
            bytes,
        });
    }

    fn sync(&mut self, at: f64, fd: i64, began: usize) {
        let Some(opened) = self.fds.get(&fd) else {
            return;
        };
        if self.lies.is_some_and(|lies| lies(&opened.path)) {
            return;
        }
        let number = self.history.syncs.len();
        for (change, covered) in &mut self.history.changes[..began] {
            if covered.is_none() && change.is_covered_by(&opened.target) {
                *covered = Some(number);
            }
        }
        let ended = self.history.changes.len();
        let path = opened.path.clone();
        self.history.syncs.push(Sync {
            at,
            path,
            began,
            ended,
        });
    }
}

/// Names and bytes on a disk.
#[derive(Debug, Default, Clone)]
pub struct Disk {
    names: BTreeMap<String, Inode>,
    folders: BTreeSet<String>,
    files: HashMap<Inode, Rc<Vec<u8>>>,
}

impl Disk {
    /// The change reaches the disk; of a write only the first `kept` bytes.
    pub fn apply(&mut self, change: &Change, kept: Option<usize>) {
        match change {
            Change::Create { path, inode } | Change::Link { path, inode } => {
                self.names.insert(path.clone(), *inode);
            }
            Change::Write { inode, at, bytes } => {
                let bytes = &bytes[..kept.unwrap_or(bytes.len()).min(bytes.len())];
                let file = Rc::make_mut(self.files.entry(*inode).or_default());
                let start = usize::try_from(*at).expect("files of a trace fit in memory");
                if file.len() < start + bytes.len() {
                    file.resize(start + bytes.len(), 0);
                }
                file[start..start + bytes.len()].copy_from_slice(bytes);
            }
            Change::Length {
                inode,
                len,
                at_least,
            } => {
                let file = Rc::make_mut(self.files.entry(*inode).or_default());
                let len = usize::try_from(*len).expect("files of a trace fit in memory");
                if !at_least || file.len() < len {
                    file.resize(len, 0);
                }
            }
            Change::Rename { from, to, inode } => {
                if self.names.get(from) == Some(inode) {
                    self.names.remove(from);
                }
                self.names.insert(to.clone(), *inode);
            }
            Change::Unlink { path } => {
                self.names.remove(path);
            }
            Change::Mkdir { path } => {
                self.folders.insert(path.clone());
            }
            Change::Rmdir { path } => {
                self.folders.remove(path);
            }
        }
    }

    /// Files with their bytes, by name; one whose folder is not there is lost.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let reached = |path: &str| {
            let mut folder = parent(path);
            while !folder.is_empty() {
                if !self.folders.contains(folder) {
                    return false;
                }
                folder = parent(folder);
            }
            true
        };
        self.names
            .iter()
            .filter(move |(path, _)| reached(path))
            .map(|(path, inode)| {
                let bytes = self.files.get(inode).map_or(&[][..], |it| it.as_slice());
                (path.as_str(), bytes)
            })
    }

    /// Writes it into an empty folder.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write_to(&self, folder: &Path) -> io::Result<()> {
        for made in &self.folders {
            std::fs::create_dir_all(folder.join(made))?;
        }
        for (path, bytes) in self.files() {
            std::fs::write(folder.join(path), bytes)?;
        }
        Ok(())
    }
}
