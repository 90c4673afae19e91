//! The public wire: messages of holdfast.v1 and the core's types. Checks every field; no rules of its own.

use bytes::Bytes;
use twox_hash::XxHash3_64;

use holdfast_scheduler::{
    bounds,
    entry::{
        Advance, Attach, AttemptOutcome, Certainty, Change, Deploy, GiveUp, IfEnded, Intent,
        IntentKind, LimitSpec, Progress, Report, Retry, RetryPolicy, Return, SetLimit, Signal,
        Start, StepResult, StepSpec, TimerSpec, Trouble,
    },
    ids::{
        AdvanceNo, BadName, DeliveryNo, Digest, Fence, Generation, IntentNo, LimitName, Name,
        ProcessId, RequestId, RunId, SessionId, StepKey, Version,
    },
    reply::{AdvanceOutcome, JournalRow, Outcome, Rejected, Reported, Status, StepGrant},
    time::{Millis, Timestamp},
};

use crate::v1;

/// Why a request is refused before anything is proposed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// A field is malformed (HF3002): the text names it, what was found and what is expected.
    #[error("{field}: {why}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A payload is above its bound (HF3001).
    #[error(
        "{field} has {size} bytes, at most {max} are allowed; store it elsewhere and pass a reference"
    )]
    TooLarge {
        /// The field.
        field: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The most that is allowed.
        max: usize,
    },
}

type Checked<T> = Result<T, BadRequest>;

fn invalid(field: &'static str, why: impl ToString) -> BadRequest {
    BadRequest::Invalid {
        field,
        why: why.to_string(),
    }
}

fn named<T>(field: &'static str, name: Result<T, BadName>) -> Checked<T> {
    name.map_err(|bad| invalid(field, bad))
}

fn payload(field: &'static str, bytes: Bytes) -> Checked<Bytes> {
    let (size, max) = (bytes.len(), bounds::INLINE_PAYLOAD_BYTES_MAX);
    if size > max {
        Err(BadRequest::TooLarge { field, size, max })
    } else {
        Ok(bytes)
    }
}

fn present<T>(field: &'static str, value: Option<T>) -> Checked<T> {
    value.ok_or_else(|| invalid(field, "it must be given"))
}

fn span(ms: u64) -> Option<Millis> {
    (ms != 0).then_some(Millis(ms))
}

fn request_id(text: &str) -> Checked<RequestId> {
    named("request_id", RequestId::new(text))
}

/// A run id from a caller: `~` marks children and is refused at start, but names runs elsewhere.
///
/// # Errors
/// `Invalid`: empty, too long, or with a character that is not allowed.
pub fn run_id(text: &str) -> Checked<RunId> {
    named("run_id", RunId::new(text))
}

/// A name.
///
/// # Errors
/// `Invalid`: as `run_id`.
pub fn name(field: &'static str, text: &str) -> Checked<Name> {
    named(field, Name::new(text))
}

/// # Errors
/// `BadRequest`: the text says which field and what to do.
pub fn start(it: v1::StartRequest) -> Checked<Start> {
    if it.run_id.contains('~') {
        return Err(invalid(
            "run_id",
            "`~` is reserved for the children of a run",
        ));
    }
    let input = payload("input", it.input)?;
    let digest = if it.digest == 0 {
        XxHash3_64::oneshot(&input)
    } else {
        it.digest
    };
    let if_ended = match v1::IfEnded::try_from(it.if_ended) {
        Ok(v1::IfEnded::Unspecified | v1::IfEnded::ReturnResult) => IfEnded::ReturnResult,
        Ok(v1::IfEnded::Reject) => IfEnded::Reject,
        Ok(v1::IfEnded::NewGeneration) => IfEnded::NewGeneration,
        Err(_) => return Err(invalid("if_ended", format!("{} is unknown", it.if_ended))),
    };
    if it.wait_ms > 0 && if_ended != IfEnded::ReturnResult {
        return Err(invalid(
            "wait_ms",
            "only a start that returns the result of an ended run can wait; start it, and ask for its result",
        ));
    }
    let signal = it.signal.map(|signal| -> Checked<_> {
        let id = named("signal.signal_id", RequestId::new(&signal.signal_id))?;
        Ok((
            name("signal.name", &signal.name)?,
            id,
            payload("signal.payload", signal.payload)?,
        ))
    });
    Ok(Start {
        run: run_id(&it.run_id)?,
        workflow: name("workflow", &it.workflow)?,
        input,
        digest: Digest(digest),
        at: (it.at_unix_ms != 0).then_some(Timestamp(it.at_unix_ms)),
        timeout: span(it.timeout_ms),
        if_ended,
        signal: signal.transpose()?,
    })
}

