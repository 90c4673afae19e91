//! The tap: what this node applied, one JSON line an entry, appended to a file for test runs to judge.
//!
//! Invariant: it only writes. A line is in the file before anybody is told of its entry, so a killed process has lost none
//! that somebody acted on; after a restart lines begin again where the node replays, so they repeat. Costs nothing when off.
//! Not here: how a line is made from an entry (`tap/line.rs`), reading it (`holdfast-jepsen`, whose `records::Applied` it is).

mod line;

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use rustix::time::{ClockId, clock_gettime};

use holdfast_scheduler::{
    apply::Applied,
    entry::Entry,
    ids::{IntentNo, LogIndex, RunId},
    rows::{self, ReadRows, TypedRows},
};

use line::Line;

/// The file that all groups of this node write to.
#[derive(Debug, Clone)]
pub struct Tap(Arc<File>);

impl Tap {
    /// Appends to this file; makes it where there is none.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self(Arc::new(file)))
    }

    /// The part of one group.
    pub fn of(&self, group: u32) -> GroupTap {
        GroupTap {
            file: Arc::clone(&self.0),
            group,
            in_force: 0,
            now: 0,
            open: None,
            broken: false,
        }
    }
}

/// One group's lines.
#[derive(Debug)]
pub struct GroupTap {
    file: Arc<File>,
    group: u32,
    in_force: u64,
    now: u64,
    /// Of the entry that is being applied.
    open: Option<Line>,
    broken: bool,
}

impl GroupTap {
    /// The rows stand where they stood when the process began, or a snapshot was installed.
    pub fn rebuilt(&mut self, rows: &dyn ReadRows) {
        let group = rows.group().ok().flatten().unwrap_or_default();
        (self.in_force, self.now) = (group.epoch, group.clock.0);
    }

    /// The engine has applied an entry; these steps were admitted at their limits by it.
    ///
    /// # Errors
    /// `Fault`: a row cannot be decoded.
    pub fn entry(
        &mut self,
        rows: &dyn ReadRows,
        at: LogIndex,
        entry: &Entry,
        applied: &Applied,
        admitted: &[(RunId, IntentNo)],
    ) -> Result<(), rows::Fault> {
        let group = rows.group()?.unwrap_or_default();
        (self.in_force, self.now) = (group.epoch, group.clock.0);
        self.open = Some(line::of(rows, at, entry, applied, admitted)?);
        Ok(())
    }

    /// The entry at `at` counts, also one that is none of the engine's; `digest` is the running one after it.
    pub fn applied(&mut self, at: u64, digest: u128) {
        let mut line = self.open.take().unwrap_or_default();
        line.t = monotonic_ns();
        line.group = self.group;
        line.index = at;
        line.in_force = self.in_force;
        line.now = self.now;
        line.digest = format!("{digest:032x}");
        if self.broken {
            return; // what comes after a gap would only mislead
        }
        let mut text = serde_json::to_vec(&line).expect("plain values have a JSON form");
        text.push(b'\n');
        // One write call a line: the lines of several groups do not mix.
        if let Err(cause) = (&*self.file).write_all(&text) {
            self.broken = true;
            tracing::error!(%cause, group = self.group, "the tap cannot be written and ends here");
        }
    }
}

/// Since the machine began, whatever clocks a test moves for the node itself.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}
