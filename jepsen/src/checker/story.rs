//! Stories: everything that concerns one run, in time order, in words.
//!
//! Invariant: a story is made of recorded lines only, one sentence each. Not here: which run is guilty.

use std::fmt::Write as _;

use crate::checker::case::Case;
use crate::checker::log::{event_run, run_of};
use crate::records::{
    Answer, AppliedCommand, Body, BodyMoment, Call, Effect, Fault, FaultStatus, Op, Outcome,
    Ruling, TapEvent, Work,
};

/// Lines that a story has at most.
const LINES_MAX: usize = 80;

/// A headline, and below it all that is recorded of a run.
pub fn of_run(case: &Case<'_>, headline: &str, run: &str) -> String {
    told(case, headline, lines_of(case, run))
}

/// A headline, and below it these operations.
pub fn of_ops(case: &Case<'_>, headline: &str, ops: &[&Op]) -> String {
    let lines = ops.iter().map(|op| (op.t_inv, operation(op))).collect();
    told(case, headline, lines)
}

/// All lines about a run: operations, effects, bodies, log entries, and the faults that fell into its time.
pub fn lines_of(case: &Case<'_>, run: &str) -> Vec<(u64, String)> {
    let store = case.store;
    let mut lines: Vec<(u64, String)> = Vec::new();
    let ops = store.history.iter();
    lines.extend(
        ops.filter(|op| op.call.run() == Some(run))
            .map(|op| (op.t_inv, operation(op))),
    );
    let effects = store.effects.iter().filter(|it| it.run == run);
    lines.extend(effects.map(|it| (it.t, effect(it))));
    let bodies = store.bodies.iter().filter(|it| it.run == run);
    lines.extend(bodies.map(|it| (it.t, body(it))));
    for seen in case.log.entries() {
        let at = (seen.line.group, seen.line.index);
        let about = |it: &&AppliedCommand| {
            it.run.as_deref() == Some(run)
                || it.results.iter().any(|result| run_of(&result.work) == run)
                || it.admitted.iter().any(|(of, _)| of == run)
        };
        for command in seen.line.commands.iter().filter(about) {
            lines.push((seen.first, applied(at, command)));
        }
        let events = seen.line.events.iter();
        for it in events.filter(|it| event_run(it) == Some(run)) {
            lines.push((seen.first, event(at, it)));
        }
    }
    let first = lines.iter().map(|(t, _)| *t).min().unwrap_or(0);
    let last = lines.iter().map(|(t, _)| *t).max().unwrap_or(0);
    let faults = store.faults.iter();
    lines.extend(
        faults
            .filter(|it| first <= it.t && it.t <= last)
            .map(|it| (it.t, fault(it))),
    );
    lines.sort_by_key(|(t, _)| *t); // stable: what has one time stays in its order
    lines
}

fn told(case: &Case<'_>, headline: &str, lines: Vec<(u64, String)>) -> String {
    let mut story = headline.to_owned();
    let left_out = lines.len().saturating_sub(LINES_MAX);
    for (nth, (t, line)) in lines.iter().enumerate() {
        // The beginning and the end tell most.
        if left_out > 0 && (LINES_MAX / 2..LINES_MAX / 2 + left_out).contains(&nth) {
            if nth == LINES_MAX / 2 {
                let _ = write!(story, "\n    … {left_out} lines left out …");
            }
            continue;
        }
        let _ = write!(story, "\n    {:>12}  {line}", case.clock(*t));
    }
    story
}

/// A fence as log index and number of the grant in its entry.
pub fn fence(number: u64) -> String {
    let incarnation = number >> 56;
    let place = format!("{}:{}", (number >> 16) & ((1 << 40) - 1), number & 0xffff);
    if incarnation == 0 {
        place
    } else {
        format!("{incarnation}/{place}")
    }
}

/// A piece of work in words.
pub fn work(work: &Work) -> String {
    match work {
        Work::Drive { run } => format!("the drive of {run}"),
        Work::Step { run, entry } => format!("step {entry} of {run}"),
        Work::Undo { run, entry } => format!("the undo of step {entry} of {run}"),
    }
}

