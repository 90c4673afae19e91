//! Log entries: the core's `Entry` and its bytes.
//!
//! Invariant: the same entry gives the same bytes on every node; any bytes give an entry or an `Undecodable`, never a
//! panic. An unknown command is undecodable: skipping it would make replicas differ.

use bytes::Bytes;
use prost::Message;

use holdfast_scheduler::{
    entry::{
        Admit, Advance, Ask, Attach, AttemptOutcome, BecomeLeader, Body, Certainty, Change,
        Command, Deploy, Duty, Entry, Expire, GiveUp, Grant, IfEnded, Intent, IntentKind,
        LimitSpec, Progress, Report, Retry, RetryPolicy, Return, SetLimit, Signal, Start,
        StepResult, StepSpec, TimerSpec, Trouble, Work,
    },
    ids::{
        AdvanceNo, DeliveryNo, Digest, Epoch, FeatureLevel, Fence, IntentNo, LimitName, Name,
        NodeId, ProcessId, RequestId, RunId, SessionId, StepKey, Version,
    },
    time::{Millis, Timestamp},
};

use super::{Undecodable, required};
use crate::stored as s;

/// The bytes of an entry.
pub fn encode(entry: &Entry) -> Bytes {
    let body = match &entry.body {
        Body::BecomeLeader(it) => s::entry::Body::BecomeLeader(s::BecomeLeader {
            node: it.node.0,
            incarnation: it.incarnation.to_string(),
            boot: it.boot.to_string(),
            level_min: it.levels.0.0,
            level_max: it.levels.1.0,
            anchor_ms: it.anchor.0,
        }),
        Body::Batch {
            epoch,
            proposed_at,
            commands,
        } => s::entry::Body::Batch(s::Batch {
            epoch: epoch.0,
            proposed_at_ms: proposed_at.0,
            commands: commands.iter().map(command_to).collect(),
        }),
    };
    s::Entry {
        level: entry.level.0,
        body: Some(body),
    }
    .encode_to_vec()
    .into()
}

/// The bytes of a batch.
pub fn encode_batch<'a>(
    level: FeatureLevel,
    epoch: Epoch,
    proposed_at: Timestamp,
    commands: impl IntoIterator<Item = &'a Command>,
) -> Bytes {
    let batch = s::Batch {
        epoch: epoch.0,
        proposed_at_ms: proposed_at.0,
        commands: commands.into_iter().map(command_to).collect(),
    };
    s::Entry {
        level: level.0,
        body: Some(s::entry::Body::Batch(batch)),
    }
    .encode_to_vec()
    .into()
}

/// How many bytes a command adds to an entry.
pub fn command_bytes(command: &Command) -> usize {
    command_to(command).encoded_len() + 8
}

/// The entry in these bytes.
///
/// # Errors
/// `Undecodable`: they are no entry, or one of a newer release; this replica must stop.
pub fn decode(bytes: Bytes) -> Result<Entry, Undecodable> {
    let entry = s::Entry::decode(bytes)
        .map_err(|cause| Undecodable::new("log entry", cause.to_string()))?;
    let body = match required(entry.body, "log entry body")? {
        s::entry::Body::BecomeLeader(it) => Body::BecomeLeader(BecomeLeader {
            node: NodeId(it.node),
            incarnation: Name::from_stored(&it.incarnation),
            boot: Name::from_stored(&it.boot),
            levels: (FeatureLevel(it.level_min), FeatureLevel(it.level_max)),
            anchor: Timestamp(it.anchor_ms),
        }),
        s::entry::Body::Batch(it) => Body::Batch {
            epoch: Epoch(it.epoch),
            proposed_at: Timestamp(it.proposed_at_ms),
            commands: it
                .commands
                .into_iter()
                .map(command_from)
                .collect::<Result<_, _>>()?,
        },
    };
    Ok(Entry {
        level: FeatureLevel(entry.level),
        body,
    })
}

