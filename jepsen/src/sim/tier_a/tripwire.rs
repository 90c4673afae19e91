//! Rows in memory that write down what is written, and can break a command at one of its reads.
//!
//! Invariant: a planted break lies within the command's savepoint, never in what makes it count. Which reads those are is
//! learnt by applying the command to a copy first.

use std::{cell::Cell, panic::resume_unwind};

use holdfast_scheduler::rows::{Fault, Key, MemRows, ReadRows, Row, Rows, Stretch};

/// One row changed.
#[derive(Debug, Clone)]
pub struct Write {
    /// Which.
    pub key: Key,
    /// What was there.
    pub before: Option<Row>,
    /// What is there now.
    pub after: Option<Row>,
}

/// Rows, and what becomes of them.
#[derive(Debug, Clone, Default)]
pub struct Tripwire {
    rows: MemRows,
    writes: Vec<Write>,
    reads: Cell<u32>,
    /// Reads of the first savepoint: those before its first write counts.
    before_first_write: Option<u32>,
    fuse: Cell<Option<u32>>,
}

impl Tripwire {
    /// What lies there.
    pub fn rows(&self) -> &MemRows {
        &self.rows
    }

    /// As after a restart from a snapshot.
    pub fn restart(&mut self) {
        self.rows = self.rows.snapshot();
    }

    /// A new entry: nothing is written yet.
    pub fn begin(&mut self) {
        self.writes.clear();
        self.reads.set(0);
        self.before_first_write = None;
        self.fuse.set(None);
    }

    /// What the entry wrote, in order.
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// How many reads the entry's only command did before anything of it counted. The first read of an entry is the
    /// group's own row.
    pub fn breakable(&self) -> u32 {
        let reads = self.before_first_write.unwrap_or(self.reads.get());
        reads.saturating_sub(1)
    }

    /// The `nth` of those reads will break.
    pub fn plant(&self, nth: u32) {
        self.fuse.set(Some(nth + 1));
    }

    fn read(&self) {
        self.reads.set(self.reads.get() + 1);
        match self.fuse.get() {
            Some(0) => {
                self.fuse.set(None);
                resume_unwind(Box::new("planted")); // as a panic, but without a word on stderr
            }
            Some(left) => self.fuse.set(Some(left - 1)),
            None => {}
        }
    }

    fn write(&mut self, key: Key, after: Option<Row>) {
        if self.before_first_write.is_none() && key != Key::Group {
            self.before_first_write = Some(self.reads.get());
        }
        let before = self.rows.get(&key).ok().flatten();
        match after.clone() {
            Some(row) => self.rows.put(key.clone(), row),
            None => self.rows.delete(key.clone()),
        }
        self.writes.push(Write { key, before, after });
    }
}

impl ReadRows for Tripwire {
    fn get(&self, key: &Key) -> Result<Option<Row>, Fault> {
        self.read();
        self.rows.get(key)
    }
    fn scan(&self, stretch: &Stretch, each: &mut dyn FnMut(Key, Row) -> bool) -> Result<(), Fault> {
        self.read();
        self.rows.scan(stretch, each)
    }
}

impl Rows for Tripwire {
    fn put(&mut self, key: Key, row: Row) {
        self.write(key, Some(row));
    }
    fn delete(&mut self, key: Key) {
        self.write(key, None);
    }
}

#[cfg(test)]
mod tests {
    use holdfast_scheduler::ids::RunId;

    use super::*;

    #[test]
    fn a_planted_break_lies_before_anything_counts_and_happens_once() {
        let mut rows = Tripwire::default();
        let key = Key::Run(RunId::from_stored("r"));
        rows.begin();
        for _ in 0..3 {
            rows.get(&Key::Group).expect("in memory");
        }
        rows.put(key, Row::Mark);
        assert_eq!(rows.breakable(), 2, "not the group's");
        rows.begin();
        rows.plant(0);
        let read = |rows: &Tripwire| {
            let rows = std::panic::AssertUnwindSafe(rows);
            std::panic::catch_unwind(|| rows.get(&Key::Group)).is_err()
        };
        assert!(!read(&rows));
        assert!(read(&rows));
        assert!(!read(&rows));
    }

    #[test]
    fn writes_are_written_down_with_what_was_there() {
        let mut rows = Tripwire::default();
        rows.put(Key::Group, Row::Mark);
        rows.delete(Key::Group);
        let seen: Vec<_> = rows.writes().iter().map(|it| it.before.is_some()).collect();
        assert_eq!(seen, [false, true]);
    }
}
