//! The harness tested: bugs planted on purpose, what must catch each, and within how much.
//!
//! Invariant: every bug that can be planted stands in the table, and every line of the table is run or says by what else it
//! is. Not here: the bugs (they lie where the mistake would be made), how a hunt goes (`sim`), those outside of the core
//! (`outer`, `real`).

pub mod outer;
#[cfg(feature = "run")]
pub mod real;

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use parking_lot::Mutex;

use crate::sim::tier_a;

/// Seeds within which tier A must catch a bug that is planted in the core.
const WITHIN: u64 = 50_000;

/// One planted bug.
#[derive(Debug, Clone, Copy)]
pub struct Planted {
    /// Its name.
    pub name: &'static str,
    /// The file in which it lies.
    pub place: &'static str,
    /// What must catch it.
    pub by: Means,
}

/// What must catch a bug.
#[derive(Debug, Clone, Copy)]
pub enum Means {
    /// Random histories of the core: one of these invariants breaks within so many seeds.
    TierA(&'static [&'static str], u64),
}

/// What came of one.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Which.
    pub bug: Planted,
    /// The invariant that broke; none: a hole.
    pub caught_by: Option<&'static str>,
    /// After how much: seeds.
    pub after: u64,
    /// In how long.
    pub took: Duration,
}

const fn core(name: &'static str, place: &'static str, by: &'static [&'static str]) -> Planted {
    Planted {
        name,
        place,
        by: Means::TierA(by, WITHIN),
    }
}

/// All of them.
pub const TABLE: &[Planted] = &[
    core("fence-reset-on-failover", "scheduler/src/turn.rs", &["S7"]),
    core(
        "fence-check-skipped",
        "scheduler/src/values/step.rs",
        &["S6"],
    ),
    core(
        "advance-accepted-twice",
        "scheduler/src/commands/advance.rs",
        &["S9", "S25"],
    ),
    core("no-epoch-check", "scheduler/src/apply.rs", &["S19"]),
    core(
        "at-most-once-rerun",
        "scheduler/src/values/step.rs",
        &["S9"],
    ),
    core(
        "reconcile-without-probe",
        "scheduler/src/values/step.rs",
        &["S9"],
    ),
    core(
        "cancel-not-final",
        "scheduler/src/commands/change.rs",
        &["S17"],
    ),
    core(
        "id-conflict-merged",
        "scheduler/src/commands/start.rs",
        &["S3"],
    ),
    core("dedupe-lost-in-snapshot", "scheduler/src/rows.rs", &["S12"]),
    core("bucket-lost-in-snapshot", "scheduler/src/rows.rs", &["S14"]),
    core(
        "bucket-refilled-on-failover",
        "scheduler/src/commands/become_leader.rs",
        &["S14"],
    ),
    core(
        "concurrency-ignored",
        "scheduler/src/values/limit.rs",
        &["S14"],
    ),
    core(
        "timer-without-row",
        "scheduler/src/commands/advance.rs",
        &["W1"],
    ),
    core(
        "timer-fires-early",
        "scheduler/src/commands/fire.rs",
        &["S13"],
    ),
    core(
        "hash-order-in-apply",
        "scheduler/src/commands/common.rs",
        &["S15"],
    ),
    core(
        "derived-index-not-rebuilt",
        "scheduler/src/orders.rs",
        &["S20"],
    ),
    core(
        "beat-echoed-without-quorum",
        "scheduler/src/lead/mod.rs",
        &["S6"],
    ),
    core(
        "renewal-after-expiry",
        "scheduler/src/lead/sessions.rs",
        &["S6"],
    ),
    core(
        "new-leader-expires-at-once",
        "scheduler/src/lead/mod.rs",
        &["S6"],
    ),
    core(
        "expiry-forgotten-on-attach",
        "scheduler/src/lead/mod.rs",
        &["S6"],
    ),
    core(
        "due-forgotten-on-failover",
        "scheduler/src/lead/hot.rs",
        &["L2"],
    ),
    core(
        "repeat-with-dead-grants",
        "scheduler/src/commands/advance.rs",
        &["S9"],
    ),
    core(
        "clock-anchor-ignored",
        "scheduler/src/commands/become_leader.rs",
        &["S26"],
    ),
    core("clock-goes-back", "scheduler/src/apply.rs", &["S26"]),
    core(
        "undo-before-step-ended",
        "scheduler/src/values/run.rs",
        &["S23"],
    ),
    core(
        "undo-in-wrong-order",
        "scheduler/src/values/run.rs",
        &["S23"],
    ),
    core(
        "undo-forgotten",
        "scheduler/src/commands/common.rs",
        &["S23"],
    ),
    core(
        "panic-keeps-half-its-rows",
        "scheduler/src/turn.rs",
        &["savepoint"],
    ),
    core(
        "signals-overtake",
        "scheduler/src/commands/signal.rs",
        &["S12"],
    ),
    core(
        "ending-beside-deliveries",
        "scheduler/src/commands/advance.rs",
        &["S24"],
    ),
    core("journal-row-overwritten", "scheduler/src/turn.rs", &["S16"]),
    core(
        "final-state-rewritten",
        "scheduler/src/commands/start.rs",
        &["S3"],
    ),
];

/// Runs these lines of the table on so many threads; verdicts in the order of the lines.
///
/// # Errors
/// A line names a bug that is not planted.
pub fn run(
    lines: &[Planted],
    jobs: usize,
    told: &(dyn Fn(&Verdict) + Sync),
) -> Result<Vec<Verdict>, String> {
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(bug) = lines.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let verdict = one(*bug);
                    if let Ok(verdict) = &verdict {
                        told(verdict);
                    }
                    verdicts.lock().push(verdict);
                }
            });
        }
    });
    let mut verdicts = verdicts
        .into_inner()
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let place = |verdict: &Verdict| lines.iter().position(|line| line.name == verdict.bug.name);
    verdicts.sort_by_key(place);
    Ok(verdicts)
}

fn one(bug: Planted) -> Result<Verdict, String> {
    let Means::TierA(by, within) = bug.by;
    let caught = tier_a::hunt(bug.name, by, within)?;
    Ok(Verdict {
        bug,
        caught_by: caught.broken.map(|broken| broken.invariant),
        after: caught.seeds,
        took: caught.took,
    })
}

/// The table as it is printed and kept in `docs/selftest.md`.
pub fn table(verdicts: &[Verdict]) -> String {
    let mut text = String::from("| Bug | In | Caught by | After | In |\n|---|---|---|---|---|\n");
    for it in verdicts {
        let Means::TierA(by, within) = it.bug.by;
        let (name, place, by) = (it.bug.name, it.bug.place, by.join(" or "));
        let ms = it.took.as_millis();
        let caught = match it.caught_by {
            Some(invariant) => format!("tier A, {invariant} | {} seeds | {ms} ms", it.after),
            None => format!(
                "**nothing** ({by} within {within} seeds) | {} seeds | {ms} ms",
                it.after
            ),
        };
        let _ = writeln!(text, "| {name} | `{place}` | {caught} |");
    }
    text
}