fn command_to(command: &Command) -> s::Command {
    use s::command::Kind;
    let kind = match command {
        Command::Ask(ask) => ask_to(ask),
        Command::Duty(Duty::Grant(it)) => Kind::Grant(s::Grant {
            work: Some(work_to(&it.work)),
            session: it.session.0,
            free_slots: it.free_slots,
        }),
        Command::Duty(Duty::Admit(it)) => Kind::Admit(s::Admit {
            limit: it.limit.to_string(),
            waiters: it.waiters.iter().map(work_to).collect(),
        }),
        Command::Duty(Duty::Expire(it)) => expire_to(it),
        Command::Duty(Duty::FireDue { up_to, at_most }) => Kind::FireDue(s::FireDue {
            up_to_ms: up_to.0,
            at_most: *at_most,
        }),
        Command::Duty(Duty::Repair(run)) => Kind::Repair(run.to_string()),
    };
    s::Command { kind: Some(kind) }
}

fn expire_to(it: &Expire) -> s::command::Kind {
    use s::command::Kind;
    match it {
        Expire::Session { session, at_most } => Kind::ExpireSession(s::ExpireSession {
            session: session.0,
            at_most: *at_most,
        }),
        Expire::Attempt { work, fence } => Kind::ExpireAttempt(s::ExpireAttempt {
            work: Some(work_to(work)),
            fence: fence.number(),
        }),
        Expire::Drive { run, fence } => Kind::ExpireDrive(s::ExpireDrive {
            run: run.to_string(),
            fence: fence.number(),
        }),
    }
}

fn ask_to(ask: &Ask) -> s::command::Kind {
    use s::command::Kind;
    match ask {
        Ask::Start(it) => Kind::Start(start_to(it)),
        Ask::Signal(it) => Kind::Signal(s::Signal {
            run: it.run.to_string(),
            name: it.name.to_string(),
            id: it.id.to_string(),
            payload: it.payload.clone(),
        }),
        Ask::Cancel(it) => Kind::Cancel(change_to(it)),
        Ask::Terminate(it) => Kind::Terminate(change_to(it)),
        Ask::Pause(it) => Kind::Pause(change_to(it)),
        Ask::Resume(it) => Kind::Resume(change_to(it)),
        Ask::Retry(it) => Kind::Retry(s::Retry {
            run: it.run.to_string(),
            step: it.step.as_ref().map(Name::to_string),
            request: it.request.to_string(),
        }),
        Ask::Attach(it) => Kind::Attach(attach_to(it)),
        Ask::Advance(it) => Kind::Advance(advance_to(it)),
        Ask::Report(it) => Kind::Report(s::Report {
            run: it.run.to_string(),
            result: Some(result_to(&it.result)),
        }),
        Ask::Progress(it) => Kind::Progress(s::Progress {
            run: it.run.to_string(),
            intent: it.intent.0,
            fence: it.fence.number(),
            progress: it.progress.clone(),
        }),
        Ask::Return(it) => Kind::Return(return_to(it)),
        Ask::Detach(session) => Kind::Detach(session.0),
        Ask::Deploy(it) => Kind::Deploy(s::Deploy {
            workflow: it.workflow.to_string(),
            version: it.version.0,
            request: it.request.to_string(),
        }),
        Ask::SetLimit(it) => Kind::SetLimit(s::SetLimit {
            name: it.name.to_string(),
            spec: Some(limit_spec_to(&it.spec)),
            request: it.request.to_string(),
        }),
        Ask::Noop(bytes) => Kind::Noop(bytes.clone()),
    }
}