/// # Errors
/// `BadRequest`: the text says which field and what to do.
pub fn signal(it: v1::SignalRequest) -> Checked<Signal> {
    Ok(Signal {
        run: run_id(&it.run_id)?,
        name: name("name", &it.name)?,
        id: named("signal_id", RequestId::new(&it.signal_id))?,
        payload: payload("payload", it.payload)?,
    })
}

/// # Errors
/// `BadRequest`: the text says which field and what to do.
pub fn change(it: v1::ChangeRequest) -> Checked<Change> {
    if it.reason.len() > bounds::ERROR_TEXT_BYTES_MAX {
        let max = bounds::ERROR_TEXT_BYTES_MAX;
        return Err(BadRequest::TooLarge {
            field: "reason",
            size: it.reason.len(),
            max,
        });
    }
    let run = run_id(&it.run_id)?;
    Ok(Change {
        run,
        reason: it.reason,
        request: request_id(&it.request_id)?,
    })
}

/// # Errors
/// `BadRequest`: the text says which field and what to do.
pub fn retry(it: v1::RetryRequest) -> Checked<Retry> {
    let step = (!it.step.is_empty())
        .then(|| name("step", &it.step))
        .transpose()?;
    Ok(Retry {
        run: run_id(&it.run_id)?,
        step,
        request: request_id(&it.request_id)?,
    })
}

/// # Errors
/// `BadRequest`: the text says which field and what to do.
pub fn deploy(it: v1::SetCurrentRequest) -> Checked<Deploy> {
    Ok(Deploy {
        workflow: name("name", &it.name)?,
        version: version(it.version)?,
        request: request_id(&it.request_id)?,
    })
}

/// # Errors
/// `BadRequest`: the text says which field and what to do.
pub fn set_limit(it: v1::SetLimitRequest) -> Checked<SetLimit> {
    Ok(SetLimit {
        name: limit_name("name", &it.name)?,
        spec: limit_spec(&present("spec", it.spec)?)?,
        request: request_id(&it.request_id)?,
    })
}

fn version(number: u32) -> Checked<Version> {
    if number == 0 {
        Err(invalid("version", "versions begin with 1"))
    } else {
        Ok(Version(number))
    }
}

fn limit_name(field: &'static str, text: &str) -> Checked<LimitName> {
    named(field, LimitName::new(text))
}

fn limit_spec(it: &v1::LimitSpec) -> Checked<LimitSpec> {
    if it.rate_count != 0 && it.rate_per_ms == 0 {
        return Err(invalid(
            "spec.rate_per_ms",
            "a rate needs the span that it counts in",
        ));
    }
    let rate = (it.rate_count != 0).then_some((it.rate_count, Millis(it.rate_per_ms)));
    let concurrency = (it.concurrency != 0).then_some(it.concurrency);
    Ok(LimitSpec {
        rate,
        burst: it.burst.max(1),
        concurrency,
    })
}

/// A limit's form on the wire.
pub fn limit_spec_to(it: &LimitSpec) -> v1::LimitSpec {
    v1::LimitSpec {
        rate_count: it.rate.map_or(0, |(count, _)| count),
        rate_per_ms: it.rate.map_or(0, |(_, per)| per.0),
        burst: it.burst,
        concurrency: it.concurrency.unwrap_or_default(),
    }
}

