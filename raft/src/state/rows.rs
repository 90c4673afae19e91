//! Rows as the machine and readers see them: what was applied lately lies in memory over what is stored.
//!
//! Invariant: `Held` is whole entries, in log order; it reaches the disk in one batch together with the pointer of its last
//! entry, so a reader who holds its lock sees one moment.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use bytes::Bytes;
use foldhash::fast::RandomState;
use parking_lot::RwLockReadGuard;

use super::db::{PREFIX_BYTES, prefix, stored_key};
use super::pointer::Pointer;
use crate::error::StorageFault;
use crate::host::rocksdb::{self, DB, Direction, IteratorMode, ReadOptions};
use crate::types::GroupId;

/// A row as a scan gives it: key (without group and generation) and value.
pub type Row = (Bytes, Bytes);

/// A row's new value; `None`: it is removed.
type Value = Option<Bytes>;

/// What one entry has written so far, each row once, in the order in which they were written first.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pub(super) rows: Vec<(Bytes, Value)>,
    place: HashMap<Bytes, usize, RandomState>,
}

impl Writes {
    fn get(&self, key: &[u8]) -> Option<&Value> {
        self.place.get(key).map(|nth| &self.rows[*nth].1)
    }

    fn set(&mut self, key: Bytes, value: Value) {
        match self.place.entry(key) {
            Entry::Occupied(known) => self.rows[*known.get()].1 = value,
            Entry::Vacant(new) => {
                self.rows.push((new.key().clone(), value));
                new.insert(self.rows.len() - 1);
            }
        }
    }
}

/// What was applied and is not written out yet, and up to where.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) writes: BTreeMap<Bytes, Value>,
    pub(super) bytes: usize,
    pub(super) pointer: Pointer,
}

impl Held {
    /// Takes in the writes of one entry.
    pub(super) fn take(&mut self, writes: Writes) {
        for (key, value) in writes.rows {
            self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len) + 64;
            self.writes.insert(key, value);
        }
    }
}

/// A stored row, with the group's prefix on its key.
type Found = (Box<[u8]>, Box<[u8]>);

/// The stored rows of one group and generation.
#[derive(Clone, Copy)]
pub(super) struct Stored<'a> {
    pub(super) db: &'a DB,
    pub(super) group: GroupId,
    pub(super) generation: u32,
}

impl Stored<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageFault> {
        let found = self
            .db
            .get_pinned(stored_key(self.group, self.generation, key));
        let found = found.map_err(|cause| StorageFault::io("reading a row", cause))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// Rows with `from <= key < to`, under what is held and then `newest` laid over them, at most `limit`.
    fn scan(
        &self,
        held: &Held,
        newest: Option<&Writes>,
        (from, to): (&[u8], &[u8]),
        limit: usize,
        direction: Direction,
    ) -> Result<Vec<Row>, StorageFault> {
        if from >= to || limit == 0 {
            return Ok(Vec::new());
        }
        let range = (Bound::Included(from), Bound::Excluded(to));
        let held = held.writes.range::<[u8], _>(range);
        let mut over: BTreeMap<&Bytes, &Value> = held.collect();
        let newest = newest.iter().flat_map(|it| &it.rows);
        let newest = newest.filter(|(key, _)| from <= &key[..] && &key[..] < to);
        over.extend(newest.map(|(key, value)| (key, value)));
        let mut over: Vec<(&Bytes, &Value)> = over.into_iter().collect();
        if matches!(direction, Direction::Reverse) {
            over.reverse();
        }
        let before = |a: &[u8], b: &[u8]| match direction {
            Direction::Forward => a < b,
            Direction::Reverse => a > b,
        };
        let mut over = over.into_iter().peekable();
        let mut rows = Vec::new();
        for item in self.iterate(from, to, direction) {
            let (key, value) = item.map_err(|cause| StorageFault::io("scanning rows", cause))?;
            let key = Bytes::copy_from_slice(&key[8..]);
            while let Some((k, v)) = over.next_if(|(k, _)| before(k, &key)) {
                rows.extend(v.clone().map(|v| (k.clone(), v)));
            }
            match over.next_if(|(k, _)| **k == key) {
                Some((_, newer)) => rows.extend(newer.clone().map(|newer| (key, newer))),
                None => rows.push((key, Bytes::from(value))),
            }
            if rows.len() >= limit {
                break;
            }
        }
        while rows.len() < limit
            && let Some((key, value)) = over.next()
        {
            rows.extend(value.clone().map(|value| (key.clone(), value)));
        }
        rows.truncate(limit);
        Ok(rows)
    }