#[expect(clippy::too_many_lines, reason = "one line per command")]
fn command_from(command: s::Command) -> Result<Command, Undecodable> {
    use s::command::Kind;
    let kind = command.kind.ok_or_else(|| {
        Undecodable::new("command", "its kind is unknown; a newer release wrote it")
    })?;
    let ask = |ask| Ok(Command::Ask(ask));
    let duty = |duty| Ok(Command::Duty(duty));
    match kind {
        Kind::Start(it) => ask(Ask::Start(start_from(it)?)),
        Kind::Signal(it) => ask(Ask::Signal(Signal {
            run: RunId::from_stored(&it.run),
            name: Name::from_stored(&it.name),
            id: RequestId::from_stored(&it.id),
            payload: it.payload,
        })),
        Kind::Cancel(it) => ask(Ask::Cancel(change_from(it))),
        Kind::Terminate(it) => ask(Ask::Terminate(change_from(it))),
        Kind::Pause(it) => ask(Ask::Pause(change_from(it))),
        Kind::Resume(it) => ask(Ask::Resume(change_from(it))),
        Kind::Retry(it) => ask(Ask::Retry(Retry {
            run: RunId::from_stored(&it.run),
            step: it.step.as_deref().map(Name::from_stored),
            request: RequestId::from_stored(&it.request),
        })),
        Kind::Attach(it) => ask(Ask::Attach(attach_from(it)?)),
        Kind::Advance(it) => ask(Ask::Advance(advance_from(it)?)),
        Kind::Report(it) => ask(Ask::Report(Report {
            run: RunId::from_stored(&it.run),
            result: result_from(required(it.result, "report")?)?,
        })),
        Kind::Progress(it) => ask(Ask::Progress(Progress {
            run: RunId::from_stored(&it.run),
            intent: IntentNo(it.intent),
            fence: Fence::from_wire(it.fence),
            progress: it.progress,
        })),
        Kind::Return(it) => ask(Ask::Return(return_from(it))),
        Kind::Detach(session) => ask(Ask::Detach(SessionId(session))),
        Kind::Deploy(it) => ask(Ask::Deploy(Deploy {
            workflow: Name::from_stored(&it.workflow),
            version: Version(it.version),
            request: RequestId::from_stored(&it.request),
        })),
        Kind::SetLimit(it) => ask(Ask::SetLimit(SetLimit {
            name: LimitName::from_stored(&it.name),
            spec: limit_spec_from(&required(it.spec, "limit")?),
            request: RequestId::from_stored(&it.request),
        })),
        Kind::Noop(bytes) => ask(Ask::Noop(bytes)),
        Kind::Grant(it) => duty(Duty::Grant(Grant {
            work: work_from(&required(it.work, "grant")?)?,
            session: SessionId(it.session),
            free_slots: it.free_slots,
        })),
        Kind::Admit(it) => duty(Duty::Admit(Admit {
            limit: LimitName::from_stored(&it.limit),
            waiters: it.waiters.iter().map(work_from).collect::<Result<_, _>>()?,
        })),
        Kind::ExpireSession(it) => duty(Duty::Expire(Expire::Session {
            session: SessionId(it.session),
            at_most: it.at_most,
        })),
        Kind::ExpireAttempt(it) => duty(Duty::Expire(Expire::Attempt {
            work: work_from(&required(it.work, "expire")?)?,
            fence: Fence::from_wire(it.fence),
        })),
        Kind::ExpireDrive(it) => duty(Duty::Expire(Expire::Drive {
            run: RunId::from_stored(&it.run),
            fence: Fence::from_wire(it.fence),
        })),
        Kind::FireDue(it) => duty(Duty::FireDue {
            up_to: Timestamp(it.up_to_ms),
            at_most: it.at_most,
        }),
        Kind::Repair(run) => duty(Duty::Repair(RunId::from_stored(&run))),
    }
}

fn start_to(it: &Start) -> s::Start {
    s::Start {
        run: it.run.to_string(),
        workflow: it.workflow.to_string(),
        input: it.input.clone(),
        digest: it.digest.0,
        at_ms: it.at.map(|at| at.0),
        timeout_ms: it.timeout.map(|timeout| timeout.0),
        if_ended: match it.if_ended {
            IfEnded::ReturnResult => 1,
            IfEnded::Reject => 2,
            IfEnded::NewGeneration => 3,
        },
        signal: it
            .signal
            .as_ref()
            .map(|(name, id, payload)| s::StartSignal {
                name: name.to_string(),
                id: id.to_string(),
                payload: payload.clone(),
            }),
    }
}