/// An operation in one sentence.
pub fn operation(op: &Op) -> String {
    let asked = match &op.call {
        Call::Start {
            run,
            workflow,
            serial,
        } => format!("start {run} as {workflow} with serial {serial}"),
        Call::Result { run } => format!("the result of {run}"),
        Call::Get { run, stale, .. } => {
            format!("{run}{}", if *stale { ", stale" } else { "" })
        }
        Call::Signal {
            run,
            name,
            signal_id,
            serial,
        } => format!("signal {name} to {run}, id {signal_id}, serial {serial}"),
        Call::Cancel { run, .. } => format!("cancel {run}"),
        Call::Terminate { run, .. } => format!("terminate {run}"),
        Call::SetCurrent { workflow, version } => format!("set {workflow} to version {version}"),
        Call::GetCurrent { workflow } => format!("the current version of {workflow}"),
        Call::SetLimit { limit, .. } => format!("set limit {limit}"),
    };
    let node = if op.node.is_empty() {
        String::new()
    } else {
        format!(" {}", op.node)
    };
    let took = op.t_ret.saturating_sub(op.t_inv) / 1_000_000;
    let said = match (&op.outcome, &op.answer, &op.error) {
        (Outcome::Ok, Some(answer), _) => answered(answer),
        (Outcome::Ok, None, _) => "done".to_owned(),
        (Outcome::Fail, _, error) => {
            format!(
                "refused, {}",
                error.as_deref().unwrap_or("for no reason given")
            )
        }
        (Outcome::Info, _, error) => {
            format!("unknown, {}", error.as_deref().unwrap_or("no answer"))
        }
    };
    let at = op.position.map_or(String::new(), |at| {
        format!(" at {}:{}:{}", at.group, at.index, at.slot)
    });
    format!(
        "op {}: client {} asked{node}: {asked}; after {took} ms: {said}{at}",
        op.id, op.client
    )
}

fn answered(answer: &Answer) -> String {
    match answer {
        Answer::Started {
            created: true,
            generation,
        } => format!("created, generation {generation}"),
        Answer::Started {
            created: false,
            generation,
        } => format!("attached, generation {generation}"),
        Answer::Run {
            status,
            serial: Some(serial),
            ..
        } => format!("{status} with serial {serial}"),
        Answer::Run { status, .. } => status.clone(),
        Answer::NoRun => "no such run".to_owned(),
        Answer::Done { already: false } => "done".to_owned(),
        Answer::Done { already: true } => "done by an earlier send".to_owned(),
        Answer::Ended { status } => format!("too late, it is {status}"),
        Answer::Version { version } => format!("version {version}"),
    }
}

fn effect(it: &Effect) -> String {
    let what = if it.undo { "undo of " } else { "" };
    let ruling = match it.ruling {
        Ruling::Acted => "acted".to_owned(),
        Ruling::Repeated => "seen before, answered the same".to_owned(),
        Ruling::Stale => "stale fence, refused".to_owned(),
        Ruling::Probed { found } => format!("probed, found: {found}"),
        Ruling::Throttled => "throttled".to_owned(),
        Ruling::Registered => "fence registered".to_owned(),
    };
    format!(
        "sink: {what}{} attempt {} by {} under fence {}, key {}: {ruling}",
        it.step,
        it.attempt,
        it.worker,
        fence(it.fence),
        it.key
    )
}

fn body(it: &Body) -> String {
    let what = match it.what {
        BodyMoment::Began => "begins",
        BodyMoment::Done => "is done",
        BodyMoment::Failed => "has failed",
        BodyMoment::Stopped => "was stopped",
    };
    format!(
        "worker {} (pid {}): body of {} attempt {} under fence {} {what}",
        it.worker,
        it.pid,
        it.step,
        it.attempt,
        fence(it.fence)
    )
}

fn applied((group, index): (u32, u64), it: &AppliedCommand) -> String {
    let mut line = format!("log {group}:{index}:{} {}", it.slot, it.kind);
    for (label, value) in [("", &it.name), ("id ", &it.request)] {
        if let Some(value) = value {
            let _ = write!(line, " {label}{value}");
        }
    }
    if let Some(number) = it.fence {
        let _ = write!(line, " under fence {}", fence(number));
    }
    let _ = write!(line, ": {}", it.answer);
    for result in &it.results {
        let _ = write!(line, "; {} {}", work(&result.work), result.outcome);
    }
    for (run, entry) in &it.admitted {
        let _ = write!(line, "; admitted step {entry} of {run}");
    }
    line
}

fn event((group, index): (u32, u64), it: &TapEvent) -> String {
    let what = match it {
        TapEvent::LeaseBegan {
            work: of,
            session,
            fence: number,
            attempt,
        } => {
            let attempt = attempt.map_or(String::new(), |it| format!(", attempt {it}"));
            let (of, number) = (work(of), fence(*number));
            format!("session {session} is given {of} under fence {number}{attempt}")
        }
        TapEvent::LeaseEnded {
            work: of,
            fence: number,
            ..
        } => format!(
            "the lease of {} under fence {} is over",
            work(of),
            fence(*number)
        ),
        TapEvent::Run { run, status } => format!("{run} is {status}"),
        TapEvent::SessionAttached { session, process } => {
            format!("session {session} of {process} attached")
        }
        TapEvent::SessionEnded { session } => format!("session {session} ended"),
    };
    format!("log {group}:{index} {what}")
}

/// A fault in one sentence.
pub fn fault(it: &Fault) -> String {
    let status = match it.status {
        FaultStatus::Installed => "in force",
        FaultStatus::Healed => "over",
        FaultStatus::Skipped => "skipped",
        FaultStatus::Indeterminate => "perhaps in force",
    };
    let note = if it.note.is_empty() {
        String::new()
    } else {
        format!(" ({})", it.note)
    };
    format!(
        "fault {} on {}: {status}{note}",
        it.fault,
        it.targets.join(", ")
    )
}
