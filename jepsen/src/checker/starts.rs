//! S1 an acknowledged start is never lost; S3 one run id, one run; S4 nothing that nobody asked for.
//!
//! Decided from the history, the taps and the journals of all nodes. Not here: how a run ends (`endings`).

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::case::{Case, Judge};
use crate::checker::log::{What, is_final};
use crate::checker::story;
use crate::records::{Answer, Call, Op, Outcome, TapEvent, Verdict};

/// A start as it was asked: run, workflow, serial.
fn start(op: &Op) -> Option<(&str, &str, u64)> {
    match &op.call {
        Call::Start {
            run,
            workflow,
            serial,
        } => Some((run, workflow, *serial)),
        _ => None,
    }
}

/// The part of a run id before the first `~`: children belong to the run that was asked for.
fn root(run: &str) -> &str {
    run.split('~').next().unwrap_or(run)
}

/// S1: each answered start is in the log at its position and in every node's journals, with its input.
pub fn s1(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    let incomplete = case.log.incomplete();
    let nodes = &case.store.journals;
    let by_node: BTreeMap<&str, BTreeMap<(&str, u32), Option<u64>>> = nodes
        .iter()
        .map(|(node, runs)| {
            let runs = runs.iter();
            let runs = runs.map(|it| ((it.run.as_str(), it.generation), it.serial));
            (node.as_str(), runs.collect())
        })
        .collect();
    if by_node.is_empty() && incomplete.is_some() {
        return Verdict::NotExercised;
    }
    for op in case.answered() {
        let (Some((run, _, serial)), Some(Answer::Started { generation, .. })) =
            (start(op), &op.answer)
        else {
            continue;
        };
        judge.saw();
        for (node, runs) in &by_node {
            let told = |what: &str| {
                story::of_run(
                    case,
                    &format!("S1: {run} was acknowledged, and {node} {what}"),
                    run,
                )
            };
            match runs.get(&(run, *generation)) {
                None => judge.broken(|| told("does not have it")),
                Some(Some(has)) if *has != serial => {
                    judge.broken(|| told(&format!("has it with serial {has}, not {serial}")));
                }
                Some(_) => {}
            }
        }
        if let (None, Some(position)) = (&incomplete, &op.position) {
            let there = case.log.at(position).is_some_and(|seen| {
                let commands = seen.line.commands.iter();
                commands
                    .filter(|it| it.kind == "start" && it.answer == "ok")
                    .any(|it| it.run.as_deref() == Some(run))
            });
            if !there {
                let at = (position.group, position.index);
                let headline =
                    format!("S1: {run} was acknowledged at {at:?}, where no node applied it");
                judge.broken(|| story::of_run(case, &headline, run));
            }
        }
    }
    judge.verdict()
}

/// S3: the same id and input is the same run; another input is always a conflict; a new life only after a final state.
pub fn s3(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    let mut accepted: BTreeMap<(&str, u32), Vec<&Op>> = BTreeMap::new();
    let mut asked: BTreeMap<&str, BTreeSet<(&str, u64)>> = BTreeMap::new();
    for op in &case.store.history {
        let Some((run, workflow, serial)) = start(op) else {
            continue;
        };
        asked.entry(run).or_default().insert((workflow, serial));
        if let (Outcome::Ok, Some(Answer::Started { generation, .. })) = (op.outcome, &op.answer) {
            accepted.entry((run, *generation)).or_default().push(op);
        }
    }
    for ((run, generation), ops) in &accepted {
        judge.saw();
        let inputs: BTreeSet<_> = ops.iter().filter_map(|op| start(op)).collect();
        if inputs.len() > 1 {
            let headline = format!("S3: starts of {run} with different inputs were all accepted");
            judge.broken(|| story::of_run(case, &headline, run));
        }
        let created = |op: &&&Op| matches!(op.answer, Some(Answer::Started { created: true, .. }));
        if ops.iter().filter(created).count() > 1 {
            let headline = format!("S3: generation {generation} of {run} was created twice");
            judge.broken(|| story::of_run(case, &headline, run));
        }
    }
    for op in &case.store.history {
        let Some((run, _, _)) = start(op) else {
            continue;
        };
        let conflict = op.error.as_deref().is_some_and(|it| it.contains("HF2001"));
        if op.outcome == Outcome::Fail && conflict {
            judge.saw();
            if asked.get(run).is_some_and(|inputs| inputs.len() < 2) {
                let headline =
                    format!("S3: {run} was refused for another input, and there was none");
                judge.broken(|| story::of_run(case, &headline, run));
            }
        }
    }
    for (run, generation) in case.lives.keys().filter(|(_, generation)| *generation > 1) {
        let Some(before) = case.lives.get(&(run.clone(), generation - 1)) else {
            continue;
        };
        judge.saw();
        let ended = before.moments.iter().any(
            |it| matches!(it.what, What::Event(TapEvent::Run { status, .. }) if is_final(status)),
        );
        if !ended {
            let headline =
                format!("S3: generation {generation} of {run} began before the last had ended");
            judge.broken(|| story::of_run(case, &headline, run));
        }
    }
    judge.verdict()
}