    fn iterate(
        &self,
        from: &[u8],
        to: &[u8],
        direction: Direction,
    ) -> impl Iterator<Item = Result<Found, rocksdb::Error>> {
        let low = stored_key(self.group, self.generation, from);
        let high = stored_key(self.group, self.generation, to);
        let mut options = ReadOptions::default();
        // Prefix filters know of one kind of rows only: a range over several would lose those of a file without the first.
        options.set_total_order_seek(low.get(..PREFIX_BYTES) != high.get(..PREFIX_BYTES));
        options.set_iterate_lower_bound(low.clone());
        options.set_iterate_upper_bound(high.clone());
        let start = match direction {
            Direction::Forward => low,
            Direction::Reverse => high,
        };
        self.db
            .iterator_opt(IteratorMode::From(&start, direction), options)
    }
}

/// The rows of one group while an entry is applied. Keys are the machine's own; group and generation are added here.
pub struct Overlay<'a> {
    pub(super) stored: Stored<'a>,
    pub(super) held: &'a Held,
    pub(super) writes: Writes,
}

impl Overlay<'_> {
    /// The value of `key`.
    ///
    /// # Errors
    /// The disk cannot be read: make it a `Fault`.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageFault> {
        if let Some(value) = self.writes.get(key) {
            return Ok(value.clone());
        }
        if let Some(value) = self.held.writes.get(key) {
            return Ok(value.clone());
        }
        self.stored.get(key)
    }

    /// Writes a row.
    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.writes.set(key, Some(value));
    }

    /// Removes a row.
    pub fn delete(&mut self, key: Bytes) {
        self.writes.set(key, None);
    }

    /// Rows with `from <= key < to` in order, at most `limit`.
    ///
    /// # Errors
    /// As for [`Overlay::get`].
    pub fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StorageFault> {
        let (held, newest) = (self.held, Some(&self.writes));
        self.stored
            .scan(held, newest, (from, to), limit, Direction::Forward)
    }

    /// As [`Overlay::scan`], the greatest key first.
    ///
    /// # Errors
    /// As for [`Overlay::get`].
    pub fn scan_back(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<Row>, StorageFault> {
        let (held, newest) = (self.held, Some(&self.writes));
        self.stored
            .scan(held, newest, (from, to), limit, Direction::Reverse)
    }
}

/// The rows of one group as of one applied entry. Holds apply back while it lives: look, and drop it.
pub struct RowSnapshot<'a> {
    pub(super) stored: Stored<'a>,
    pub(super) held: RwLockReadGuard<'a, Held>,
}

impl RowSnapshot<'_> {
    /// Up to which log index these rows are; 0 before the first entry.
    pub fn applied(&self) -> u64 {
        self.held.pointer.last.map_or(0, |id| id.index)
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageFault> {
        match self.held.writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.stored.get(key),
        }
    }

    /// Rows with `from <= key < to` in order, at most `limit`.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, StorageFault> {
        self.stored
            .scan(&self.held, None, (from, to), limit, Direction::Forward)
    }

    /// As [`RowSnapshot::scan`], the greatest key first.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn scan_back(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<Row>, StorageFault> {
        self.stored
            .scan(&self.held, None, (from, to), limit, Direction::Reverse)
    }
}

/// The keys of one group and generation.
pub(crate) fn own_range(group: GroupId, generation: u32) -> ([u8; 8], [u8; 8]) {
    (prefix(group, generation), prefix(group, generation + 1))
}