/// # Errors
/// `BadRequest`: the text says which field and what to do.
pub fn attach(it: &v1::Hello) -> Checked<Attach> {
    let mut workflows = Vec::with_capacity(it.workflows.len());
    for workflow in &it.workflows {
        workflows.push((
            name("workflows.name", &workflow.name)?,
            version(workflow.version)?,
        ));
    }
    let mut limits = Vec::with_capacity(it.limits.len());
    for limit in &it.limits {
        let spec = limit
            .spec
            .ok_or_else(|| invalid("limits.spec", "it must be given"))?;
        limits.push((limit_name("limits.name", &limit.name)?, limit_spec(&spec)?));
    }
    let steps = it
        .steps
        .iter()
        .map(|step| name("steps", step))
        .collect::<Checked<_>>()?;
    Ok(Attach {
        session: (it.session != 0).then_some(SessionId(it.session)),
        process: named("process", ProcessId::new(&it.process))?,
        worker: name("name", &it.name)?,
        queue: name("queue", &it.queue)?,
        workflows,
        steps,
        limits,
        slots: it.slots,
    })
}

/// # Errors
/// `BadRequest`: the text says which field and what to do.
pub fn advance(it: v1::Advance) -> Checked<Advance> {
    let trouble = match (it.diverged, it.panicked) {
        (Some(it), _) => Some(Trouble::Diverged {
            key: step_key(present("diverged.key", it.key)?),
            expected: it.expected,
            got: it.got,
        }),
        (None, Some(it)) => Some(Trouble::Panicked(it.message)),
        (None, None) => None,
    };
    Ok(Advance {
        run: run_id(&it.run)?,
        fence: Fence::from_wire(it.fence),
        number: AdvanceNo(it.number),
        seen: DeliveryNo(it.delivery),
        results: it
            .results
            .into_iter()
            .map(step_result)
            .collect::<Checked<_>>()?,
        intents: it.intents.into_iter().map(intent).collect::<Checked<_>>()?,
        free_slots: it.free_slots,
        trouble,
    })
}

fn step_result(it: v1::StepResult) -> Checked<StepResult> {
    Ok(StepResult {
        intent: IntentNo(it.entry),
        fence: Fence::from_wire(it.fence),
        outcome: outcome(present("outcome", it.outcome)?)?,
    })
}

fn outcome(it: v1::AttemptOutcome) -> Checked<AttemptOutcome> {
    use v1::attempt_outcome::Kind;
    Ok(match present("outcome", it.kind)? {
        Kind::Done(output) => AttemptOutcome::Done(payload("a step's output", output)?),
        Kind::Retryable(it) => AttemptOutcome::Retryable {
            message: it.message,
            after: span(it.after_ms),
        },
        Kind::Terminal(it) => AttemptOutcome::Terminal {
            code: it.code,
            message: it.message,
        },
        Kind::Throttled(it) => AttemptOutcome::Throttled {
            limit: limit_name("throttled.limit", &it.limit)?,
            after: Millis(it.after_ms),
            message: it.message,
        },
        Kind::Panicked(it) => AttemptOutcome::Panicked(it.message),
        Kind::Stopped(_) => AttemptOutcome::Stopped,
        Kind::Absent(_) => AttemptOutcome::Absent,
        Kind::Unsure(it) => AttemptOutcome::Unsure(it.message),
    })
}

fn step_key(it: v1::StepKey) -> StepKey {
    StepKey {
        scope: it.scope.into(),
        name: it.name.into(),
        occurrence: it.occurrence,
    }
}

