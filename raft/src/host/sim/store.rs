//! What lies beneath one simulated database: what readers see, what is durable, the records between, and rot.
//!
//! Invariant: records are kept in order; what survives an end is a prefix of them that holds at least all that was synced.
//! Rot changes what is read, never what was written. Not here: the names of RocksDB (`rocksdb`), whose disk it is (`disk`).

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Rng;
use super::disk::End;

pub(super) type Rows = BTreeMap<Bytes, Bytes>;

/// What one write does.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Put(Bytes, Bytes),
    Delete(Bytes),
    DeleteRange(Bytes, Bytes),
}

/// What has become of a value on its medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rot {
    /// One bit of it is another, and no checksum of the store covers it.
    Flipped(u64),
    /// The store's own checksum does not match.
    Unreadable,
}

/// What the store says of a value that it cannot read.
const UNREADABLE: &str = "Corruption: block checksum mismatch";

fn do_to(rows: &mut Rows, op: &Op) {
    match op {
        Op::Put(key, value) => {
            rows.insert(key.clone(), value.clone());
        }
        Op::Delete(key) => {
            rows.remove(key);
        }
        Op::DeleteRange(from, to) if from < to => {
            let gone: Vec<Bytes> = rows
                .range(from.clone()..to.clone())
                .map(|(key, _)| key.clone())
                .collect();
            for key in gone {
                rows.remove(&key);
            }
        }
        Op::DeleteRange(..) => {}
    }
}

/// What is written anew lies elsewhere on the medium, and what is deleted is not read.
fn heal(rot: &mut BTreeMap<Bytes, Rot>, op: &Op) {
    if rot.is_empty() {
        return;
    }
    match op {
        Op::Put(key, _) | Op::Delete(key) => drop(rot.remove(key)),
        Op::DeleteRange(from, to) => rot.retain(|key, _| key < from || key >= to),
    }
}

/// A record: one batch. `told`: the system has it, so that the end of the process alone does not lose it.
#[derive(Debug)]
struct Record {
    ops: Vec<Op>,
    has_wal: bool,
    told: bool,
}

/// One database: what readers see, what is durable, and the records between.
#[derive(Debug, Default)]
pub(super) struct Store {
    rows: Rows,
    durable: Rows,
    durable_sequence: u64,
    records: Vec<Record>,
    sequence: u64,
    pub(super) is_open: bool,
    rot: BTreeMap<Bytes, Rot>,
    /// Whether rot was met by a read.
    pub(super) is_rot_seen: bool,
}

impl Store {
    pub(super) fn rows(&self) -> &Rows {
        &self.rows
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) fn write(&mut self, ops: Vec<Op>, has_wal: bool) {
        for op in &ops {
            do_to(&mut self.rows, op);
            heal(&mut self.rot, op);
        }
        self.sequence += ops.len() as u64;
        self.records.push(Record {
            ops,
            has_wal,
            told: false,
        });
    }

    pub(super) fn sync(&mut self) {
        for record in self.records.drain(..) {
            for op in &record.ops {
                do_to(&mut self.durable, op);
            }
        }
        self.durable_sequence = self.sequence;
    }

    /// What is synced, whatever has become of it since: what was promised was kept then.
    pub(super) fn durable(&self, key: &[u8]) -> Option<Bytes> {
        self.durable.get(key).cloned()
    }

    /// What a read of this value gives.
    pub(super) fn read(&mut self, key: &[u8], value: &[u8]) -> Result<Vec<u8>, String> {
        let mut value = value.to_vec();
        let Some(rot) = self.rot.get(key) else {
            return Ok(value);
        };
        self.is_rot_seen = true;
        match *rot {
            Rot::Unreadable => return Err(UNREADABLE.to_owned()),
            Rot::Flipped(bit) => {
                let bits = value.len() as u64 * 8;
                if bits > 0 {
                    let bit = bit % bits;
                    let at = usize::try_from(bit / 8).unwrap_or(0);
                    value[at] ^= 1 << (bit % 8);
                }
            }
        }
        Ok(value)
    }

    pub(super) fn get(&mut self, key: &[u8], persisted: bool) -> Result<Option<Vec<u8>>, String> {
        let rows = if persisted { &self.durable } else { &self.rows };
        let found = rows.get(key).cloned();
        found.map(|value| self.read(key, &value)).transpose()
    }

    /// One of the values that lie on the medium goes bad; which, if there is any.
    pub(super) fn rot(&mut self, rng: &mut Rng) -> Option<(Bytes, Rot)> {
        let at = usize::try_from(rng.below(self.durable.len() as u64)).unwrap_or(0);
        let key = self.durable.keys().nth(at)?.clone();
        let rot = if rng.percent(50) {
            Rot::Flipped(rng.draw())
        } else {
            Rot::Unreadable
        };
        self.rot.insert(key.clone(), rot);
        Some((key, rot))
    }

    pub(super) fn tell(&mut self) {
        for record in &mut self.records {
            record.told |= record.has_wal;
        }
    }

    /// What is left: how many records that were not synced stay, and how many are lost.
    pub(super) fn crash(&mut self, end: End, rng: &mut Rng) -> (usize, usize) {
        let told = self.records.iter().filter(|it| it.told).count();
        let without_wal = self.records.iter().any(|it| !it.has_wal);
        let kept = match end {
            End::Killed if !without_wal => told,
            End::PowerLost if !without_wal => {
                usize::try_from(rng.below(told as u64 + 1)).unwrap_or(0)
            }
            // What has no WAL stays as far as the background happened to have flushed it.
            End::Killed | End::PowerLost if rng.percent(50) => 0,
            End::Killed | End::PowerLost => {
                usize::try_from(rng.below(self.records.len() as u64 + 1)).unwrap_or(0)
            }
        };
        let lost = self.records.len() - kept;
        self.records.truncate(kept);
        self.sequence = self.durable_sequence
            + self
                .records
                .iter()
                .map(|it| it.ops.len() as u64)
                .sum::<u64>();
        self.sync();
        self.rows = self.durable.clone();
        self.is_open = false;
        (kept, lost)
    }
}