fn start_from(it: s::Start) -> Result<Start, Undecodable> {
    Ok(Start {
        run: RunId::from_stored(&it.run),
        workflow: Name::from_stored(&it.workflow),
        input: it.input,
        digest: Digest(it.digest),
        at: it.at_ms.map(Timestamp),
        timeout: it.timeout_ms.map(Millis),
        if_ended: match it.if_ended {
            1 => IfEnded::ReturnResult,
            2 => IfEnded::Reject,
            3 => IfEnded::NewGeneration,
            other => return Err(Undecodable::new("start", format!("if_ended is {other}"))),
        },
        signal: it.signal.map(|signal| {
            let (name, id) = (
                Name::from_stored(&signal.name),
                RequestId::from_stored(&signal.id),
            );
            (name, id, signal.payload)
        }),
    })
}

fn change_to(it: &Change) -> s::Change {
    s::Change {
        run: it.run.to_string(),
        reason: it.reason.clone(),
        request: it.request.to_string(),
    }
}

fn change_from(it: s::Change) -> Change {
    Change {
        run: RunId::from_stored(&it.run),
        reason: it.reason,
        request: RequestId::from_stored(&it.request),
    }
}

pub(super) fn registered_to((name, version): &(Name, Version)) -> s::Registered {
    s::Registered {
        name: name.to_string(),
        version: version.0,
    }
}

pub(super) fn registered_from(it: &s::Registered) -> (Name, Version) {
    (Name::from_stored(&it.name), Version(it.version))
}

fn attach_to(it: &Attach) -> s::Attach {
    s::Attach {
        session: it.session.map(|session| session.0),
        process: it.process.to_string(),
        worker: it.worker.to_string(),
        queue: it.queue.to_string(),
        workflows: it.workflows.iter().map(registered_to).collect(),
        steps: it.steps.iter().map(Name::to_string).collect(),
        limits: it
            .limits
            .iter()
            .map(|(name, spec)| s::DeclaredLimit {
                name: name.to_string(),
                spec: Some(limit_spec_to(spec)),
            })
            .collect(),
        slots: it.slots,
    }
}

fn attach_from(it: s::Attach) -> Result<Attach, Undecodable> {
    let mut limits = Vec::with_capacity(it.limits.len());
    for limit in it.limits {
        let spec = limit_spec_from(&required(limit.spec, "declared limit")?);
        limits.push((LimitName::from_stored(&limit.name), spec));
    }
    Ok(Attach {
        session: it.session.map(SessionId),
        process: ProcessId::from_stored(&it.process),
        worker: Name::from_stored(&it.worker),
        queue: Name::from_stored(&it.queue),
        workflows: it.workflows.iter().map(registered_from).collect(),
        steps: it
            .steps
            .iter()
            .map(|step| Name::from_stored(step))
            .collect(),
        limits,
        slots: it.slots,
    })
}

pub(super) fn limit_spec_to(it: &LimitSpec) -> s::LimitSpec {
    s::LimitSpec {
        rate_count: it.rate.map(|(count, _)| count),
        rate_per_ms: it.rate.map_or(0, |(_, per)| per.0),
        burst: it.burst,
        concurrency: it.concurrency,
    }
}

pub(super) fn limit_spec_from(it: &s::LimitSpec) -> LimitSpec {
    LimitSpec {
        rate: it.rate_count.map(|count| (count, Millis(it.rate_per_ms))),
        burst: it.burst,
        concurrency: it.concurrency,
    }
}

fn advance_to(it: &Advance) -> s::Advance {
    let (diverged, panicked) = match &it.trouble {
        None => (None, None),
        Some(Trouble::Panicked(text)) => (None, Some(text.clone())),
        Some(Trouble::Diverged { key, expected, got }) => {
            let diverged = s::Diverged {
                key: Some(step_key_to(key)),
                expected: expected.clone(),
                got: got.clone(),
            };
            (Some(diverged), None)
        }
    };
    s::Advance {
        run: it.run.to_string(),
        fence: it.fence.number(),
        number: it.number.0,
        seen: it.seen.0,
        results: it.results.iter().map(result_to).collect(),
        intents: it.intents.iter().map(intent_to).collect(),
        free_slots: it.free_slots,
        diverged,
        panicked,
    }
}

