//! S2 exactly one final state; S10 results agree; S17 no resurrection.
//!
//! Decided from the taps in log order, the journals of all nodes, and what clients were told. Not here: that every run does
//! end after the heal (`liveness`), undo (`undo`).

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::case::{Case, Judge};
use crate::checker::log::{Life, What, is_final};
use crate::checker::story;
use crate::records::{Answer, Call, Outcome, TapEvent, Verdict, Work};

/// The final state of a life, and the log index where it was reached.
pub fn ending<'a>(life: &Life<'a>) -> Option<(&'a str, u64)> {
    life.moments.iter().find_map(|it| match it.what {
        What::Event(TapEvent::Run { status, .. }) if is_final(status) => {
            Some((status.as_str(), it.index()))
        }
        _ => None,
    })
}

/// S2: one final state, nothing after it, nothing in flight at it, the same wherever it is seen.
pub fn s2(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    let mut seen: BTreeMap<(&str, u32), BTreeSet<&str>> = BTreeMap::new();
    for ((run, generation), life) in &case.lives {
        let Some((status, index)) = ending(life) else {
            continue;
        };
        judge.saw();
        seen.entry((run, *generation)).or_default().insert(status);
        if let Some(what) = wrong_at_end(life, index) {
            let headline = format!("S2: {run} became {status} at index {index}, and {what}");
            judge.broken(|| story::of_run(case, &headline, run));
        }
    }
    for (_, it) in case.finals().filter(|(_, it)| is_final(&it.status)) {
        judge.saw();
        let endings = it.journal.iter().flat_map(|row| &row.intents);
        let endings = endings.filter(|(_, kind, _)| kind == "complete" || kind == "fail");
        if endings.count() > 1 {
            let headline = format!("S2: the journal of {} ends it twice", it.run);
            judge.broken(|| story::of_run(case, &headline, &it.run));
        }
        let key = (it.run.as_str(), it.generation);
        seen.entry(key).or_default().insert(&it.status);
    }
    for op in case.answered() {
        let told = match (&op.call, &op.answer) {
            (
                _,
                Some(Answer::Run {
                    status, generation, ..
                }),
            ) => Some((status, *generation)),
            (_, Some(Answer::Ended { status })) => Some((status, 1)),
            _ => None,
        };
        if let (Some(run), Some((status, generation))) = (op.call.run(), told)
            && is_final(status)
        {
            judge.saw();
            seen.entry((run, generation)).or_default().insert(status);
        }
    }
    for ((run, generation), statuses) in &seen {
        // What a late caller was told names no generation: it is compared only where there is one.
        if statuses.len() > 1 && (*generation > 1 || lived_once(case, run)) {
            let statuses: Vec<&str> = statuses.iter().copied().collect();
            let headline = format!(
                "S2: {run} was seen in several final states: {}",
                statuses.join(", ")
            );
            judge.broken(|| story::of_run(case, &headline, run));
        }
    }
    judge.verdict()
}

fn lived_once(case: &Case<'_>, run: &str) -> bool {
    !case.lives.contains_key(&(run.to_owned(), 2))
}

/// What must not be at or after the end of a life.
fn wrong_at_end(life: &Life<'_>, index: u64) -> Option<String> {
    let mut live: BTreeSet<&Work> = BTreeSet::new();
    for moment in &life.moments {
        let after = moment.index() > index;
        match moment.what {
            What::Event(TapEvent::LeaseBegan { work, .. }) if after => {
                return Some(format!("{} was given out after it", story::work(work)));
            }
            What::Event(TapEvent::Run { status, .. }) if after => {
                return Some(format!("it was {status} after it"));
            }
            What::Command(command)
                if after
                    && matches!(command.kind.as_str(), "cancel" | "terminate" | "pause")
                    && command.answer == "ok" =>
            {
                return Some(format!("a {} after it was accepted", command.kind));
            }
            What::Event(TapEvent::LeaseBegan { work, .. }) => {
                live.insert(work);
            }
            What::Event(TapEvent::LeaseEnded { work, .. }) if !after => {
                live.remove(work);
            }
            What::Event(_) | What::Command(_) | What::Result(_) => {}
        }
    }
    let work = live.first()?;
    Some(format!("{} was in flight at it", story::work(work)))
}

