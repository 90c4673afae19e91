//! S5a nothing checkpointed is given out again; S6 one lease at a time, and none ended without cause; S7 fences grow.
//!
//! Decided in log order from the taps alone; the sink's view of fences from its effects. Not here: what bodies did (`bodies`).

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::case::{Case, Judge, MS};
use crate::checker::log::{What, become_leader};
use crate::checker::story;
use crate::records::{Ruling, TapEvent, Verdict, Work};

/// S5a: no grant of a step or an undo above the position of its `done`.
pub fn s5a(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    for ((run, _), life) in &case.lives {
        let mut done: BTreeMap<&Work, u64> = BTreeMap::new();
        for moment in &life.moments {
            match moment.what {
                What::Result(result) if result.outcome == "done" => {
                    judge.saw();
                    if let Some(before) = done.insert(&result.work, moment.index()) {
                        let what = story::work(&result.work);
                        let headline = format!(
                            "S5a: {what} was done at index {before}, and again at {}",
                            moment.index()
                        );
                        judge.broken(|| story::of_run(case, &headline, run));
                    }
                }
                What::Event(TapEvent::LeaseBegan { work, .. }) => {
                    if let Some(at) = done.get(work) {
                        let what = story::work(work);
                        let headline = format!(
                            "S5a: {what} was done at index {at}, and given out again at {}",
                            moment.index()
                        );
                        judge.broken(|| story::of_run(case, &headline, run));
                    }
                }
                What::Command(_) | What::Event(_) | What::Result(_) => {}
            }
        }
    }
    judge.verdict()
}

/// S6: a grant only above the end of the lease before it; a session's expiry only after a silent term.
pub fn s6(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    let complete = case.log.incomplete().is_none();
    for ((run, _), life) in &case.lives {
        let mut live: BTreeMap<&Work, u64> = BTreeMap::new();
        for moment in &life.moments {
            match moment.what {
                What::Event(TapEvent::LeaseBegan { work, fence, .. }) => {
                    judge.saw();
                    if let Some(other) = live.insert(work, *fence) {
                        let headline = format!(
                            "S6: {} was given out under fence {} while fence {} was live",
                            story::work(work),
                            story::fence(*fence),
                            story::fence(other)
                        );
                        judge.broken(|| story::of_run(case, &headline, run));
                    }
                }
                What::Event(TapEvent::LeaseEnded { work, fence, .. }) => {
                    let was = live.remove(work);
                    if was != Some(*fence) && (was.is_some() || complete) {
                        let headline = format!(
                            "S6: a lease of {} ended under fence {}, which was not live",
                            story::work(work),
                            story::fence(*fence)
                        );
                        judge.broken(|| story::of_run(case, &headline, run));
                    }
                }
                What::Command(_) | What::Event(_) | What::Result(_) => {}
            }
        }
    }
    expiries(case, &mut judge);
    judge.verdict()
}

/// A new leader treats every worker as fresh for one term; without any fault no worker falls silent.
fn expiries(case: &Case<'_>, judge: &mut Judge) {
    let term = case.store.setup.term_ms * MS;
    let leaving: BTreeSet<u64> = case
        .log
        .commands()
        .filter(|(_, it)| it.kind == "detach")
        .filter_map(|(_, it)| it.session)
        .collect();
    let over = case.healed();
    for (seen, command) in case.log.commands() {
        let session_expired = command.kind == "expire"
            && command.run.is_none()
            && command.fence.is_none()
            && command.answer == "ok";
        let Some(session) = command.session.filter(|_| session_expired) else {
            continue;
        };
        if leaving.contains(&session) {
            continue;
        }
        judge.saw();
        let group = &case.log.groups[&seen.line.group];
        let leader = group.get(&seen.line.epoch);
        let leader = leader.filter(|it| become_leader(it.line).is_some());
        if let Some(leader) = leader
            && seen.first < leader.first + term
        {
            let ms = seen.first.saturating_sub(leader.first) / MS;
            judge.broken(|| {
                format!(
                    "S6: session {session} was expired at {} (index {}), {ms} ms after its leader began (index {}); \
                     a term is {} ms",
                    case.clock(seen.first),
                    seen.line.index,
                    leader.line.index,
                    case.store.setup.term_ms
                )
            });
        }
        if case.windows.is_empty() && seen.first < over {
            judge.broken(|| {
                format!(
                    "S6: session {session} was expired at {} (index {}), and no fault had hit anything",
                    case.clock(seen.first),
                    seen.line.index
                )
            });
        }
    }
}

/// S7: along the log each fence of one piece of work is larger than the last and names its own entry; at the sink no accepted
/// fence of a step is older than one accepted before.
pub fn s7(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    for ((run, _), life) in &case.lives {
        let mut newest: BTreeMap<&Work, u64> = BTreeMap::new();
        for moment in &life.moments {
            let What::Event(TapEvent::LeaseBegan { work, fence, .. }) = moment.what else {
                continue;
            };
            judge.saw();
            let before = newest.insert(work, *fence);
            if let Some(before) = before.filter(|before| *before >= *fence) {
                let headline = format!(
                    "S7: {} was given out under fence {} after fence {}",
                    story::work(work),
                    story::fence(*fence),
                    story::fence(before)
                );
                judge.broken(|| story::of_run(case, &headline, run));
            }
            let index = (fence >> 16) & ((1 << 40) - 1);
            if index != moment.index() {
                let headline = format!(
                    "S7: {} was given out at index {} under fence {}, which names another",
                    story::work(work),
                    moment.index(),
                    story::fence(*fence)
                );
                judge.broken(|| story::of_run(case, &headline, run));
            }
        }
    }
    let mut accepted: BTreeMap<(&str, u32, &str, bool), u64> = BTreeMap::new();
    let acted = case.store.effects.iter();
    let checks_fences = case.store.setup.sink == "fenced";
    for it in acted.filter(|it| it.ruling == Ruling::Acted && checks_fences) {
        judge.saw();
        let newest = accepted
            .entry((&it.run, it.generation, &it.step, it.undo))
            .or_default();
        if it.fence < *newest {
            let headline = format!(
                "S7: the sink accepted fence {} of {} after fence {}",
                story::fence(it.fence),
                it.step,
                story::fence(*newest)
            );
            judge.broken(|| story::of_run(case, &headline, &it.run));
        }
        *newest = (*newest).max(it.fence);
    }
    judge.verdict()
}
