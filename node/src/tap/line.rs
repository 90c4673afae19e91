//! One line of the tap, made from an entry, its replies and its effects.
//!
//! Invariant: names and forms are those of `holdfast-jepsen`'s `records::Applied`; a test of the binary reads real lines
//! with it. A result counts if the lease under its fence ended by this very command. Not here: writing (`tap`).

use std::collections::BTreeMap;

use serde::Serialize;

use holdfast_proto::domain::wire;
use holdfast_scheduler::{
    apply::Applied,
    effect::Effect,
    entry::{
        Ask, AttemptOutcome, Body, Command, Duty, Entry, Expire, LimitSpec, StepResult, Work as Of,
    },
    ids::{Fence, Generation, IntentNo, LimitName, LogIndex, RunId},
    reply::{Rejected, Reply, Reported},
    rows::{self, ReadRows, TypedRows},
};

#[derive(Debug, Default, Serialize)]
pub(super) struct Line {
    pub t: u64,
    pub group: u32,
    pub index: u64,
    pub epoch: u64,
    pub in_force: u64,
    pub now: u64,
    pub commands: Vec<OneCommand>,
    pub events: Vec<Event>,
    pub digest: String,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct OneCommand {
    slot: u32,
    kind: &'static str,
    answer: &'static str,
    run: Option<String>,
    generation: Option<u32>,
    session: Option<u64>,
    fence: Option<u64>,
    request: Option<String>,
    name: Option<String>,
    number: Option<u64>,
    results: Vec<TakenResult>,
    admitted: Vec<(String, u32)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    limits: Vec<Declared>,
}

/// A limit as a command declares it.
#[derive(Debug, Serialize)]
pub(super) struct Declared {
    name: String,
    rate_count: Option<u32>,
    rate_per_ms: u64,
    burst: u32,
    concurrency: Option<u32>,
}

impl Declared {
    fn new(name: &LimitName, spec: &LimitSpec) -> Self {
        Self {
            name: name.to_string(),
            rate_count: spec.rate.map(|(count, _)| count),
            rate_per_ms: spec.rate.map_or(0, |(_, per)| per.0),
            burst: spec.burst,
            concurrency: spec.concurrency,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct TakenResult {
    work: Work,
    fence: u64,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_ms: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "work", rename_all = "kebab-case")]
pub(super) enum Work {
    Drive { run: String },
    Step { run: String, entry: u32 },
    Undo { run: String, entry: u32 },
}

#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Event {
    LeaseBegan {
        #[serde(flatten)]
        work: Work,
        session: u64,
        fence: u64,
        attempt: Option<u32>,
    },
    LeaseEnded {
        #[serde(flatten)]
        work: Work,
        session: u64,
        fence: u64,
    },
    Run {
        run: String,
        status: String,
    },
    SessionAttached {
        session: u64,
        process: String,
    },
    SessionEnded {
        session: u64,
    },
}

/// The line of this entry; time, place and digest are still to be written into it.
pub(super) fn of(
    rows: &dyn ReadRows,
    at: LogIndex,
    entry: &Entry,
    applied: &Applied,
    admitted: &[(RunId, IntentNo)],
) -> Result<Line, rows::Fault> {
    let (epoch, commands) = match &entry.body {
        Body::BecomeLeader(it) => {
            let command = OneCommand {
                kind: "become-leader",
                answer: "ok",
                name: Some(it.boot.to_string()),
                number: Some(it.node.0),
                ..OneCommand::default()
            };
            (at.0, vec![command])
        }
        Body::Batch {
            epoch, commands, ..
        } => {
            let mut all = described(commands, applied);
            generations(rows, commands, applied, &mut all)?;
            for (run, intent) in admitted {
                let by = commands.iter().position(|it| may_admit(it, run, *intent));
                if let Some(command) = by.and_then(|by| all.get_mut(by)) {
                    command.admitted.push((run.to_string(), intent.0));
                }
            }
            (epoch.0, all)
        }
    };
    Ok(Line {
        epoch,
        commands,
        events: events(entry, applied),
        ..Line::default()
    })
}

fn described(commands: &[Command], applied: &Applied) -> Vec<OneCommand> {
    let ended = |effect: &Effect| match effect {
        Effect::LeaseEnded { work, fence, .. } => Some((*fence, work.clone())),
        _ => None,
    };
    let mut ended: BTreeMap<Fence, Of> = applied.effects.iter().filter_map(ended).collect();
    let mut granted: Vec<(&Of, Fence)> = granted(&applied.effects).collect();
    let pairs = (0..).zip(commands.iter().zip(&applied.replies));
    pairs
        .map(|(slot, (command, reply))| {
            let mut it = match command {
                Command::Ask(ask) => of_ask(ask, reply, &mut ended),
                Command::Duty(duty) => of_duty(duty, &mut ended),
            };
            if let (Command::Duty(Duty::Grant(grant)), Reply::Done) = (command, reply)
                && let Some(place) = granted.iter().position(|(work, _)| **work == grant.work)
            {
                it.fence = Some(granted.remove(place).1.number());
            }
            it.slot = slot;
            it.answer = answer(reply);
            it
        })
        .collect()
}

fn granted(effects: &[Effect]) -> impl Iterator<Item = (&Of, Fence)> {
    effects.iter().filter_map(|effect| match effect {
        Effect::Granted { work, fence, .. } => Some((work, *fence)),
        _ => None,
    })
}

#[expect(clippy::too_many_lines, reason = "one arm per ask")]
fn of_ask(ask: &Ask, reply: &Reply, ended: &mut BTreeMap<Fence, Of>) -> OneCommand {
    let about = |kind, run: &RunId| OneCommand {
        kind,
        run: Some(run.to_string()),
        ..OneCommand::default()
    };
    let text = |it: &dyn ToString| Some(it.to_string());
    match ask {
        Ask::Start(it) => OneCommand {
            name: text(&it.workflow),
            request: it.signal.as_ref().and_then(|(_, id, _)| text(id)),
            ..about("start", &it.run)
        },
        Ask::Signal(it) => OneCommand {
            name: text(&it.name),
            request: text(&it.id),
            ..about("signal", &it.run)
        },
        Ask::Cancel(it) | Ask::Terminate(it) | Ask::Pause(it) | Ask::Resume(it) => OneCommand {
            request: text(&it.request),
            ..about(ask_kind(ask), &it.run)
        },
        Ask::Retry(it) => OneCommand {
            name: it.step.as_ref().and_then(|step| text(step)),
            request: text(&it.request),
            ..about("retry", &it.run)
        },
        Ask::Attach(it) => OneCommand {
            session: match reply {
                Reply::Attached { session, .. } => Some(session.0),
                _ => it.session.map(|session| session.0),
            },
            name: text(&it.worker),
            limits: declared(&it.limits),
            ..kind("attach")
        },
        Ask::Advance(it) => {
            let counted = matches!(reply, Reply::Advanced(_));
            let results = it.results.iter().filter(|_| counted);
            OneCommand {
                fence: Some(it.fence.number()),
                number: Some(u64::from(it.number.0)),
                results: results.filter_map(|it| taken(it, ended)).collect(),
                ..about("advance", &it.run)
            }
        }
        Ask::Report(it) => {
            let counted = matches!(reply, Reply::Reported(Reported::Accepted));
            let result = counted.then(|| taken(&it.result, ended)).flatten();
            OneCommand {
                fence: Some(it.result.fence.number()),
                results: result.into_iter().collect(),
                ..about("report", &it.run)
            }
        }
        Ask::Progress(it) => OneCommand {
            fence: Some(it.fence.number()),
            ..about("progress", &it.run)
        },
        Ask::Return(it) => {
            let runs = it.runs.iter().map(|(_, fence)| fence);
            for fence in runs.chain(it.steps.iter().map(|(_, _, fence)| fence)) {
                ended.remove(fence);
            }
            kind("return")
        }
        Ask::Detach(session) => OneCommand {
            session: Some(session.0),
            ..kind("detach")
        },
        Ask::Deploy(it) => OneCommand {
            name: text(&it.workflow),
            number: Some(u64::from(it.version.0)),
            request: text(&it.request),
            ..kind("deploy")
        },
        Ask::SetLimit(it) => OneCommand {
            name: text(&it.name),
            request: text(&it.request),
            limits: vec![Declared::new(&it.name, &it.spec)],
            ..kind("set-limit")
        },
        Ask::Noop(_) => kind("noop"),
    }
}

fn declared(limits: &[(LimitName, LimitSpec)]) -> Vec<Declared> {
    let limits = limits.iter();
    limits
        .map(|(name, spec)| Declared::new(name, spec))
        .collect()
}

fn ask_kind(ask: &Ask) -> &'static str {
    match ask {
        Ask::Cancel(_) => "cancel",
        Ask::Terminate(_) => "terminate",
        Ask::Pause(_) => "pause",
        _ => "resume",
    }
}

fn kind(kind: &'static str) -> OneCommand {
    OneCommand {
        kind,
        ..OneCommand::default()
    }
}

fn of_duty(duty: &Duty, ended: &mut BTreeMap<Fence, Of>) -> OneCommand {
    match duty {
        Duty::Grant(it) => OneCommand {
            run: Some(it.work.run().to_string()),
            session: Some(it.session.0),
            ..kind("grant")
        },
        Duty::Admit(it) => OneCommand {
            name: Some(it.limit.to_string()),
            ..kind("admit")
        },
        Duty::Expire(Expire::Session { session, .. }) => OneCommand {
            session: Some(session.0),
            ..kind("expire")
        },
        Duty::Expire(Expire::Attempt { work, fence }) => {
            ended.remove(fence);
            OneCommand {
                run: Some(work.run().to_string()),
                fence: Some(fence.number()),
                ..kind("expire")
            }
        }
        Duty::Expire(Expire::Drive { run, fence }) => {
            ended.remove(fence);
            OneCommand {
                run: Some(run.to_string()),
                fence: Some(fence.number()),
                ..kind("expire")
            }
        }
        Duty::FireDue { .. } => kind("fire"),
        Duty::Collect(_) => kind("collect"),
        Duty::Repair(run) => OneCommand {
            run: Some(run.to_string()),
            ..kind("repair")
        },
    }
}

/// The result, if it ended the lease that it was under.
fn taken(result: &StepResult, ended: &mut BTreeMap<Fence, Of>) -> Option<TakenResult> {
    let work = ended.remove(&result.fence)?;
    let outcome = match result.outcome {
        AttemptOutcome::Done(_) => "done",
        AttemptOutcome::Retryable { .. } => "retryable",
        AttemptOutcome::Terminal { .. } => "terminal",
        AttemptOutcome::Throttled { .. } => "throttled",
        AttemptOutcome::Panicked(_) => "panicked",
        AttemptOutcome::Stopped => "stopped",
        AttemptOutcome::Absent => "absent",
        AttemptOutcome::Unsure(_) => "unsure",
    };
    let closed = match &result.outcome {
        AttemptOutcome::Throttled { limit, after, .. } => Some((limit.to_string(), after.0)),
        _ => None,
    };
    let (limit, closed_ms) = closed.unzip();
    Some(TakenResult {
        work: as_written(&work),
        fence: result.fence.number(),
        outcome,
        limit,
        closed_ms,
    })
}

fn answer(reply: &Reply) -> &'static str {
    match reply {
        Reply::Void => "void",
        Reply::Moot => "moot",
        Reply::Quarantined => "quarantined",
        Reply::Rejected(rejected) => wire::code(rejected),
        // A worker is told as much by a field of its answer.
        Reply::Reported(Reported::Stale) => wire::code(&Rejected::StaleFence(Fence::default())),
        _ => "ok",
    }
}