/// S10: every answer about a run's result is the same one, and the one in the journals.
pub fn s10(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    let mut results: BTreeMap<(&str, u32), BTreeMap<u64, String>> = BTreeMap::new();
    for op in case.answered() {
        if let (
            Call::Result { run } | Call::Get { run, .. },
            Some(Answer::Run {
                generation,
                serial: Some(serial),
                ..
            }),
        ) = (&op.call, &op.answer)
        {
            judge.saw();
            let of = results.entry((run, *generation)).or_default();
            of.entry(*serial)
                .or_insert_with(|| format!("op {} was told", op.id));
        }
    }
    for (node, it) in case.finals() {
        if let Some(serial) = it.result {
            judge.saw();
            let of = results.entry((&it.run, it.generation)).or_default();
            of.entry(serial).or_insert_with(|| format!("{node} has"));
        }
    }
    for ((run, _), of) in results.iter().filter(|(_, of)| of.len() > 1) {
        let told: Vec<String> = of
            .iter()
            .map(|(serial, who)| format!("{who} {serial}"))
            .collect();
        let headline = format!("S10: the results of {run} differ: {}", told.join(", "));
        judge.broken(|| story::of_run(case, &headline, run));
    }
    judge.verdict()
}

/// S17: after an accepted cancel no step and no drive is given out, only undos; after a terminate nothing is.
pub fn s17(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    for ((run, _), life) in &case.lives {
        let mut stopped: Option<(&str, u64)> = None;
        for moment in &life.moments {
            match moment.what {
                What::Command(command) if command.answer == "ok" => {
                    let kind = command.kind.as_str();
                    if kind == "terminate" || (kind == "cancel" && stopped.is_none()) {
                        judge.saw();
                        stopped = Some((kind, moment.index()));
                    }
                }
                What::Event(TapEvent::LeaseBegan { work, .. }) => {
                    let Some((kind, index)) = stopped else {
                        continue;
                    };
                    let undo = matches!(work, Work::Undo { .. });
                    if moment.index() > index && (kind == "terminate" || !undo) {
                        let what = story::work(work);
                        let at = moment.index();
                        let headline = format!(
                            "S17: {run} was stopped by a {kind} at index {index}, and {what} was given out at {at}"
                        );
                        judge.broken(|| story::of_run(case, &headline, run));
                    }
                }
                What::Command(_) | What::Event(_) | What::Result(_) => {}
            }
        }
    }
    gone(case, &mut judge);
    judge.verdict()
}

/// A client that was told of a final state is never told of a live one later.
fn gone(case: &Case<'_>, judge: &mut Judge) {
    let mut ended: BTreeMap<(&str, u32), (u64, &str)> = BTreeMap::new();
    let mut ops: Vec<_> = case.answered().collect();
    ops.sort_by_key(|op| op.t_ret);
    for op in &ops {
        if let (
            Some(run),
            Some(Answer::Run {
                status, generation, ..
            }),
        ) = (op.call.run(), &op.answer)
            && is_final(status)
        {
            ended
                .entry((run, *generation))
                .or_insert((op.t_ret, status));
        }
    }
    for op in ops {
        let Call::Get {
            run,
            stale: false,
            at_least: None,
        } = &op.call
        else {
            continue;
        };
        let (
            Outcome::Ok,
            Some(Answer::Run {
                status, generation, ..
            }),
        ) = (op.outcome, &op.answer)
        else {
            continue;
        };
        let Some((t, was)) = ended.get(&(run.as_str(), *generation)) else {
            continue;
        };
        judge.saw();
        if op.t_inv > *t && !is_final(status) {
            let headline = format!(
                "S17: {run} was {was}, and op {} asked later and was told {status}",
                op.id
            );
            judge.broken(|| story::of_run(case, &headline, run));
        }
    }
}