fn intent(it: v1::Intent) -> Checked<Intent> {
    use v1::intent::Kind;
    let kind = match present("intent", it.kind)? {
        Kind::Step(it) => IntentKind::Step(step_spec(it)?),
        Kind::Timer(it) if it.at_unix_ms != 0 => {
            IntentKind::Timer(TimerSpec::At(Timestamp(it.at_unix_ms)))
        }
        Kind::Timer(it) => IntentKind::Timer(TimerSpec::After(Millis(it.delay_ms))),
        Kind::Wait(it) => IntentKind::Wait {
            signal: name("wait.signal", &it.signal)?,
            timeout: span(it.timeout_ms),
            ask: (!it.ask.is_empty()).then_some(it.ask),
        },
        Kind::Record(value) => IntentKind::Record(payload("a recorded value", value)?),
        Kind::Publish(it) => IntentKind::Publish {
            view: name("publish.view", &it.view)?,
            value: payload("a view's value", it.value)?,
        },
        Kind::Complete(output) => IntentKind::Complete(payload("the run's output", output)?),
        Kind::Fail(it) => IntentKind::Fail {
            code: it.code,
            message: it.message,
        },
    };
    Ok(Intent {
        number: IntentNo(it.entry),
        key: step_key(present("intent.key", it.key)?),
        digest: Digest(it.digest),
        kind,
    })
}

fn step_spec(it: v1::StepIntent) -> Checked<StepSpec> {
    let certainty = match v1::Certainty::try_from(it.certainty) {
        Ok(v1::Certainty::Unspecified | v1::Certainty::AtLeastOnce) => Certainty::AtLeastOnce,
        Ok(v1::Certainty::AtMostOnce) => Certainty::AtMostOnce,
        Ok(v1::Certainty::Reconcile) => Certainty::Reconcile(name("step.probe", &it.probe)?),
        Err(_) => {
            return Err(invalid(
                "step.certainty",
                format!("{} is unknown", it.certainty),
            ));
        }
    };
    let optional = |field, text: &str| -> Checked<Option<Name>> {
        (!text.is_empty()).then(|| name(field, text)).transpose()
    };
    if it.inline && !it.queue.is_empty() {
        return Err(invalid("step.queue", "an inline step runs with its driver"));
    }
    Ok(StepSpec {
        step: name("step.step", &it.step)?,
        queue: optional("step.queue", &it.queue)?,
        input: payload("a step's input", it.input)?,
        retry: retry_policy(it.retry.unwrap_or_default())?,
        timeout: span(it.timeout_ms),
        heartbeat: span(it.heartbeat_ms),
        limits: it
            .limits
            .iter()
            .map(|limit| limit_name("step.limits", limit))
            .collect::<Checked<_>>()?,
        certainty,
        undo: optional("step.undo", &it.undo)?,
        inline: it.inline,
    })
}

/// Zero in a field means the contract's default (§6).
fn retry_policy(it: v1::RetryPolicy) -> Checked<RetryPolicy> {
    let default = RetryPolicy::default();
    let or = |ms: u64, default: Millis| if ms == 0 { default } else { Millis(ms) };
    let give_up = match v1::GiveUp::try_from(it.give_up) {
        Ok(v1::GiveUp::Unspecified | v1::GiveUp::Pause) => GiveUp::Pause,
        Ok(v1::GiveUp::Fail) => GiveUp::Fail,
        Ok(v1::GiveUp::Compensate) => GiveUp::Compensate,
        Err(_) => {
            return Err(invalid(
                "retry.give_up",
                format!("{} is unknown", it.give_up),
            ));
        }
    };
    let max_attempts = if it.never {
        Some(1)
    } else {
        Some(it.max_attempts).filter(|n| *n != 0)
    };
    Ok(RetryPolicy {
        initial: or(it.initial_ms, default.initial),
        factor_percent: if it.factor_percent == 0 {
            default.factor_percent
        } else {
            it.factor_percent
        },
        cap: or(it.cap_ms, default.cap),
        max_attempts,
        give_up_after: or(it.give_up_after_ms, default.give_up_after),
        give_up,
    })
}