fn advance_from(it: s::Advance) -> Result<Advance, Undecodable> {
    let trouble = match (it.diverged, it.panicked) {
        (Some(diverged), _) => Some(Trouble::Diverged {
            key: step_key_from(&required(diverged.key, "divergence")?),
            expected: diverged.expected,
            got: diverged.got,
        }),
        (None, Some(text)) => Some(Trouble::Panicked(text)),
        (None, None) => None,
    };
    Ok(Advance {
        run: RunId::from_stored(&it.run),
        fence: Fence::from_wire(it.fence),
        number: AdvanceNo(it.number),
        seen: DeliveryNo(it.seen),
        results: it
            .results
            .into_iter()
            .map(result_from)
            .collect::<Result<_, _>>()?,
        intents: it
            .intents
            .into_iter()
            .map(intent_from)
            .collect::<Result<_, _>>()?,
        free_slots: it.free_slots,
        trouble,
    })
}

pub(super) fn step_key_to(it: &StepKey) -> s::StepKey {
    s::StepKey {
        scope: it.scope.to_string(),
        name: it.name.to_string(),
        occurrence: it.occurrence,
    }
}

pub(super) fn step_key_from(it: &s::StepKey) -> StepKey {
    StepKey {
        scope: it.scope.as_str().into(),
        name: it.name.as_str().into(),
        occurrence: it.occurrence,
    }
}

fn result_to(it: &StepResult) -> s::StepResult {
    s::StepResult {
        intent: it.intent.0,
        fence: it.fence.number(),
        outcome: Some(outcome_to(&it.outcome)),
    }
}

fn result_from(it: s::StepResult) -> Result<StepResult, Undecodable> {
    Ok(StepResult {
        intent: IntentNo(it.intent),
        fence: Fence::from_wire(it.fence),
        outcome: outcome_from(required(it.outcome, "step result")?)?,
    })
}

fn outcome_to(it: &AttemptOutcome) -> s::AttemptOutcome {
    use s::attempt_outcome::Kind;
    let kind = match it {
        AttemptOutcome::Done(output) => Kind::Done(output.clone()),
        AttemptOutcome::Retryable { message, after } => Kind::Retryable(s::Retryable {
            message: message.clone(),
            after_ms: after.map(|after| after.0),
        }),
        AttemptOutcome::Terminal { code, message } => Kind::Terminal(s::Failure {
            code: code.clone(),
            message: message.clone(),
        }),
        AttemptOutcome::Throttled {
            limit,
            after,
            message,
        } => Kind::Throttled(s::Throttled {
            limit: limit.to_string(),
            after_ms: after.0,
            message: message.clone(),
        }),
        AttemptOutcome::Panicked(text) => Kind::Panicked(text.clone()),
        AttemptOutcome::Stopped => Kind::Stopped(s::Nothing {}),
        AttemptOutcome::Absent => Kind::Absent(s::Nothing {}),
        AttemptOutcome::Unsure(why) => Kind::Unsure(why.clone()),
    };
    s::AttemptOutcome { kind: Some(kind) }
}

fn outcome_from(it: s::AttemptOutcome) -> Result<AttemptOutcome, Undecodable> {
    use s::attempt_outcome::Kind;
    Ok(match required(it.kind, "attempt outcome")? {
        Kind::Done(output) => AttemptOutcome::Done(output),
        Kind::Retryable(it) => AttemptOutcome::Retryable {
            message: it.message,
            after: it.after_ms.map(Millis),
        },
        Kind::Terminal(it) => AttemptOutcome::Terminal {
            code: it.code,
            message: it.message,
        },
        Kind::Throttled(it) => AttemptOutcome::Throttled {
            limit: LimitName::from_stored(&it.limit),
            after: Millis(it.after_ms),
            message: it.message,
        },
        Kind::Panicked(text) => AttemptOutcome::Panicked(text),
        Kind::Stopped(_) => AttemptOutcome::Stopped,
        Kind::Absent(_) => AttemptOutcome::Absent,
        Kind::Unsure(why) => AttemptOutcome::Unsure(why),
    })
}

