//! S23 undo is owed and in order.
//!
//! Decided from the leases and results in the taps, and which steps have an undo from the journals. Not here: what an undo did at
//! the sink (`effects`).

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::case::{Case, Judge};
use crate::checker::endings::ending;
use crate::checker::log::{Life, What};
use crate::checker::story;
use crate::records::{FinalRun, TapEvent, Verdict, Work};

/// S23.
pub fn s23(case: &Case<'_>) -> Verdict {
    if case.log.incomplete().is_some() {
        return Verdict::NotExercised;
    }
    let mut judge = Judge::new();
    let journals = case.journals();
    for ((run, generation), life) in &case.lives {
        if let Some(what) = out_of_order(life, &mut judge) {
            judge.broken(|| story::of_run(case, &format!("S23: {run}: {what}"), run));
        }
        let (Some((status, index)), Some(journal)) =
            (ending(life), journals.get(&(run.as_str(), *generation)))
        else {
            continue;
        };
        for entry in forgotten(life, journal, status, index, &mut judge) {
            let headline =
                format!("S23: {run} became {status}, and the undo of step {entry} was owed");
            judge.broken(|| story::of_run(case, &headline, run));
        }
    }
    judge.verdict()
}

/// An undo begins only when its step is over, and the newest is done first.
fn out_of_order(life: &Life<'_>, judge: &mut Judge) -> Option<String> {
    let mut live: BTreeSet<u32> = BTreeSet::new();
    let mut undone: Option<u32> = None;
    let mut begun: BTreeSet<u32> = BTreeSet::new();
    for moment in &life.moments {
        match moment.what {
            What::Event(TapEvent::LeaseBegan { work, .. }) => match work {
                Work::Step { entry, .. } => {
                    live.insert(*entry);
                    if begun.contains(entry) {
                        return Some(format!("step {entry} was given out after its undo"));
                    }
                }
                Work::Undo { entry, .. } => {
                    judge.saw();
                    begun.insert(*entry);
                    if live.contains(entry) {
                        return Some(format!(
                            "the undo of step {entry} was given out while the step was in flight"
                        ));
                    }
                }
                Work::Drive { .. } => {}
            },
            What::Event(TapEvent::LeaseEnded {
                work: Work::Step { entry, .. },
                ..
            }) => {
                live.remove(entry);
            }
            What::Result(result) if result.outcome == "done" => {
                if let Work::Undo { entry, .. } = &result.work {
                    if undone.is_some_and(|last| last < *entry) {
                        return Some(format!("step {entry} was undone after an older one"));
                    }
                    undone = Some(*entry);
                }
            }
            What::Event(_) | What::Result(_) | What::Command(_) => {}
        }
    }
    None
}

/// Steps whose undo was owed at the end and had not been done.
fn forgotten(
    life: &Life<'_>,
    journal: &FinalRun,
    status: &str,
    index: u64,
    judge: &mut Judge,
) -> Vec<u32> {
    if status == "TERMINATED" {
        return Vec::new();
    }
    let details = journal.journal.iter().flat_map(|row| &row.details);
    let has_undo: BTreeSet<u32> = details
        .filter(|it| it.undo.is_some())
        .map(|it| it.entry)
        .collect();
    let mut owed: BTreeMap<u32, bool> = BTreeMap::new();
    for moment in life.moments.iter().take_while(|it| it.index() <= index) {
        match moment.what {
            What::Event(TapEvent::LeaseBegan {
                work: Work::Step { entry, .. },
                ..
            }) if has_undo.contains(entry) => {
                owed.insert(*entry, true);
            }
            What::Result(result) => match (&result.work, result.outcome.as_str()) {
                (Work::Step { entry, .. }, "absent") | (Work::Undo { entry, .. }, "done") => {
                    owed.insert(*entry, false);
                }
                _ => {}
            },
            What::Event(_) | What::Command(_) => {}
        }
    }
    judge.saw_many(owed.len());
    let kept = if status == "COMPLETED" {
        over_before_the_end(journal)
    } else {
        BTreeSet::new() // what came of a step does not matter: an attempt may have had its effect
    };
    let owed = owed.into_iter().filter(|(_, owed)| *owed);
    owed.map(|(entry, _)| entry)
        .filter(|entry| !kept.contains(entry))
        .collect()
}

/// Steps of a completed run that the function saw the end of: theirs are not undone.
fn over_before_the_end(journal: &FinalRun) -> BTreeSet<u32> {
    let mut over = BTreeSet::new();
    for row in &journal.journal {
        over.extend(row.outcomes.iter().map(|(entry, _)| *entry));
        if row.intents.iter().any(|(_, kind, _)| kind == "complete") {
            break;
        }
    }
    over
}