/// # Errors
/// `BadRequest`: the text says which field and what to do.
pub fn report(it: v1::Report) -> Checked<Report> {
    let result = StepResult {
        intent: IntentNo(it.entry),
        fence: Fence::from_wire(it.fence),
        outcome: outcome(present("outcome", it.outcome)?)?,
    };
    Ok(Report {
        run: run_id(&it.run)?,
        result,
    })
}

/// # Errors
/// `BadRequest`: the text says which field and what to do.
pub fn progress(it: v1::Progress) -> Checked<Progress> {
    let (size, max) = (it.progress.len(), bounds::PROGRESS_BYTES_MAX);
    if size > max {
        return Err(BadRequest::TooLarge {
            field: "progress",
            size,
            max,
        });
    }
    Ok(Progress {
        run: run_id(&it.run)?,
        intent: IntentNo(it.entry),
        fence: Fence::from_wire(it.fence),
        progress: it.progress,
    })
}

/// # Errors
/// `BadRequest`: the text says which field and what to do.
pub fn returned(it: v1::Return) -> Checked<Return> {
    let run = |it: &v1::HeldRun| Ok((run_id(&it.run)?, Fence::from_wire(it.fence)));
    let step = |it: &v1::HeldStep| {
        Ok((
            run_id(&it.run)?,
            IntentNo(it.entry),
            Fence::from_wire(it.fence),
        ))
    };
    Ok(Return {
        runs: it.runs.iter().map(run).collect::<Checked<_>>()?,
        steps: it.steps.iter().map(step).collect::<Checked<_>>()?,
    })
}

/// The stable code of a refusal (interfaces: docs/errors).
pub fn code(rejected: &Rejected) -> &'static str {
    match rejected {
        Rejected::UnknownWorkflow { .. }
        | Rejected::UnknownVersion { .. }
        | Rejected::NoSuchRun(_) => "HF3003",
        Rejected::IdConflict(_) => "HF2001",
        Rejected::RunEnded { .. } | Rejected::NotNow { .. } => "HF2002",
        Rejected::StaleFence(_) => "HF5001",
        Rejected::SessionEnded(_) => "HF5004",
        Rejected::SignalOverflow { .. } => "HF2003",
        Rejected::TooLarge { .. } => "HF3001",
        Rejected::Invalid(_) => "HF3002",
    }
}

/// Which of a step's effects a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOf {
    /// The step itself: the same on every attempt.
    Step,
    /// Its probe.
    Probe,
    /// Its undo.
    Undo,
}

/// The idempotency key: stable over attempts, workers, leaders and a restore; never shared by two steps.
///
/// `namespace` is fixed when the cluster is formed.
pub fn idempotency_key(
    namespace: &str,
    run: &RunId,
    generation: Generation,
    intent: IntentNo,
    of: KeyOf,
) -> String {
    let suffix = match of {
        KeyOf::Step => "",
        KeyOf::Probe => ":probe",
        KeyOf::Undo => ":undo",
    };
    format!("{namespace}:{run}:{generation}:{intent}{suffix}")
}

/// A grant as the worker is told of it.
pub fn grant_to(namespace: &str, run: &RunId, generation: Generation, it: &StepGrant) -> v1::Grant {
    v1::Grant {
        entry: it.intent.0,
        fence: it.fence.number(),
        attempt: it.attempt,
        idempotency_key: idempotency_key(namespace, run, generation, it.intent, KeyOf::Step),
        timeout_ms: it.timeout.map_or(0, |timeout| timeout.0),
        progress: it.progress.clone().unwrap_or_default(),
    }
}

