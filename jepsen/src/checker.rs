//! The judges: what a test run wrote down, against what Holdfast promises.
//!
//! Invariant: pure functions over a store folder's files; nothing here asks the cluster, and what the files cannot decide is never
//! called valid. A violation carries the smallest story that shows it. Not here: how the files come to be (`run`), pictures (`report`).

mod bodies;
pub mod case;
mod effects;
mod endings;
pub mod failover;
mod journal;
mod leases;
mod limits;
mod liveness;
pub mod log;
pub mod model;
mod order;
mod replicas;
mod signals;
mod starts;
pub mod status;
pub mod store;
pub mod story;
mod timers;
mod undo;
pub mod wgl;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::records::{Call, FaultStatus, Outcome, Ruling, Verdict};

use self::case::Case;
use self::failover::{Distribution, Failover};
use self::store::Store;

/// What is written next to the histories.
pub const RESULTS: &str = "results.json";
/// Fewer operations on a node after the heal say nothing of it.
const OPS_PER_NODE_MIN: usize = 20;

type Check = fn(&Case<'_>) -> Verdict;

/// Nothing in the files bears on it.
fn not_from_files(_: &Case<'_>) -> Verdict {
    Verdict::NotExercised
}

/// What the harness saw with its own eyes.
fn seen_by_harness(case: &Case<'_>) -> Verdict {
    let seen = &case.store.setup.seen;
    if seen.is_empty() {
        Verdict::NotExercised
    } else {
        Verdict::Violated {
            stories: seen.clone(),
        }
    }
}

/// Every invariant, with what it says and who decides it.
const INVARIANTS: &[(&str, &str, Check)] = &[
    ("S1", "an acknowledged start is never lost", starts::s1),
    (
        "S2",
        "exactly one final state, which never changes",
        endings::s2,
    ),
    ("S3", "one run id is one run", starts::s3),
    (
        "S4",
        "nothing that nobody asked for, nothing of what was refused",
        starts::s4,
    ),
    (
        "S5a",
        "what is checkpointed is not given out again",
        leases::s5a,
    ),
    (
        "S5b",
        "no effect after the checkpoint at a sink that looks at fences or keys",
        effects::s5b,
    ),
    (
        "S5c",
        "no effect after the checkpoint, no two bodies at once, at any sink",
        bodies::s5c,
    ),
    (
        "S6",
        "at most one live lease, none expired without a silent term",
        leases::s6,
    ),
    ("S7", "fences grow", leases::s7),
    ("S8", "effects effectively once", effects::s8),
    ("S9", "no ghost dispatch", effects::s9),
    ("S10", "results agree", endings::s10),
    ("S11", "reads and registers are linearizable", order::s11),
    ("S12", "signals once and in order", signals::s12),
    (
        "S13",
        "timers never early, once, late by little",
        timers::s13,
    ),
    ("S14", "limits are never exceeded", limits::s14),
    ("S15", "replicas agree", replicas::s15),
    ("S16", "journals only grow", journal::s16),
    ("S17", "no resurrection", endings::s17),
    ("S18", "streams have no gap and no repeat", not_from_files),
    (
        "S19",
        "one leader an epoch, one entry an index, duties under their epoch",
        replicas::s19,
    ),
    (
        "S20",
        "a snapshot and its tail are the whole",
        replicas::s20,
    ),
    ("S21", "damage is never served", not_from_files),
    ("S22", "versions of the binary agree", not_from_files),
    ("S23", "undo is owed and in order", undo::s23),
    ("S24", "deliveries are numbered and named", journal::s24),
    ("S25", "keys are never reused", journal::s25),
    (
        "S26",
        "the group clock never falls and never stands still",
        replicas::s26,
    ),
    (
        "H1",
        "no node did what the harness must never see one do",
        seen_by_harness,
    ),
    (
        "W1",
        "every run that is not final owns a wake source",
        status::w1,
    ),
    ("L1", "failover within its bound", failover::l1),
    ("L2", "all runs final after the heal", liveness::l2),
    ("L3", "nobody is stuck applying", liveness::l3),
    ("L4", "a follower's fault hurts nobody", liveness::l4),
    ("L5", "every node serves again", liveness::l5),
    ("L6", "no operation outlives its deadline", liveness::l6),
    ("L7", "memory and queues are bounded", not_from_files),
    ("L8", "no hang holds a run", not_from_files),
];

/// The verdict on a whole test run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overall {
    /// Everything that was judged held, and enough was.
    Valid,
    /// Something did not hold.
    Violated,
    /// It cannot be told.
    Unknown,
}

impl Overall {
    /// As a process ends: 0, 1, 2.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Valid => 0,
            Self::Violated => 1,
            Self::Unknown => 2,
        }
    }
}

/// One invariant and its verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// `S8`.
    pub id: String,
    /// What it says.
    pub says: String,
    /// Whether it held.
    pub verdict: Verdict,
}

/// How much happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Operations of clients.
    pub ops: usize,
    /// Answered.
    pub ok: usize,
    /// Certainly not done.
    pub fail: usize,
    /// Nobody knows.
    pub info: usize,
    /// Runs that a client tried to start.
    pub submitted: usize,
    /// Of all runs after the heal, those that are final.
    pub finished: usize,
    /// Those that are not.
    pub stuck: usize,
    /// Effects that happened at the sink.
    pub effects: usize,
    /// Effects that happened a second time for one step.
    pub duplicates: usize,
    /// Calls refused for a stale fence.
    pub stale_refused: usize,
    /// Entries applied, as any node did.
    pub entries: usize,
    /// Faults that were seen in force, and those that were skipped, by name.
    pub faults: BTreeMap<String, (usize, usize)>,
}

