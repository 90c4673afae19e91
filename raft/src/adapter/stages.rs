//! How long entries spend in each stage of their way, as histograms: the budget of a commit.
//!
//! Invariant: nothing is kept but a moment for each append that is not applied yet, and of those at most [`KEPT_MAX`].
//! Not here: waiting to become part of an entry, and the whole way (`proposer`).

use std::collections::VecDeque;
use std::sync::Arc;

use metrics::Histogram;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::types::GroupId;

/// A follower that catches up appends much before it applies: beyond this the oldest moments are forgotten.
const KEPT_MAX: usize = 1024;

/// The stages of one group's entries on this node.
#[derive(Clone)]
pub(crate) struct Stages(Arc<Shared>);

struct Shared {
    /// Up to which index was appended, and when.
    appended: Mutex<VecDeque<(u64, Instant)>>,
    synced: Histogram,
    committed: Histogram,
    applied: Histogram,
}

/// The histogram of one stage.
pub(crate) fn histogram(group: GroupId, stage: &'static str) -> Histogram {
    metrics::histogram!("holdfast_raft_stage_duration_seconds", "group" => group.0.to_string(), "stage" => stage)
}

impl Stages {
    pub(crate) fn new(group: GroupId) -> Self {
        Self(Arc::new(Shared {
            appended: Mutex::default(),
            synced: histogram(group, "synced"),
            committed: histogram(group, "committed"),
            applied: histogram(group, "applied"),
        }))
    }

    /// Entries up to this index are given to the log; answers the moment.
    pub(crate) fn appended(&self, last: u64) -> Instant {
        let now = Instant::now();
        let mut appended = self.0.appended.lock();
        // Entries that replace others: what was there is never applied.
        while appended.back().is_some_and(|(index, _)| *index >= last) {
            appended.pop_back();
        }
        if appended.len() >= KEPT_MAX {
            appended.pop_front();
        }
        appended.push_back((last, now));
        now
    }

    /// What was appended at that moment is on this disk.
    pub(crate) fn synced(&self, since: Instant) {
        self.0.synced.record(since.elapsed());
    }

    /// Entries up to this index are known to be on a quorum of disks, and about to be applied; answers the moment.
    pub(crate) fn committed(&self, last: u64) -> Instant {
        let now = Instant::now();
        let mut appended = self.0.appended.lock();
        while let Some((_, since)) = appended.pop_front_if(|(index, _)| *index <= last) {
            self.0.committed.record(now - since);
        }
        now
    }

    /// What began at that moment is applied, and answered.
    pub(crate) fn applied(&self, since: Instant) {
        self.0.applied.record(since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(stages: &Stages) -> Vec<u64> {
        stages.0.appended.lock().iter().map(|it| it.0).collect()
    }

    #[test]
    fn what_is_committed_is_measured_once_and_what_is_replaced_never() {
        let stages = Stages::new(GroupId(1));
        for last in [3, 5, 9] {
            stages.appended(last);
        }
        stages.committed(4);
        assert_eq!(waiting(&stages), [5, 9]);
        stages.appended(6); // a new leader's, in the place of 6 to 9
        assert_eq!(waiting(&stages), [5, 6]);
        stages.committed(6);
        assert!(waiting(&stages).is_empty());
    }

    #[test]
    fn the_moments_kept_are_bounded() {
        let stages = Stages::new(GroupId(1));
        for last in 0..3 * KEPT_MAX as u64 {
            stages.appended(last);
        }
        assert_eq!(waiting(&stages).len(), KEPT_MAX);
    }
}
