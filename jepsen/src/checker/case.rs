//! What every checker is given, and how it gives its verdict.
//!
//! Invariant: nothing judged is never valid; it is "not exercised". Not here: any rule.

use std::collections::BTreeMap;

use crate::checker::log::{self, Lease, Life, LifeKey, Log};
use crate::checker::store::Store;
use crate::records::{Fault, FaultStatus, FinalRun, Op, Outcome, Verdict};

/// Stories told per invariant; the rest is counted.
const STORIES_MAX: usize = 5;
/// After a fault's end its effects may show for so long.
const AFTERMATH_NS: u64 = 10_000_000_000;
/// Faults that a majority goes on without, once it has a leader.
const ONE_NODES_OWN: [&str; 8] = [
    "kill",
    "kill-leader",
    "kill-quick",
    "kill-worker",
    "transfer",
    "membership",
    "wipe",
    "bitrot",
];
/// One millisecond.
pub const MS: u64 = 1_000_000;

/// A test run, with what several checkers want of it.
#[derive(Debug)]
pub struct Case<'a> {
    /// The files.
    pub store: &'a Store,
    /// The merged log.
    pub log: Log<'a>,
    /// The life of each run.
    pub lives: BTreeMap<LifeKey, Life<'a>>,
    /// Every lease by run and fence.
    pub leases: BTreeMap<(&'a str, u64), Lease<'a>>,
    /// Faults that were in force.
    pub windows: Vec<Window<'a>>,
    disturbed: Vec<(u64, u64)>,
    stalled: Vec<(u64, u64)>,
}

/// A fault from its installation to its end.
#[derive(Debug, Clone)]
pub struct Window<'a> {
    /// Its name.
    pub fault: &'a str,
    /// Whom it hit.
    pub targets: &'a [String],
    /// Since when.
    pub from: u64,
    /// Until when; `u64::MAX`: it was never healed.
    pub to: u64,
}

impl Window<'_> {
    /// Whether it hit this node or worker, alone or as an end of a link.
    pub fn hits(&self, name: &str) -> bool {
        self.targets.iter().any(|target| {
            target
                .split(|c: char| !c.is_ascii_alphanumeric())
                .any(|part| part == name || part == "all")
        })
    }

    /// Whether it was in force at some time of this span.
    pub fn overlaps(&self, from: u64, to: u64) -> bool {
        self.from <= to && from <= self.to
    }
}

impl<'a> Case<'a> {
    /// Prepares a test run for its checkers.
    pub fn of(store: &'a Store) -> Self {
        let log = Log::of(store);
        let lives = log::lives(&log);
        let leases = log::leases(&lives);
        let windows = windows(store);
        let stalls = |it: &&Window<'_>| {
            let name = it.fault;
            !ONE_NODES_OWN.contains(&name) && !name.starts_with("clock")
        };
        Self {
            store,
            leases,
            disturbed: spans(windows.iter()),
            stalled: spans(windows.iter().filter(stalls)),
            windows,
            lives,
            log,
        }
    }

    /// Whether any fault, or what it left behind, lies in this span.
    pub fn is_disturbed(&self, from: u64, to: u64) -> bool {
        overlaps(&self.disturbed, from, to)
    }

    /// Whether anything that makes a whole group wait lies in this span. One node that dies, or whose clock jumps, does not.
    pub fn is_stalled(&self, from: u64, to: u64) -> bool {
        overlaps(&self.stalled, from, to)
    }

    /// Operations that were answered, and their answers.
    pub fn answered(&self) -> impl Iterator<Item = &'a Op> {
        self.store
            .history
            .iter()
            .filter(|op| op.outcome == Outcome::Ok)
    }

    /// Every run on every node after the heal.
    pub fn finals(&self) -> impl Iterator<Item = (&'a str, &'a FinalRun)> {
        let journals = self.store.journals.iter();
        journals.flat_map(|(node, runs)| runs.iter().map(move |run| (node.as_str(), run)))
    }

    /// Each run's life once, from the first node that has it: what the nodes should agree on.
    pub fn journals(&self) -> BTreeMap<(&'a str, u32), &'a FinalRun> {
        let mut journals = BTreeMap::new();
        for (_, run) in self.finals() {
            journals
                .entry((run.run.as_str(), run.generation))
                .or_insert(run);
        }
        journals
    }

    /// A time as a story tells it: seconds since the load began.
    pub fn clock(&self, t: u64) -> String {
        let zero = self.zero();
        let (sign, span) = if t < zero {
            ("-", zero - t)
        } else {
            ("", t - zero)
        };
        format!(
            "{sign}{}.{:03} s",
            span / (1000 * MS),
            span % (1000 * MS) / MS
        )
    }

    /// When the load began.
    pub fn zero(&self) -> u64 {
        match self.store.setup.phases[0] {
            0 => self.store.history.first().map_or(0, |op| op.t_inv),
            began => began,
        }
    }

    /// When the last fault was healed; the end of time where that was not recorded.
    pub fn healed(&self) -> u64 {
        match self.store.setup.phases[2] {
            0 => u64::MAX,
            healed => healed,
        }
    }
}

