//! Rows: stored facts, as typed keys and values, and the trait through which the core reads and writes them.
//!
//! Bytes are elsewhere (`proto/src/domain`); the order of keys here is the order there. Orders over facts that can be
//! rebuilt from rows live in memory (`orders`).

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::Bytes;

use crate::{
    ids::{Generation, LimitName, Name, RequestId, RunId, Seq, SessionId, Version},
    reply::{JournalRow, Status},
    seeded::{self, Bug},
    time::Timestamp,
    values::{
        limit::Limit,
        run::{Buffered, Finished, Group, Run, Session, VersionRow, Workflow},
    },
};

/// Names one row. Variants are ordered by their kind's number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// What the group knows of itself.
    Group,
    /// A live run.
    Run(RunId),
    /// A run once final.
    Finished(RunId),
    /// What a run was started with.
    Input(RunId, Generation),
    /// One row of a run's journal.
    Journal(RunId, Generation, Seq),
    /// A buffered signal, in order of arrival (log index, number within the entry).
    Signal(RunId, Name, (u64, u32)),
    /// A signal id that was taken: its repeat is the same send.
    Seen(RunId, RequestId),
    /// What a run published last.
    View(RunId, Name),
    /// A worker process.
    Session(SessionId),
    /// A limit.
    Limit(LimitName),
    /// A workflow's name.
    Workflow(Name),
    /// A version of it.
    Version(Name, Version),
    /// Runs by class, newest first.
    ByClass(Class, Newest, RunId),
    /// Runs by workflow and version, newest first.
    ByWorkflow(Name, Version, Newest, RunId),
    /// Runs by time, newest first.
    ByTime(Newest, RunId),
    /// Runs that have ended, by how long what is left of them is kept, the oldest end first.
    Ended(Keeps, Timestamp, RunId),
}

/// What is kept of a run that has ended; each for a time of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Keeps {
    /// All of one that completed.
    Completed = 1,
    /// All of one that ended otherwise.
    Failed = 2,
    /// How it ended, so that its id is not taken for a new one.
    Id = 3,
}

/// A moment that sorts newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Newest(u64);

impl Newest {
    /// The later the time, the smaller this.
    pub const fn first(time: Timestamp) -> Self {
        Self(u64::MAX - time.0)
    }
    /// The time.
    pub const fn time(self) -> Timestamp {
        Timestamp(u64::MAX - self.0)
    }
    /// As it lies in a key.
    pub const fn number(self) -> u64 {
        self.0
    }
    /// From a key.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// Coarse classes of runs, so that a plain step touches no index row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// Scheduled, ready, running or waiting.
    Live = 1,
    /// Held still.
    Paused = 2,
    /// Dangerous.
    Quarantined = 3,
    /// Ending.
    Undoing = 4,
    /// Final.
    Completed = 5,
    /// Final.
    Failed = 6,
    /// Final.
    Cancelled = 7,
    /// Final.
    Terminated = 8,
    /// Final.
    TimedOut = 9,
}

impl From<Status> for Class {
    fn from(status: Status) -> Self {
        match status {
            Status::Scheduled | Status::Ready | Status::Running | Status::Waiting => Self::Live,
            Status::Paused => Self::Paused,
            Status::Quarantined => Self::Quarantined,
            Status::Undoing => Self::Undoing,
            Status::Completed => Self::Completed,
            Status::Failed => Self::Failed,
            Status::Cancelled => Self::Cancelled,
            Status::Terminated => Self::Terminated,
            Status::TimedOut => Self::TimedOut,
        }
    }
}

/// A stored fact. Its variant is that of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// Under `Key::Group`.
    Group(Group),
    /// Under `Key::Run`.
    Run(Arc<Run>),
    /// Under `Key::Finished`.
    Finished(Arc<Finished>),
    /// Under `Key::Input` and `Key::View`.
    Bytes(Bytes),
    /// Under `Key::Journal`.
    Journal(Arc<JournalRow>),
    /// Under `Key::Signal`.
    Signal(Buffered),
    /// Under `Key::Seen` and the index keys: the key says it all.
    Mark,
    /// Under `Key::Session`.
    Session(Arc<Session>),
    /// Under `Key::Limit`.
    Limit(Limit),
    /// Under `Key::Workflow`.
    Workflow(Workflow),
    /// Under `Key::Version`.
    Version(Arc<VersionRow>),
}