/// Which life of its run each command left behind. From the last to the first: only a start that created one began it.
fn generations(
    rows: &dyn ReadRows,
    commands: &[Command],
    applied: &Applied,
    all: &mut [OneCommand],
) -> Result<(), rows::Fault> {
    let mut lives: BTreeMap<&RunId, Option<u32>> = BTreeMap::new();
    for ((command, reply), it) in commands.iter().zip(&applied.replies).zip(all).rev() {
        let Some(run) = run_of(command) else { continue };
        if !lives.contains_key(run) {
            lives.insert(run, life(rows, run)?.map(|it| it.0));
        }
        let life = lives.entry(run).or_default();
        it.generation = *life;
        if let Reply::Started {
            generation,
            created,
            ..
        } = reply
        {
            it.generation = Some(generation.0);
            let before = generation.0.checked_sub(u32::from(*created));
            *life = before.filter(|life| *life > 0);
        }
    }
    Ok(())
}

fn life(rows: &dyn ReadRows, run: &RunId) -> Result<Option<Generation>, rows::Fault> {
    if let Some(run) = rows.run(run)? {
        return Ok(Some(run.generation));
    }
    Ok(rows.finished(run)?.map(|run| run.generation))
}

fn run_of(command: &Command) -> Option<&RunId> {
    match command {
        Command::Ask(ask) => match ask {
            Ask::Start(it) => Some(&it.run),
            Ask::Signal(it) => Some(&it.run),
            Ask::Cancel(it) | Ask::Terminate(it) | Ask::Pause(it) | Ask::Resume(it) => {
                Some(&it.run)
            }
            Ask::Retry(it) => Some(&it.run),
            Ask::Advance(it) => Some(&it.run),
            Ask::Report(it) => Some(&it.run),
            Ask::Progress(it) => Some(&it.run),
            Ask::Attach(_)
            | Ask::Return(_)
            | Ask::Detach(_)
            | Ask::Deploy(_)
            | Ask::SetLimit(_)
            | Ask::Noop(_) => None,
        },
        Command::Duty(duty) => match duty {
            Duty::Grant(it) => Some(it.work.run()),
            Duty::Expire(Expire::Attempt { work, .. }) => Some(work.run()),
            Duty::Expire(Expire::Drive { run, .. }) | Duty::Repair(run) => Some(run),
            Duty::Admit(_)
            | Duty::Expire(Expire::Session { .. })
            | Duty::FireDue { .. }
            | Duty::Collect(_) => None,
        },
    }
}