/// All that the checkers say of a test run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// On the whole.
    pub overall: Overall,
    /// Why it is unknown, if anything speaks for that.
    pub reasons: Vec<String>,
    /// Every invariant.
    pub invariants: Vec<Judged>,
    /// How much happened.
    pub totals: Totals,
    /// Every failover.
    pub failovers: Vec<Failover>,
    /// From the fault to the first step done, in microseconds.
    pub failover: Option<Distribution>,
}

/// Judges a store folder.
pub fn check_folder(folder: &Path) -> Report {
    check(&Store::read(folder))
}

/// Judges what was read.
pub fn check(store: &Store) -> Report {
    let case = Case::of(store);
    let invariants: Vec<Judged> = INVARIANTS
        .iter()
        .map(|(id, says, check)| Judged {
            id: (*id).to_owned(),
            says: (*says).to_owned(),
            verdict: check(&case),
        })
        .collect();
    let mut reasons = store.unreadable.clone();
    reasons.extend(
        store
            .setup
            .troubles
            .iter()
            .map(|it| format!("harness: {it}")),
    );
    let gaps = !reasons.is_empty();
    reasons.extend(coverage(&case));
    for it in &invariants {
        if let Verdict::Unknown { why } = &it.verdict {
            reasons.push(format!("{}: {why}", it.id));
        }
    }
    let violated = |it: &Judged| matches!(it.verdict, Verdict::Violated { .. });
    // Where a line or a file is missing, what looks like a violation may only be a gap in the record.
    let overall = if gaps {
        Overall::Unknown
    } else if invariants.iter().any(violated) {
        Overall::Violated
    } else if reasons.is_empty() {
        Overall::Valid
    } else {
        Overall::Unknown
    };
    let failovers = failover::failovers(&case);
    let took = failovers.iter().filter_map(|it| it.first_step_us).collect();
    Report {
        overall,
        reasons,
        invariants,
        totals: totals(&case),
        failover: Distribution::of(took),
        failovers,
    }
}

/// Why too little happened to say anything.
fn coverage(case: &Case<'_>) -> Vec<String> {
    let store = case.store;
    let mut reasons = Vec::new();
    let ops = store.history.len();
    let served = store
        .history
        .iter()
        .filter(|op| liveness::is_served(op))
        .count();
    if served * 2 < ops || ops == 0 {
        reasons.push(format!("only {served} of {ops} operations were answered"));
    }
    for (fault, wanted) in &store.setup.require {
        let of = store.faults.iter().filter(|it| it.fault == *fault);
        let seen = of.filter(|it| it.status == FaultStatus::Installed).count();
        if seen < *wanted as usize {
            reasons.push(format!(
                "{fault} was in force {seen} times, {wanted} are required"
            ));
        }
    }
    if let Some(hole) = case.log.incomplete() {
        reasons.push(hole);
    }
    let last: Vec<_> = store
        .history
        .iter()
        .filter(|op| op.t_inv >= case.healed())
        .collect();
    let named = last.iter().any(|op| !op.node.is_empty());
    // Members at the end: those whose journals were read.
    let mut members: Vec<String> = store.journals.keys().cloned().collect();
    if members.is_empty() {
        members.extend((1..=store.setup.nodes).map(|nth| format!("n{nth}")));
    }
    for node in members {
        let of = last
            .iter()
            .filter(|op| op.outcome == Outcome::Ok && (!named || op.node == node));
        let ok = of.count();
        if ok < OPS_PER_NODE_MIN {
            let whom = if named { node.as_str() } else { "the cluster" };
            reasons.push(format!(
                "only {ok} operations on {whom} were answered after the heal"
            ));
        }
        if !named {
            break;
        }
    }
    reasons
}

fn totals(case: &Case<'_>) -> Totals {
    let store = case.store;
    let outcome = |wanted| {
        store
            .history
            .iter()
            .filter(|op| op.outcome == wanted)
            .count()
    };
    let ruled = |wanted| {
        store
            .effects
            .iter()
            .filter(|it| it.ruling == wanted)
            .count()
    };
    let submitted: BTreeSet<&str> = store
        .history
        .iter()
        .filter_map(|op| match &op.call {
            Call::Start { run, .. } => Some(run.as_str()),
            _ => None,
        })
        .collect();
    let journals = case.journals();
    let finished = journals
        .values()
        .filter(|it| log::is_final(&it.status))
        .count();
    let steps: BTreeSet<_> = store
        .effects
        .iter()
        .filter(|it| it.ruling == Ruling::Acted)
        .map(|it| (&it.run, it.generation, &it.step, it.undo))
        .collect();
    let mut faults: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for fault in &store.faults {
        let of = faults.entry(fault.fault.clone()).or_default();
        match fault.status {
            FaultStatus::Installed => of.0 += 1,
            FaultStatus::Skipped => of.1 += 1,
            FaultStatus::Healed | FaultStatus::Indeterminate => {}
        }
    }
    Totals {
        ops: store.history.len(),
        ok: outcome(Outcome::Ok),
        fail: outcome(Outcome::Fail),
        info: outcome(Outcome::Info),
        submitted: submitted.len(),
        finished,
        stuck: journals.len() - finished,
        effects: ruled(Ruling::Acted),
        duplicates: ruled(Ruling::Acted) - steps.len(),
        stale_refused: ruled(Ruling::Stale),
        entries: case.log.entries().count(),
        faults,
    }
}
