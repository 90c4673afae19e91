//! S5b no effect after its checkpoint at a sink that looks at fences; S8 effects effectively once; S9 no ghost dispatch.
//!
//! Decided from the sink's file and the leases in the taps: an effect belongs to the lease that has its run and fence. Not here:
//! bodies of steps (`bodies`), keys (`keys`).

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::bodies;
use crate::checker::case::{Case, Judge};
use crate::checker::log::{self, Lease, What};
use crate::checker::story;
use crate::records::{Effect, Ruling, TapEvent, Verdict, Work};

/// The lease under which a call was made.
fn lease_of<'c, 'a>(case: &'c Case<'a>, it: &'a Effect) -> Option<&'c Lease<'a>> {
    case.leases.get(&(it.run.as_str(), it.fence))
}

/// S5b: once a step is done, a sink that looks at fences or keys accepts nothing more of it.
pub fn s5b(case: &Case<'_>) -> Verdict {
    if case.store.setup.sink == "naive" {
        return Verdict::NotExercised;
    }
    let mut judge = Judge::new();
    let dones = log::dones(&case.lives);
    for it in &case.store.effects {
        if it.ruling != Ruling::Acted {
            continue;
        }
        let Some(lease) = lease_of(case, it) else {
            continue;
        };
        let Some((done, _)) = dones.get(&(lease.work, lease.generation)) else {
            continue;
        };
        judge.saw();
        if it.t > done.first {
            let headline = format!(
                "S5b: {} was done at {} (index {}), and the sink acted for it at {} under fence {}",
                story::work(lease.work),
                case.clock(done.first),
                done.line.index,
                case.clock(it.t),
                story::fence(it.fence)
            );
            judge.broken(|| story::of_run(case, &headline, &it.run));
        }
    }
    judge.verdict()
}

/// S8: by the kind of sink: once per completed step; fences never fall; every duplicate explained.
pub fn s8(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    let mut acted: BTreeMap<(&str, u32, &str, bool), Vec<&Effect>> = BTreeMap::new();
    for it in &case.store.effects {
        if it.ruling == Ruling::Acted {
            let step = (it.run.as_str(), it.generation, it.step.as_str(), it.undo);
            acted.entry(step).or_default().push(it);
        }
    }
    match case.store.setup.sink.as_str() {
        "naive" => explained(case, &acted, &mut judge),
        "fenced" => fences_obeyed(case, &mut judge),
        _ => once_per_step(case, &acted, &mut judge),
    }
    if case.store.setup.sink != "naive" {
        done_means_acted(case, &mut judge);
    }
    judge.verdict()
}

type ByStep<'a> = BTreeMap<(&'a str, u32, &'a str, bool), Vec<&'a Effect>>;

fn once_per_step(case: &Case<'_>, acted: &ByStep<'_>, judge: &mut Judge) {
    for ((run, _, step, undo), effects) in acted {
        judge.saw();
        if let [first, second, ..] = effects.as_slice() {
            let what = if *undo { "the undo of " } else { "" };
            let why = if first.key == second.key {
                "under one key".to_owned()
            } else {
                format!(
                    "attempt {} sent key {}, attempt {} sent {}",
                    first.attempt, first.key, second.attempt, second.key
                )
            };
            let headline =
                format!("S8: {run}, {what}step {step}: two effects at the idempotent sink; {why}");
            judge.broken(|| story::of_run(case, &headline, run));
        }
    }
}

/// A fenced sink refuses what is older than what it has seen of a step.
fn fences_obeyed(case: &Case<'_>, judge: &mut Judge) {
    let mut seen: BTreeMap<(&str, u32, &str, bool), u64> = BTreeMap::new();
    for it in &case.store.effects {
        let newest = seen
            .entry((&it.run, it.generation, &it.step, it.undo))
            .or_default();
        judge.saw();
        let took = !matches!(
            it.ruling,
            Ruling::Stale | Ruling::Probed { .. } | Ruling::Throttled
        );
        if took && it.fence < *newest {
            let headline = format!(
                "S8: the fenced sink took fence {} of {} {} after fence {}",
                story::fence(it.fence),
                it.run,
                it.step,
                story::fence(*newest)
            );
            judge.broken(|| story::of_run(case, &headline, &it.run));
        }
        *newest = (*newest).max(it.fence);
    }
}

/// At a sink that looks at nothing a second effect needs a reason: the first attempt's lease was over, and nothing of it counted.
fn explained(case: &Case<'_>, acted: &ByStep<'_>, judge: &mut Judge) {
    for ((run, _, step, _), effects) in acted {
        judge.saw();
        let fences: BTreeSet<u64> = effects.iter().map(|it| it.fence).collect();
        if fences.len() < effects.len() {
            let headline = format!("S8: {run} step {step} acted twice, both times under one fence");
            judge.broken(|| story::of_run(case, &headline, run));
        }
        for pair in effects.windows(2) {
            let [first, second] = pair else { continue };
            let mut tell = |why: &str| {
                let headline = format!("S8: {run} step {step} acted twice, and {why}");
                judge.broken(|| story::of_run(case, &headline, run));
            };
            if first.fence == second.fence {
                continue; // told of above
            }
            let (older, newer) = if first.fence < second.fence {
                (first, second)
            } else {
                (second, first)
            };
            let (Some(older), Some(newer)) = (lease_of(case, older), lease_of(case, newer)) else {
                continue; // S9 tells of effects without a grant
            };
            match &older.ended {
                None => tell("the first lease never ended"),
                Some(ended) if ended.line.index > newer.began.line.index => {
                    tell("the second was granted while the first lease was live");
                }
                Some(_) if older.outcome == Some("done") => {
                    tell("the first had been recorded as done");
                }
                Some(_) => {}
            }
        }
    }
}