/// Whether it can have let this step pass its limits: as a waiter, or as one of its own run.
fn may_admit(command: &Command, run: &RunId, intent: IntentNo) -> bool {
    match command {
        Command::Duty(Duty::Admit(it)) => {
            let named = |work: &Of| matches!(work, Of::Step(of, no) if of == run && *no == intent);
            it.waiters.is_empty() || it.waiters.iter().any(named)
        }
        Command::Duty(Duty::FireDue { .. }) => true,
        _ => run_of(command) == Some(run),
    }
}

fn events(entry: &Entry, applied: &Applied) -> Vec<Event> {
    let attempts = attempts(applied);
    let processes = processes(entry, applied);
    let event = |effect: &Effect| match effect {
        Effect::LeaseBegan {
            work,
            session,
            fence,
            ..
        } => Some(Event::LeaseBegan {
            work: as_written(work),
            session: session.0,
            fence: fence.number(),
            attempt: attempts.get(fence).copied(),
        }),
        Effect::LeaseEnded {
            work,
            session,
            fence,
        } => Some(Event::LeaseEnded {
            work: as_written(work),
            session: session.0,
            fence: fence.number(),
        }),
        Effect::RunChanged { run, status, .. } => {
            let name = wire::status_to(*status).as_str_name();
            let status = name.strip_prefix("RUN_STATUS_").unwrap_or(name).to_owned();
            let run = run.to_string();
            Some(Event::Run { run, status })
        }
        Effect::SessionAttached { session, .. } => Some(Event::SessionAttached {
            session: session.0,
            process: processes.get(&session.0).cloned().unwrap_or_default(),
        }),
        Effect::SessionEnded(session) => Some(Event::SessionEnded { session: session.0 }),
        _ => None,
    };
    applied.effects.iter().filter_map(event).collect()
}

