//! S16 journals only grow; S24 deliveries are numbered and named; S25 keys are never reused.
//!
//! Decided from the journals of all nodes, and for keys from the sink's file. Not here: that nodes agree row by row (`replicas`).

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::case::{Case, Judge};
use crate::checker::story;
use crate::records::{FinalRun, Ruling, Verdict};

/// S16: rows and intents are numbered without gap, each outcome is of an earlier intent and comes once, positions grow.
pub fn s16(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    for ((run, _), journal) in case.journals() {
        if journal.journal.is_empty() {
            continue;
        }
        judge.saw();
        if let Some(what) = wrong_row(journal) {
            let headline = format!("S16: the journal of {run}: {what}");
            judge.broken(|| story::of_run(case, &headline, run));
        }
    }
    judge.verdict()
}

fn wrong_row(journal: &FinalRun) -> Option<String> {
    let first = journal.journal.first()?.seq;
    let mut newest: Option<u32> = None;
    let mut asked: BTreeSet<u32> = BTreeSet::new();
    let mut over: BTreeSet<u32> = BTreeSet::new();
    let mut at = None;
    for (next_seq, row) in (first..).zip(&journal.journal) {
        if row.seq != next_seq {
            return Some(format!(
                "row {} stands where row {next_seq} should",
                row.seq
            ));
        }
        // Outcomes stand before the intents of their row, so an intent cannot have its outcome there.
        for (number, what) in &row.outcomes {
            if !asked.contains(number) && first == 0 {
                return Some(format!(
                    "row {} says {what} of entry {number}, which was not asked for before",
                    row.seq
                ));
            }
            if !over.insert(*number) {
                return Some(format!(
                    "row {} says {what} of entry {number}, which was over",
                    row.seq
                ));
            }
        }
        for (number, kind, _) in &row.intents {
            if newest.is_some_and(|newest| *number != newest + 1) {
                return Some(format!(
                    "row {} asks for {kind} as entry {number} after {newest:?}",
                    row.seq
                ));
            }
            newest = Some(*number);
            asked.insert(*number);
        }
        if row.position.is_some() && row.position < at {
            return Some(format!(
                "row {} was written before the row above it",
                row.seq
            ));
        }
        at = row.position.or(at);
    }
    None
}

/// S24: per drive deliveries are numbered from 1 without gap, and an Advance names none that was not made.
pub fn s24(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    for ((run, _), journal) in case.journals() {
        let mut last = 0;
        for row in &journal.journal {
            if let Some(number) = row.delivery.filter(|number| *number > 0) {
                judge.saw();
                if number != last + 1 && number != 1 {
                    let headline = format!(
                        "S24: in the journal of {run} delivery {number} follows delivery {last}"
                    );
                    judge.broken(|| story::of_run(case, &headline, run));
                }
                last = number;
            }
            if let Some(seen) = row.seen {
                judge.saw();
                if seen > last {
                    let headline = format!(
                        "S24: row {} of {run} has seen delivery {seen}, and {last} were made",
                        row.seq
                    );
                    judge.broken(|| story::of_run(case, &headline, run));
                }
            }
        }
    }
    judge.verdict()
}

/// S25: a key means one step of one life, and a step has one key over all attempts.
pub fn s25(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    let mut means: BTreeMap<&str, (&str, u32, &str, bool)> = BTreeMap::new();
    let mut keys: BTreeMap<(&str, u32, &str, bool), &str> = BTreeMap::new();
    for it in &case.store.effects {
        // A probe asks about the key of the step that it belongs to.
        if it.key.is_empty() || matches!(it.ruling, Ruling::Probed { .. }) {
            continue;
        }
        judge.saw();
        let step = (it.run.as_str(), it.generation, it.step.as_str(), it.undo);
        let other = *means.entry(&it.key).or_insert(step);
        if other != step {
            let headline = format!(
                "S25: key {} means {} {} and {} {}",
                it.key, other.0, other.2, it.run, it.step
            );
            judge.broken(|| story::of_run(case, &headline, &it.run));
        }
        let key = *keys.entry(step).or_insert(&it.key);
        if key != it.key {
            let headline = format!(
                "S25: {} {} had key {key}, then key {}",
                it.run, it.step, it.key
            );
            judge.broken(|| story::of_run(case, &headline, &it.run));
        }
    }
    judge.verdict()
}
