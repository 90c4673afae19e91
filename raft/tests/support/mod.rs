//! What the tests of this crate share: a register as the machine, and images of a data folder as a crash would leave it.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod cluster;
pub mod counted;
pub mod delayed;
pub mod proxy;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_raft::{
    Applied, Encoded, EntryKind, Fault, LogId, Machine, NodeId, Overlay, RowSnapshot,
};
use holdfast_raft::{StoredEntry, state::ToApply};
use parking_lot::{Condvar, Mutex};
use tempfile::TempDir;

/// What the register is told.
#[derive(Debug, Clone)]
pub enum Command {
    /// Counts one more under this id, with so many bytes beside it.
    Add { id: u64, ballast: usize },
    /// Waits until the gate is open.
    Pass,
    /// No replica can apply it.
    Poison,
}

pub fn add(id: u64) -> Command {
    Command::Add { id, ballast: 0 }
}

/// Holds back `Command::Pass` while it is shut.
#[derive(Default)]
pub struct Gate {
    shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub fn shut(&self) {
        *self.shut.lock() = true;
    }

    pub fn open(&self) {
        *self.shut.lock() = false;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut shut = self.shut.lock();
        while *shut {
            self.opened.wait(&mut shut);
        }
    }
}

/// Counts in rows: how often in all, how often each id, and at which index last.
#[derive(Default)]
pub struct Register {
    pub gate: Arc<Gate>,
}

const COUNT: &[u8] = b"count";
const LAST: &[u8] = b"last";

fn id_key(id: u64) -> Bytes {
    let mut key = BytesMut::from(&b"id"[..]);
    key.put_u64(id);
    key.freeze()
}

fn number(row: Option<Bytes>) -> u64 {
    row.map_or(0, |mut row| row.get_u64())
}

impl Machine for Register {
    type Command = Command;
    /// The count after the command.
    type Reply = u64;
    type Effect = u64;
    type Dirty = u64;

    fn encode(command: &Command) -> Encoded {
        let mut item = BytesMut::new();
        match command {
            Command::Add { id, ballast } => {
                item.put_u8(0);
                item.put_u64(*id);
                item.put_u32(u32::try_from(*ballast).unwrap());
                item.put_bytes(7, *ballast);
            }
            Command::Pass => item.put_u8(1),
            Command::Poison => item.put_u8(2),
        }
        Encoded::Item(item.freeze())
    }

    fn entry(_epoch: u64, _proposed_at_ms: u64, items: &[Bytes]) -> Bytes {
        items.concat().into()
    }

    fn apply(
        &mut self,
        rows: &mut Overlay<'_>,
        at: u64,
        entry: &Bytes,
    ) -> Result<Applied<u64, u64>, Fault> {
        let mut entry = &entry[..];
        let (mut replies, mut effects) = (Vec::new(), Vec::new());
        while entry.has_remaining() {
            match entry.get_u8() {
                0 => {
                    let (id, ballast) = (entry.get_u64(), entry.get_u32() as usize);
                    let mut value = BytesMut::new();
                    value.put_u64(number(rows.get(&id_key(id)).unwrap()) + 1);
                    value.put_slice(&entry[..ballast]);
                    entry.advance(ballast);
                    rows.put(id_key(id), value.freeze());
                    let count = number(rows.get(COUNT).unwrap()) + 1;
                    rows.put(
                        Bytes::from_static(COUNT),
                        Bytes::from(count.to_be_bytes().to_vec()),
                    );
                    effects.push(id);
                }
                1 => self.gate.pass(),
                _ => return Err(Fault("poison".to_owned())),
            }
            replies.push(number(rows.get(COUNT).unwrap()));
        }
        rows.put(
            Bytes::from_static(LAST),
            Bytes::from(at.to_be_bytes().to_vec()),
        );
        Ok(Applied { replies, effects })
    }

    fn rebuild(&mut self, _rows: &RowSnapshot<'_>) {}

    fn dirty(effect: &u64) -> u64 {
        *effect
    }

    fn levels(&self) -> RangeInclusive<u32> {
        1..=1
    }
}

/// The bytes of an entry of these commands.
pub fn entry_of(commands: &[Command]) -> Bytes {
    let item = |command| match Register::encode(command) {
        Encoded::Item(item) | Encoded::Entry(item) => item,
    };
    let items: Vec<Bytes> = commands.iter().map(item).collect();
    Register::entry(0, 0, &items)
}

/// How many commands have been counted.
pub fn count(rows: &RowSnapshot<'_>) -> u64 {
    number(rows.get(COUNT).unwrap())
}

/// How often the command of this id has been counted.
pub fn times(rows: &RowSnapshot<'_>, id: u64) -> u64 {
    number(rows.get(&id_key(id)).unwrap())
}

/// The index of the last entry with commands.
pub fn last(rows: &RowSnapshot<'_>) -> u64 {
    number(rows.get(LAST).unwrap())
}

/// Sets the count in the rows of a node that does not run, as a bad disk might: all that it counts from here on is wrong.
pub fn flip_count(folder: &Path, wrong: u64) {
    let db = rocksdb::DB::open(&rocksdb::Options::default(), folder.join("state")).unwrap();
    let key = [&1_u32.to_be_bytes()[..], &0_u32.to_be_bytes(), COUNT].concat();
    assert!(db.get(&key).unwrap().is_some(), "the row is there");
    db.put(&key, wrong.to_be_bytes()).unwrap();
    db.flush().unwrap();
}

pub fn log_id(term: u64, index: u64) -> LogId {
    let node = NodeId(1);
    LogId { term, node, index }
}

/// An entry that counts one command under its own index.
pub fn entry(term: u64, index: u64) -> StoredEntry {
    StoredEntry {
        id: log_id(term, index),
        kind: EntryKind::Normal,
        payload: entry_of(&[Command::Add {
            id: index,
            ballast: 40,
        }]),
    }
}

pub fn to_apply(entry: StoredEntry) -> ToApply<Register> {
    ToApply { entry, done: None }
}

/// The folder as a sudden end of the process would leave it now. Taken again while a background job changes files: what a
/// copy mixes from two moments no crash would leave.
pub fn image(folder: &Path) -> TempDir {
    for _ in 0..200 {
        let copy = tempfile::tempdir().unwrap();
        let before = files(folder);
        if copy_into(folder, copy.path()).is_ok() && files(folder) == before {
            return copy;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the files of {} never stood still", folder.display());
}

/// All files with their sizes, but for the texts that RocksDB writes for people.
fn files(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut all = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for found in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(meta) = found.metadata() else { continue };
            if meta.is_dir() {
                open.push(found.path());
            } else if !is_text(&found.file_name()) {
                all.insert(found.path(), meta.len());
            }
        }
    }
    all
}

fn is_text(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"LO") // LOCK, LOG, LOG.old.…
}

fn copy_into(from: &Path, to: &Path) -> io::Result<()> {
    for found in fs::read_dir(from)? {
        let found = found?;
        let to = to.join(found.file_name());
        if found.file_type()?.is_dir() {
            fs::create_dir_all(&to)?;
            copy_into(&found.path(), &to)?;
        } else if !is_text(&found.file_name()) {
            fs::copy(found.path(), to)?;
        }
    }
    Ok(())
}
