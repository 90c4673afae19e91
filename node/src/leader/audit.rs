//! The audit of wake sources: every live run is looked at now and then, in small parts.
//!
//! Invariant: a run that is not final owns a wake source. What is found here is a mistake of ours, repaired by a command.

use holdfast_scheduler::{
    ids::RunId,
    rows::{Alike, Fault, Key, ReadRows, Row, Stretch},
};

/// Runs looked at in one part: some milliseconds, during which nothing is applied.
const RUNS_PER_PART: usize = 500;
/// Between the end of one round and the beginning of the next.
const PAUSE_MS: u64 = 60_000;

/// Behind which run a part begins.
#[derive(Debug, Clone, Default)]
pub(super) struct Behind(Option<RunId>);

/// Where the audit stands.
#[derive(Debug, Default)]
pub(super) struct Audit {
    next: Behind,
    not_before_ms: u64,
    found_now: usize,
    found_last: usize,
}

/// What one part found.
pub(super) struct Part {
    stuck: Vec<RunId>,
    last: Option<RunId>,
}

impl Audit {
    /// Behind which run the next part begins, when it is time.
    pub(super) fn due(&self, mono_ms: u64) -> Option<Behind> {
        (mono_ms >= self.not_before_ms).then(|| self.next.clone())
    }

    /// Takes a part in; these runs need repair.
    pub(super) fn took(&mut self, part: Part, mono_ms: u64) -> Vec<RunId> {
        self.found_now += part.stuck.len();
        if part.last.is_none() {
            self.found_last = std::mem::take(&mut self.found_now);
            self.not_before_ms = mono_ms + PAUSE_MS;
        }
        self.next = Behind(part.last);
        part.stuck
    }

    /// How many were found in the last whole round, or so far in this one.
    pub(super) fn found(&self) -> usize {
        self.found_last.max(self.found_now)
    }
}

/// Looks at the runs behind `from`.
pub(super) fn part<R: ReadRows + ?Sized>(rows: &R, from: &Behind) -> Result<Part, Fault> {
    let mut part = Part {
        stuck: Vec::new(),
        last: None,
    };
    let mut left = RUNS_PER_PART;
    let all = match &from.0 {
        None => Stretch::from(Key::Run(RunId::from_stored("")), Alike::Kind),
        Some(run) => Stretch::behind(Key::Run(run.clone()), Alike::Kind),
    };
    rows.scan(&all, &mut |_, row| {
        let Row::Run(run) = row else { return false };
        if run.wake_source().is_none() {
            part.stuck.push(run.id.clone());
        }
        left -= 1;
        part.last = (left == 0).then(|| run.id.clone());
        left > 0
    })?;
    Ok(part)
}