/// This replica cannot go on: a row that cannot be decoded, an unknown command or level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this replica cannot apply: {0}")]
pub struct Fault(pub String);

/// Rows of one kind that lie together: where a scan begins, and what all of its keys have in common.
///
/// The end matters as much as the beginning: a scan that looked for it would go through all that was deleted behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    from: Key,
    behind: bool,
    alike: Alike,
}

/// What the keys of a stretch have in common with its first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alike {
    /// The kind.
    Kind,
    /// The kind and the first part.
    One,
    /// The kind and the first two parts.
    Two,
}

impl Stretch {
    /// From this key on.
    pub fn from(from: Key, alike: Alike) -> Self {
        let behind = false;
        Self {
            from,
            behind,
            alike,
        }
    }
    /// Behind this key.
    pub fn behind(from: Key, alike: Alike) -> Self {
        let behind = true;
        Self {
            from,
            behind,
            alike,
        }
    }
    /// Where it begins.
    pub fn first(&self) -> Bound<&Key> {
        if self.behind {
            Bound::Excluded(&self.from)
        } else {
            Bound::Included(&self.from)
        }
    }
    /// The key that all are like, and in what.
    pub fn like(&self) -> (&Key, Alike) {
        (&self.from, self.alike)
    }
    /// Whether this key is like the first one; it must not lie before that.
    pub fn reaches(&self, key: &Key) -> bool {
        let (one, two) = match (&self.from, key) {
            (Key::Group, Key::Group) => (true, true),
            (Key::Run(a), Key::Run(b)) | (Key::Finished(a), Key::Finished(b)) => (a == b, true),
            (Key::Input(a, x), Key::Input(b, y)) => (a == b, x == y),
            (Key::Journal(a, x, _), Key::Journal(b, y, _)) => (a == b, x == y),
            (Key::Signal(a, x, _), Key::Signal(b, y, _)) => (a == b, x == y),
            (Key::Seen(a, x), Key::Seen(b, y)) => (a == b, x == y),
            (Key::View(a, x), Key::View(b, y)) => (a == b, x == y),
            (Key::Session(a), Key::Session(b)) => (a == b, true),
            (Key::Limit(a), Key::Limit(b)) => (a == b, true),
            (Key::Workflow(a), Key::Workflow(b)) => (a == b, true),
            (Key::Version(a, x), Key::Version(b, y)) => (a == b, x == y),
            (Key::ByClass(a, x, _), Key::ByClass(b, y, _)) => (a == b, x == y),
            (Key::ByWorkflow(a, x, ..), Key::ByWorkflow(b, y, ..)) => (a == b, x == y),
            (Key::ByTime(a, x), Key::ByTime(b, y)) => (a == b, x == y),
            (Key::Ended(a, x, _), Key::Ended(b, y, _)) => (a == b, x == y),
            _ => return false, // of another kind
        };
        match self.alike {
            Alike::Kind => true,
            Alike::One => one,
            Alike::Two => one && two,
        }
    }
}

/// Rows as they are read.
pub trait ReadRows {
    /// The row under a key.
    ///
    /// # Errors
    /// `Fault`: what is stored there cannot be decoded; this replica must stop.
    fn get(&self, key: &Key) -> Result<Option<Row>, Fault>;

    /// Rows of a stretch, in key order, until `each` says to stop.
    ///
    /// # Errors
    /// `Fault`: as `get`.
    fn scan(&self, stretch: &Stretch, each: &mut dyn FnMut(Key, Row) -> bool) -> Result<(), Fault>;
}