/// A step of a kind that calls the sink is not done without an effect under its own run.
fn done_means_acted(case: &Case<'_>, judge: &mut Judge) {
    let mut by_work: BTreeMap<(&Work, u32), bool> = BTreeMap::new();
    for it in &case.store.effects {
        let Some(lease) = lease_of(case, it) else {
            continue;
        };
        let happened = matches!(
            it.ruling,
            Ruling::Acted | Ruling::Repeated | Ruling::Probed { found: true }
        );
        *by_work.entry((lease.work, lease.generation)).or_default() |= happened;
    }
    for (work, (done, _)) in log::dones(&case.lives) {
        // Steps that never called the sink may be of a kind that does not.
        if by_work.get(&work) == Some(&false) {
            let run = log::run_of(work.0);
            let headline = format!(
                "S8: {} is done (index {}), and the sink never acted for it",
                story::work(work.0),
                done.line.index
            );
            judge.broken(|| story::of_run(case, &headline, run));
        }
    }
}

/// S9: every call and body has its grant, and came after it; attempts are dense from 1; what may have happened is not repeated
/// where that is forbidden.
pub fn s9(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    let complete = case.log.incomplete().is_none();
    for it in &case.store.effects {
        judge.saw();
        let tell = |why: &str| {
            let at = case.clock(it.t);
            let fence = story::fence(it.fence);
            let headline = format!(
                "S9: the sink was called for {} {} at {at} under fence {fence}, {why}",
                it.run, it.step
            );
            story::of_run(case, &headline, &it.run)
        };
        let Some(lease) = lease_of(case, it) else {
            if complete {
                judge.broken(|| tell("which was never granted"));
            }
            continue;
        };
        if it.t < lease.began.first {
            judge.broken(|| tell("before any node had applied the grant"));
        } else if matches!(lease.work, Work::Drive { .. }) {
            judge.broken(|| tell("which is a drive's"));
        } else if it.undo != matches!(lease.work, Work::Undo { .. }) {
            judge.broken(|| tell("which was granted for the other of step and undo"));
        } else if lease.attempt.is_some_and(|attempt| attempt != it.attempt) {
            judge.broken(|| tell("which belongs to another attempt"));
        }
    }
    if complete {
        dense(case, &mut judge);
        repeats(case, &mut judge);
    }
    probed(case, &mut judge);
    bodies::granted(case, complete, &mut judge);
    judge.verdict()
}

fn dense(case: &Case<'_>, judge: &mut Judge) {
    for ((run, _), life) in &case.lives {
        let mut last: BTreeMap<&Work, u32> = BTreeMap::new();
        for moment in &life.moments {
            let What::Event(TapEvent::LeaseBegan {
                work,
                attempt: Some(attempt),
                ..
            }) = moment.what
            else {
                continue;
            };
            judge.saw();
            let before = last.insert(work, *attempt).unwrap_or(0);
            if *attempt != before + 1 {
                let what = story::work(work);
                let headline = format!("S9: attempt {attempt} of {what} followed attempt {before}");
                judge.broken(|| story::of_run(case, &headline, run));
            }
        }
    }
}

/// A step that must not be repeated is given out again only after a report of its own, or when a person said so.
fn repeats(case: &Case<'_>, judge: &mut Judge) {
    let journals = case.journals();
    for ((run, generation), life) in &case.lives {
        let Some(journal) = journals.get(&(run.as_str(), *generation)) else {
            continue;
        };
        let details = journal.journal.iter().flat_map(|row| &row.details);
        let once: BTreeSet<u32> = details
            .filter(|it| it.certainty.as_deref() == Some("at-most-once"))
            .map(|it| it.entry)
            .collect();
        if once.is_empty() {
            continue;
        }
        let mut uncertain: BTreeSet<u32> = BTreeSet::new();
        for moment in &life.moments {
            match moment.what {
                What::Command(it) if matches!(it.kind.as_str(), "resume" | "retry") => {
                    uncertain.clear();
                }
                What::Result(result) => {
                    if let Work::Step { entry, .. } = &result.work
                        && result.outcome != "stopped"
                    {
                        uncertain.remove(entry);
                    }
                }
                What::Event(TapEvent::LeaseBegan {
                    work: Work::Step { entry, .. },
                    ..
                }) if once.contains(entry) => {
                    judge.saw();
                    if !uncertain.insert(*entry) {
                        let headline = format!(
                            "S9: step {entry} of {run} may have happened at most once, and was given out again"
                        );
                        judge.broken(|| story::of_run(case, &headline, run));
                    }
                }
                What::Command(_) | What::Event(_) => {}
            }
        }
    }
}

/// What a probe has confirmed is not done again.
fn probed(case: &Case<'_>, judge: &mut Judge) {
    let mut found: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for it in &case.store.effects {
        match it.ruling {
            Ruling::Probed { found: true } => {
                judge.saw();
                let newest = found.entry((&it.run, &it.key)).or_default();
                *newest = (*newest).max(it.fence);
            }
            Ruling::Acted => {
                let confirmed = found.get(&(it.run.as_str(), it.key.as_str()));
                if confirmed.is_some_and(|fence| it.fence > *fence) {
                    let headline = format!(
                        "S9: the probe of {} {} had found it, and it acted again",
                        it.run, it.step
                    );
                    judge.broken(|| story::of_run(case, &headline, &it.run));
                }
            }
            _ => {}
        }
    }
}