pub(super) fn intent_to(it: &Intent) -> s::Intent {
    use s::intent::Kind;
    let kind = match &it.kind {
        IntentKind::Step(spec) => Kind::Step(spec_to(spec)),
        IntentKind::Timer(TimerSpec::After(span)) => Kind::TimerAfterMs(span.0),
        IntentKind::Timer(TimerSpec::At(at)) => Kind::TimerAtMs(at.0),
        IntentKind::Wait {
            signal,
            timeout,
            ask,
        } => Kind::Wait(s::Wait {
            signal: signal.to_string(),
            timeout_ms: timeout.map(|timeout| timeout.0),
            ask: ask.clone(),
        }),
        IntentKind::Record(value) => Kind::Record(value.clone()),
        IntentKind::Publish { view, value } => Kind::Publish(s::Publish {
            view: view.to_string(),
            value: value.clone(),
        }),
        IntentKind::Complete(output) => Kind::Complete(output.clone()),
        IntentKind::Fail { code, message } => Kind::Fail(s::Failure {
            code: code.clone(),
            message: message.clone(),
        }),
    };
    s::Intent {
        number: it.number.0,
        key: Some(step_key_to(&it.key)),
        digest: it.digest.0,
        kind: Some(kind),
    }
}

pub(super) fn intent_from(it: s::Intent) -> Result<Intent, Undecodable> {
    use s::intent::Kind;
    let kind = match required(it.kind, "intent")? {
        Kind::Step(spec) => IntentKind::Step(spec_from(spec)?),
        Kind::TimerAfterMs(span) => IntentKind::Timer(TimerSpec::After(Millis(span))),
        Kind::TimerAtMs(at) => IntentKind::Timer(TimerSpec::At(Timestamp(at))),
        Kind::Wait(it) => IntentKind::Wait {
            signal: Name::from_stored(&it.signal),
            timeout: it.timeout_ms.map(Millis),
            ask: it.ask,
        },
        Kind::Record(value) => IntentKind::Record(value),
        Kind::Publish(it) => IntentKind::Publish {
            view: Name::from_stored(&it.view),
            value: it.value,
        },
        Kind::Complete(output) => IntentKind::Complete(output),
        Kind::Fail(it) => IntentKind::Fail {
            code: it.code,
            message: it.message,
        },
    };
    Ok(Intent {
        number: IntentNo(it.number),
        key: step_key_from(&required(it.key, "intent key")?),
        digest: Digest(it.digest),
        kind,
    })
}

fn spec_to(it: &StepSpec) -> s::StepSpec {
    s::StepSpec {
        step: it.step.to_string(),
        queue: it.queue.as_ref().map(Name::to_string),
        input: it.input.clone(),
        retry: Some(retry_to(&it.retry)),
        timeout_ms: it.timeout.map(|timeout| timeout.0),
        heartbeat_ms: it.heartbeat.map(|heartbeat| heartbeat.0),
        limits: it.limits.iter().map(LimitName::to_string).collect(),
        certainty: Some(certainty_to(&it.certainty)),
        undo: it.undo.as_ref().map(Name::to_string),
        inline: it.inline,
    }
}

fn spec_from(it: s::StepSpec) -> Result<StepSpec, Undecodable> {
    Ok(StepSpec {
        step: Name::from_stored(&it.step),
        queue: it.queue.as_deref().map(Name::from_stored),
        input: it.input,
        retry: retry_from(&required(it.retry, "retry policy")?)?,
        timeout: it.timeout_ms.map(Millis),
        heartbeat: it.heartbeat_ms.map(Millis),
        limits: it
            .limits
            .iter()
            .map(|limit| LimitName::from_stored(limit))
            .collect(),
        certainty: certainty_from(&required(it.certainty, "certainty")?)?,
        undo: it.undo.as_deref().map(Name::from_stored),
        inline: it.inline,
    })
}