/// Pairs each installation of a fault with its end.
fn windows(store: &Store) -> Vec<Window<'_>> {
    let mut windows: Vec<Window<'_>> = Vec::new();
    for fault in &store.faults {
        match fault.status {
            // Nobody can tell whether it is over: then it is not.
            FaultStatus::Indeterminate if windows.iter().any(|it| is_open(it, fault)) => {}
            FaultStatus::Installed | FaultStatus::Indeterminate => windows.push(Window {
                fault: &fault.fault,
                targets: &fault.targets,
                from: fault.t,
                to: u64::MAX,
            }),
            FaultStatus::Healed => {
                let open = windows.iter_mut().find(|it| is_open(it, fault));
                if let Some(open) = open {
                    open.to = fault.t;
                }
            }
            FaultStatus::Skipped => {}
        }
    }
    let healed = store.setup.phases[2];
    for window in &mut windows {
        if window.to == u64::MAX && healed >= window.from {
            window.to = healed;
        }
    }
    windows
}

fn is_open(window: &Window<'_>, fault: &Fault) -> bool {
    window.to == u64::MAX && window.fault == fault.fault && window.targets == fault.targets
}

/// Spans with their aftermath, by time and without overlaps.
fn spans<'w>(windows: impl Iterator<Item = &'w Window<'w>>) -> Vec<(u64, u64)> {
    let mut all: Vec<(u64, u64)> = windows
        .map(|it| (it.from, it.to.saturating_add(AFTERMATH_NS)))
        .collect();
    all.sort_unstable();
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for (from, to) in all {
        match spans.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => spans.push((from, to)),
        }
    }
    spans
}

fn overlaps(spans: &[(u64, u64)], from: u64, to: u64) -> bool {
    let next = spans.partition_point(|span| span.1 < from);
    spans.get(next).is_some_and(|span| span.0 <= to)
}

/// Gathers what a checker finds.
#[derive(Debug, Default)]
pub struct Judge {
    judged: u64,
    stories: Vec<String>,
    untold: usize,
    unknown: Option<String>,
}

impl Judge {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more thing was looked at.
    pub fn saw(&mut self) {
        self.judged += 1;
    }

    /// So many more were.
    pub fn saw_many(&mut self, count: usize) {
        self.judged += u64::try_from(count).unwrap_or(u64::MAX);
    }

    /// A rule was broken; the story is told only while there are few.
    pub fn broken(&mut self, story: impl FnOnce() -> String) {
        if self.stories.len() < STORIES_MAX {
            self.stories.push(story());
        } else {
            self.untold += 1;
        }
    }

    /// Something cannot be told; what is broken stays broken.
    pub fn unsure(&mut self, why: impl Into<String>) {
        self.unknown.get_or_insert(why.into());
    }

    /// The verdict.
    pub fn verdict(mut self) -> Verdict {
        if !self.stories.is_empty() {
            self.stories.sort_by_key(String::len);
            if self.untold > 0 {
                self.stories
                    .push(format!("and {} more of this kind", self.untold));
            }
            return Verdict::Violated {
                stories: self.stories,
            };
        }
        match (self.unknown, self.judged) {
            (Some(why), _) => Verdict::Unknown { why },
            (None, 0) => Verdict::NotExercised,
            (None, judged) => Verdict::Valid { judged },
        }
    }
}
