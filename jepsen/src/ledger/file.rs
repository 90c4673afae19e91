//! The ledger file: one JSON line per call, in the order in which the shop judged them.
//!
//! Invariant: a line is whole and synced before its caller is answered; lines of one file have rising `seq`. The end of a file may be
//! torn by a crash of the shop, and only the end. Not here: judging calls (`till`), adding up (`audit`).

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// What a caller wanted done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Deed {
    /// Take money.
    Charge {
        /// How much.
        cents: u64,
    },
    /// Give back what was taken under a key; works even for a charge whose answer was lost, and for one that never came.
    Refund {
        /// The key of the charge.
        charge: String,
    },
    /// Ask whether a charge was made under a key.
    FindCharge {
        /// The key of the charge.
        charge: String,
    },
    /// Take goods from the shelf.
    Reserve {
        /// Which.
        sku: String,
        /// How many.
        qty: u64,
    },
    /// Put back what was reserved under a key.
    Release {
        /// The key of the reservation.
        reservation: String,
    },
    /// Send a message.
    Mail {
        /// To whom.
        to: String,
        /// What it says.
        text: String,
    },
}

/// What the shop made of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Done, for the first time under this key.
    Acted,
    /// Done before under this key; the first answer again.
    Repeated,
    /// A refund or release of what never was: there is nothing to do, and its key is closed for good.
    Nothing,
    /// Asked and found.
    Found,
    /// Asked and not found.
    Absent,
    /// A newer fence was seen for this step of this run.
    StaleFence,
    /// The same key with other arguments.
    Conflict,
    /// Too many requests; come back later.
    Throttled,
    /// The bank says no.
    Declined,
    /// Not enough on the shelf.
    OutOfStock,
    /// A charge or reservation that was undone before it arrived.
    Closed,
}

/// One call, as it stands in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallLine {
    /// Rises by one from line to line.
    pub seq: u64,
    /// `CLOCK_MONOTONIC` of the machine in microseconds: comparable with other processes.
    pub t_us: u64,
    /// The order it is for.
    pub order: String,
    /// The idempotency key.
    pub key: String,
    /// The run that calls; empty where the caller did not say.
    pub run: String,
    /// The step of that run.
    pub step: String,
    /// The fence of the caller's lease.
    pub fence: u64,
    /// The attempt of the step.
    pub attempt: u32,
    /// The process that calls.
    pub worker: String,
    /// What it wanted.
    pub deed: Deed,
    /// What it got.
    pub verdict: Verdict,
}

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "kebab-case")]
pub enum Line {
    /// The shop opened for the first time, with this on the shelves.
    Opened {
        /// Units by article.
        stock: BTreeMap<String, u64>,
    },
    /// A call.
    Call(CallLine),
}

/// Reads a ledger from disk. A torn last line is left out: its caller was never answered.
///
/// # Errors
/// The file cannot be read, or a line before the last is not one of ours.
pub fn read_ledger(path: impl AsRef<Path>) -> io::Result<Vec<Line>> {
    Ok(read_whole_lines(path.as_ref())?.0)
}

/// The lines, and how many bytes they fill.
fn read_whole_lines(path: &Path) -> io::Result<(Vec<Line>, u64)> {
    let bytes = std::fs::read(path)?;
    let end = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |last| last + 1);
    let mut lines = Vec::new();
    for (number, line) in bytes[..end].split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        lines.push(serde_json::from_slice(line).map_err(|cause| {
            let text = format!("{} line {}: {cause}", path.display(), number + 1);
            io::Error::new(io::ErrorKind::InvalidData, text)
        })?);
    }
    Ok((lines, end as u64))
}

/// A line on its way to disk, and who waits for it.
pub(crate) struct Pending {
    pub line: Line,
    pub synced: oneshot::Sender<()>,
}

/// Lines that may wait for the disk: a sync takes milliseconds, so more callers than this are better held at the door.
pub(crate) const PENDING_LINES_MAX: usize = 1024;

/// Opens or makes the file, cuts a torn end off, and returns what it holds.
pub(crate) fn open(path: &Path) -> io::Result<(File, Vec<Line>)> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let (lines, length) = read_whole_lines(path)?;
    file.set_len(length)?;
    file.sync_all()?;
    Ok((file, lines))
}

/// Writes until nobody can send any more: all that wait go to disk with one sync. Ends at the first failure, since what a failed
/// sync left behind is unknown; those who wait see their sender dropped, and nobody is told that a call was recorded.
pub(crate) fn write_all(mut file: File, mut queue: mpsc::Receiver<Pending>) -> io::Result<()> {
    let mut waiting = Vec::new();
    let mut bytes = Vec::new();
    while let Some(first) = queue.blocking_recv() {
        let mut next = Some(first);
        while let Some(pending) = next {
            serde_json::to_writer(&mut bytes, &pending.line)?;
            bytes.push(b'\n');
            waiting.push(pending.synced);
            next = if waiting.len() < PENDING_LINES_MAX {
                queue.try_recv().ok()
            } else {
                None
            };
        }
        file.write_all(&bytes)?;
        file.sync_data()?;
        bytes.clear();
        for synced in waiting.drain(..) {
            // A caller that hung up has its line all the same.
            let _ = synced.send(());
        }
    }
    Ok(())
}