/// Which attempt each lease of a step or an undo is.
fn attempts(applied: &Applied) -> BTreeMap<Fence, u32> {
    let by_duty = applied.effects.iter().map(|effect| match effect {
        Effect::Granted { grants, .. } => grants.as_slice(),
        _ => &[],
    });
    let by_reply = applied.replies.iter().map(|reply| match reply {
        Reply::Advanced(it) => it.grants.as_slice(),
        _ => &[],
    });
    let grants = by_duty.chain(by_reply).flatten();
    grants.map(|it| (it.fence, it.attempt)).collect()
}

/// The worker's process of each session that attached.
fn processes(entry: &Entry, applied: &Applied) -> BTreeMap<u64, String> {
    let Body::Batch { commands, .. } = &entry.body else {
        return BTreeMap::new();
    };
    let attached = commands.iter().zip(&applied.replies);
    attached
        .filter_map(|(command, reply)| match (command, reply) {
            (Command::Ask(Ask::Attach(it)), Reply::Attached { session, .. }) => {
                Some((session.0, it.process.to_string()))
            }
            _ => None,
        })
        .collect()
}

fn as_written(work: &Of) -> Work {
    let run = work.run().to_string();
    match work {
        Of::Run(_) => Work::Drive { run },
        Of::Step(_, intent) => Work::Step {
            run,
            entry: intent.0,
        },
        Of::Undo(_, intent) => Work::Undo {
            run,
            entry: intent.0,
        },
    }
}