/// What becomes of a drive, on the wire.
pub fn advance_outcome_to(it: &AdvanceOutcome) -> v1::AdvanceOutcome {
    match it {
        AdvanceOutcome::GoesOn => v1::AdvanceOutcome::GoesOn,
        AdvanceOutcome::Suspended => v1::AdvanceOutcome::Suspended,
        AdvanceOutcome::Finished => v1::AdvanceOutcome::Finished,
        AdvanceOutcome::DeliveriesWait => v1::AdvanceOutcome::Deliveries,
        AdvanceOutcome::Interrupted => v1::AdvanceOutcome::Interrupted,
        AdvanceOutcome::Superseded => v1::AdvanceOutcome::StaleFence,
    }
}

/// What a report came to, on the wire.
pub fn reported_to(it: Reported) -> v1::ReportOutcome {
    match it {
        Reported::Accepted => v1::ReportOutcome::Accepted,
        Reported::Duplicate => v1::ReportOutcome::Duplicate,
        Reported::Stale => v1::ReportOutcome::Stale,
    }
}

/// A journal row on the wire; `payloads`: with what was given and returned.
pub fn journal_row_to(group: u32, it: &JournalRow, payloads: bool) -> v1::JournalRow {
    v1::JournalRow {
        seq: it.seq.0,
        at_unix_ms: it.at.0,
        position: Some(v1::Position {
            group,
            index: it.position.0,
            slot: it.position.1,
        }),
        delivery: it.delivery.map_or(0, |delivery| delivery.0),
        seen: it.seen.map(|seen| seen.0),
        outcomes: it
            .outcomes
            .iter()
            .map(|outcome| outcome_to(outcome, payloads))
            .collect(),
        intents: it
            .intents
            .iter()
            .map(|intent| intent_to(intent, payloads))
            .collect(),
        note: it.note.clone().unwrap_or_default(),
        cancel: it.cancel.as_ref().map(|reason| v1::Failure {
            code: "CANCELLED".to_owned(),
            message: reason.clone(),
        }),
    }
}

fn shown(bytes: &Bytes, payloads: bool) -> Bytes {
    if payloads {
        bytes.clone()
    } else {
        Bytes::new()
    }
}

fn outcome_to((intent, it): &(IntentNo, Outcome), payloads: bool) -> v1::Outcome {
    use v1::outcome::Kind;
    let kind = match it {
        Outcome::Done(output) => Kind::Done(shown(output, payloads)),
        Outcome::Failed {
            code,
            message,
            attempts,
        } => Kind::Failed(v1::StepFailed {
            code: code.clone(),
            message: message.clone(),
            attempts: *attempts,
        }),
        Outcome::Fired => Kind::Fired(v1::Empty {}),
        Outcome::TimedOut => Kind::TimedOut(v1::Empty {}),
        Outcome::Cancelled(reason) => Kind::Cancelled(v1::Failure {
            code: "CANCELLED".to_owned(),
            message: reason.clone(),
        }),
    };
    v1::Outcome {
        entry: intent.0,
        kind: Some(kind),
    }
}

fn intent_to(it: &Intent, payloads: bool) -> v1::Intent {
    use v1::intent::Kind;
    let kind = match &it.kind {
        IntentKind::Step(spec) => Kind::Step(step_spec_to(spec, payloads)),
        IntentKind::Timer(TimerSpec::After(span)) => Kind::Timer(v1::TimerIntent {
            delay_ms: span.0,
            at_unix_ms: 0,
        }),
        IntentKind::Timer(TimerSpec::At(at)) => Kind::Timer(v1::TimerIntent {
            delay_ms: 0,
            at_unix_ms: at.0,
        }),
        IntentKind::Wait {
            signal,
            timeout,
            ask,
        } => Kind::Wait(v1::WaitIntent {
            signal: signal.to_string(),
            timeout_ms: timeout.map_or(0, |timeout| timeout.0),
            ask: ask.clone().unwrap_or_default(),
        }),
        IntentKind::Record(value) => Kind::Record(shown(value, payloads)),
        IntentKind::Publish { view, value } => Kind::Publish(v1::PublishIntent {
            view: view.to_string(),
            value: shown(value, payloads),
        }),
        IntentKind::Complete(output) => Kind::Complete(shown(output, payloads)),
        IntentKind::Fail { code, message } => Kind::Fail(v1::Failure {
            code: code.clone(),
            message: message.clone(),
        }),
    };
    let key = v1::StepKey {
        scope: it.key.scope.to_string(),
        name: it.key.name.to_string(),
        occurrence: it.key.occurrence,
    };
    v1::Intent {
        entry: it.number.0,
        key: Some(key),
        digest: it.digest.0,
        kind: Some(kind),
    }
}