/// Rows as `apply` writes them.
pub trait Rows: ReadRows {
    /// Stores a row.
    fn put(&mut self, key: Key, row: Row);
    /// Removes a row, if there is one.
    fn delete(&mut self, key: Key);
}

/// Rows in memory, for tests, the model and the test kit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemRows(BTreeMap<Key, Row>);

impl MemRows {
    /// All rows, in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Row)> {
        self.0.iter()
    }

    /// Rows from this key on, in key order.
    pub fn iter_from(&self, from: &Key) -> impl Iterator<Item = (&Key, &Row)> {
        self.0
            .range::<Key, _>((Bound::Included(from), Bound::Unbounded))
    }

    /// As a snapshot carries them to another replica, or to the same one after a restart.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        let mut copy = self.clone();
        if seeded::armed(Bug::DedupeLostInSnapshot) {
            copy.0.retain(|key, _| !matches!(key, Key::Seen(..)));
        }
        if seeded::armed(Bug::BucketLostInSnapshot) {
            copy.fill_buckets();
        }
        copy
    }

    fn fill_buckets(&mut self) {
        for row in self.0.values_mut() {
            if let Row::Limit(limit) = row {
                limit.fill();
            }
        }
    }
}

impl ReadRows for MemRows {
    fn get(&self, key: &Key) -> Result<Option<Row>, Fault> {
        Ok(self.0.get(key).cloned())
    }
    fn scan(&self, stretch: &Stretch, each: &mut dyn FnMut(Key, Row) -> bool) -> Result<(), Fault> {
        let rows = self.0.range::<Key, _>((stretch.first(), Bound::Unbounded));
        for (key, row) in rows.take_while(|(key, _)| stretch.reaches(key)) {
            if !each(key.clone(), row.clone()) {
                break;
            }
        }
        Ok(())
    }
}

impl Rows for MemRows {
    fn put(&mut self, key: Key, row: Row) {
        self.0.insert(key, row);
    }
    fn delete(&mut self, key: Key) {
        self.0.remove(&key);
    }
}

macro_rules! typed {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) -> $row:ident($of:ty) = $key:expr;)*) => {
        /// Typed reads: what a key holds is what its kind says.
        pub trait TypedRows: ReadRows { $(
            $(#[$doc])*
            ///
            /// # Errors
            /// `Fault`: what is stored there is of another kind, or cannot be decoded.
            fn $name(&self, $($arg: $ty),*) -> Result<Option<$of>, Fault> {
                let key = $key;
                match self.get(&key)? {
                    None => Ok(None),
                    Some(Row::$row(row)) => Ok(Some(row)),
                    Some(other) => Err(Fault(format!("{key:?} holds {other:?}"))),
                }
            }
        )* }
        impl<R: ReadRows + ?Sized> TypedRows for R {}
    };
}
typed! {
    /// What the group knows of itself.
    group() -> Group(Group) = Key::Group;
    /// A live run.
    run(id: &RunId) -> Run(Arc<Run>) = Key::Run(id.clone());
    /// A run once final.
    finished(id: &RunId) -> Finished(Arc<Finished>) = Key::Finished(id.clone());
    /// What a run was started with.
    input(id: &RunId, generation: Generation) -> Bytes(Bytes) = Key::Input(id.clone(), generation);
    /// One row of a run's journal.
    journal_row(id: &RunId, generation: Generation, seq: Seq) -> Journal(Arc<JournalRow>)
        = Key::Journal(id.clone(), generation, seq);
    /// A view.
    view(id: &RunId, name: &Name) -> Bytes(Bytes) = Key::View(id.clone(), name.clone());
    /// A worker process.
    session(id: SessionId) -> Session(Arc<Session>) = Key::Session(id);
    /// A limit.
    limit(name: &LimitName) -> Limit(Limit) = Key::Limit(name.clone());
    /// A workflow's name.
    workflow(name: &Name) -> Workflow(Workflow) = Key::Workflow(name.clone());
    /// A version of it.
    version(name: &Name, version: Version) -> Version(Arc<VersionRow>)
        = Key::Version(name.clone(), version);
}