pub(super) fn certainty_to(it: &Certainty) -> s::Certainty {
    match it {
        Certainty::AtLeastOnce => s::Certainty {
            mode: 1,
            probe: String::new(),
        },
        Certainty::AtMostOnce => s::Certainty {
            mode: 2,
            probe: String::new(),
        },
        Certainty::Reconcile(probe) => s::Certainty {
            mode: 3,
            probe: probe.to_string(),
        },
    }
}

pub(super) fn certainty_from(it: &s::Certainty) -> Result<Certainty, Undecodable> {
    match it.mode {
        1 => Ok(Certainty::AtLeastOnce),
        2 => Ok(Certainty::AtMostOnce),
        3 => Ok(Certainty::Reconcile(Name::from_stored(&it.probe))),
        other => Err(Undecodable::new("certainty", format!("mode {other}"))),
    }
}

pub(super) fn retry_to(it: &RetryPolicy) -> s::RetryPolicy {
    s::RetryPolicy {
        initial_ms: it.initial.0,
        factor_percent: it.factor_percent,
        cap_ms: it.cap.0,
        max_attempts: it.max_attempts,
        give_up_after_ms: it.give_up_after.0,
        give_up: match it.give_up {
            GiveUp::Pause => 1,
            GiveUp::Fail => 2,
            GiveUp::Compensate => 3,
        },
    }
}

pub(super) fn retry_from(it: &s::RetryPolicy) -> Result<RetryPolicy, Undecodable> {
    Ok(RetryPolicy {
        initial: Millis(it.initial_ms),
        factor_percent: it.factor_percent,
        cap: Millis(it.cap_ms),
        max_attempts: it.max_attempts,
        give_up_after: Millis(it.give_up_after_ms),
        give_up: match it.give_up {
            1 => GiveUp::Pause,
            2 => GiveUp::Fail,
            3 => GiveUp::Compensate,
            other => return Err(Undecodable::new("retry policy", format!("give_up {other}"))),
        },
    })
}

fn return_to(it: &Return) -> s::Return {
    let run = |(run, fence): &(RunId, Fence)| s::HeldRun {
        run: run.to_string(),
        fence: fence.number(),
    };
    let step = |(run, intent, fence): &(RunId, IntentNo, Fence)| s::HeldStep {
        run: run.to_string(),
        intent: intent.0,
        fence: fence.number(),
    };
    s::Return {
        runs: it.runs.iter().map(run).collect(),
        steps: it.steps.iter().map(step).collect(),
    }
}

fn return_from(it: s::Return) -> Return {
    let run = |it: &s::HeldRun| (RunId::from_stored(&it.run), Fence::from_wire(it.fence));
    let step = |it: &s::HeldStep| {
        (
            RunId::from_stored(&it.run),
            IntentNo(it.intent),
            Fence::from_wire(it.fence),
        )
    };
    Return {
        runs: it.runs.iter().map(run).collect(),
        steps: it.steps.iter().map(step).collect(),
    }
}

fn work_to(it: &Work) -> s::Work {
    let (kind, intent) = match it {
        Work::Run(_) => (1, 0),
        Work::Step(_, intent) => (2, intent.0),
        Work::Undo(_, intent) => (3, intent.0),
    };
    s::Work {
        run: it.run().to_string(),
        kind,
        intent,
    }
}

fn work_from(it: &s::Work) -> Result<Work, Undecodable> {
    let (run, intent) = (RunId::from_stored(&it.run), IntentNo(it.intent));
    match it.kind {
        1 => Ok(Work::Run(run)),
        2 => Ok(Work::Step(run, intent)),
        3 => Ok(Work::Undo(run, intent)),
        other => Err(Undecodable::new("work", format!("kind {other}"))),
    }
}