fn step_spec_to(it: &StepSpec, payloads: bool) -> v1::StepIntent {
    let (certainty, probe) = match &it.certainty {
        Certainty::AtLeastOnce => (v1::Certainty::AtLeastOnce, String::new()),
        Certainty::AtMostOnce => (v1::Certainty::AtMostOnce, String::new()),
        Certainty::Reconcile(probe) => (v1::Certainty::Reconcile, probe.to_string()),
    };
    v1::StepIntent {
        step: it.step.to_string(),
        queue: it.queue.as_ref().map(Name::to_string).unwrap_or_default(),
        input: shown(&it.input, payloads),
        retry: None,
        timeout_ms: it.timeout.map_or(0, |timeout| timeout.0),
        heartbeat_ms: it.heartbeat.map_or(0, |heartbeat| heartbeat.0),
        limits: it.limits.iter().map(LimitName::to_string).collect(),
        certainty: certainty.into(),
        probe,
        undo: it.undo.as_ref().map(Name::to_string).unwrap_or_default(),
        inline: it.inline,
    }
}

/// A status on the wire.
pub fn status_to(status: Status) -> v1::RunStatus {
    let number = i32::try_from(super::rows::status_number(status)).unwrap_or_default();
    v1::RunStatus::try_from(number).unwrap_or(v1::RunStatus::Unspecified)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_the_same_number_in_rows_and_on_the_wire() {
        assert_eq!(status_to(Status::Scheduled), v1::RunStatus::Scheduled);
        assert_eq!(status_to(Status::Undoing), v1::RunStatus::Undoing);
        assert_eq!(status_to(Status::TimedOut), v1::RunStatus::TimedOut);
    }

    #[test]
    fn empty_overlong_and_reserved_ids_are_refused_by_name() {
        let request = |id: &str| v1::StartRequest {
            workflow: "order".into(),
            run_id: id.into(),
            ..v1::StartRequest::default()
        };
        for id in ["", "a b", "x~y", &"x".repeat(201)] {
            let refused = start(request(id)).unwrap_err();
            assert!(refused.to_string().contains("run_id"), "{refused}");
        }
        assert!(start(request("orders/1001")).is_ok());
    }

    #[test]
    fn an_oversize_payload_and_an_unknown_enum_are_refused() {
        let mut request = v1::StartRequest {
            workflow: "order".into(),
            run_id: "1".into(),
            input: vec![b'x'; bounds::INLINE_PAYLOAD_BYTES_MAX + 1].into(),
            ..v1::StartRequest::default()
        };
        assert!(matches!(
            start(request.clone()),
            Err(BadRequest::TooLarge { .. })
        ));
        request.input = Bytes::from_static(b"1");
        request.if_ended = 77;
        assert!(matches!(
            start(request),
            Err(BadRequest::Invalid {
                field: "if_ended",
                ..
            })
        ));
    }

    #[test]
    fn a_key_is_never_shared_by_two_steps() {
        let run = RunId::new("order-1").unwrap();
        let key = |intent, of| idempotency_key("ns", &run, Generation(1), IntentNo(intent), of);
        assert_eq!(key(3, KeyOf::Step), "ns:order-1:1:3");
        assert_ne!(key(3, KeyOf::Step), key(3, KeyOf::Undo));
        assert_ne!(key(3, KeyOf::Step), key(4, KeyOf::Step));
    }
}