/// S4: every run, signal and effect was asked for, and what was certainly refused left no trace.
pub fn s4(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    let mut starts: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    let mut requests: BTreeMap<(&str, &str), Vec<&Op>> = BTreeMap::new();
    for op in &case.store.history {
        match &op.call {
            Call::Start { run, .. } => starts.entry(run).or_default().push(op),
            Call::Signal { run, signal_id, .. } => {
                requests.entry((run, signal_id)).or_default().push(op);
            }
            Call::Cancel { run, request } | Call::Terminate { run, request } => {
                requests.entry((run, request)).or_default().push(op);
            }
            _ => {}
        }
    }
    // A command about a run that there never was leaves a life without any event.
    let lived = case.lives.iter().filter(|(_, life)| {
        let mut moments = life.moments.iter();
        moments.any(|it| matches!(it.what, What::Event(_)))
    });
    let mut known: BTreeSet<&str> = lived.map(|((run, _), _)| run.as_str()).collect();
    known.extend(case.store.effects.iter().map(|it| it.run.as_str()));
    known.extend(case.finals().map(|(_, it)| it.run.as_str()));
    for run in known {
        judge.saw();
        match starts.get(root(run)) {
            None => judge
                .broken(|| story::of_run(case, &format!("S4: nobody asked for run {run}"), run)),
            Some(ops) if ops.iter().all(|op| op.outcome == Outcome::Fail) => judge.broken(|| {
                let headline = format!("S4: every start of {run} was refused, and there it is");
                story::of_run(case, &headline, run)
            }),
            Some(_) => {}
        }
    }
    refused_serials(case, &starts, &mut judge);
    for (_, command) in case.log.commands() {
        let (Some(run), Some(request)) = (command.run.as_deref(), command.request.as_deref())
        else {
            continue;
        };
        if command.answer != "ok" || command.kind == "start" {
            continue;
        }
        match requests.get(&(run, request)) {
            None if command.kind == "signal" => {
                judge.saw();
                let headline = format!("S4: nobody sent signal {request} to {run}");
                judge.broken(|| story::of_run(case, &headline, run));
            }
            None => {}
            Some(ops) => {
                judge.saw();
                if ops.iter().all(|op| op.outcome == Outcome::Fail) {
                    let kind = &command.kind;
                    let headline =
                        format!("S4: {kind} {request} of {run} was refused, and it was applied");
                    judge.broken(|| story::of_run(case, &headline, run));
                }
            }
        }
    }
    judge.verdict()
}

/// A run whose every start with its own serial was refused cannot have that serial.
fn refused_serials(case: &Case<'_>, starts: &BTreeMap<&str, Vec<&Op>>, judge: &mut Judge) {
    for ((run, _), journal) in case.journals() {
        let (Some(serial), Some(ops)) = (journal.serial, starts.get(run)) else {
            continue;
        };
        judge.saw();
        let mut same = ops
            .iter()
            .filter(|op| start(op).is_some_and(|(_, _, it)| it == serial))
            .peekable();
        if same.peek().is_none() {
            let headline = format!("S4: {run} has serial {serial}, which nobody sent");
            judge.broken(|| story::of_run(case, &headline, run));
        } else if same.all(|op| op.outcome == Outcome::Fail) {
            let headline = format!("S4: {run} has serial {serial}, whose start was refused");
            judge.broken(|| story::of_run(case, &headline, run));
        }
    }
}
