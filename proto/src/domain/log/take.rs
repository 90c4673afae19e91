//! How each entry and command is read: one function per message. What is missing and must be there is an `Undecodable`.

use bytes::Bytes;

use holdfast_scheduler::{
    entry::{
        Admit, Advance, Ask, Attach, AttemptOutcome, BecomeLeader, Body, Certainty, Change,
        Collect, Command, Deploy, Duty, Expire, GiveUp, Grant, IfEnded, Intent, IntentKind,
        LimitSpec, Progress, Report, Retry, RetryPolicy, Return, SetLimit, Signal, Start,
        StepResult, StepSpec, TimerSpec, Trouble, Work,
    },
    ids::{
        AdvanceNo, DeliveryNo, Digest, Epoch, FeatureLevel, Fence, IntentNo, LimitName, Name,
        NodeId, RequestId, RunId, SessionId, StepKey, Version,
    },
    time::{Millis, Timestamp},
};

use crate::domain::{
    Undecodable,
    read::{FromField, Reader},
    required,
};

pub(super) fn take_become_leader(from: Reader<'_>) -> Result<Body, Undecodable> {
    let (mut node, mut incarnation, mut boot) = (NodeId(0), None, None);
    let (mut min, mut max, mut anchor) = (FeatureLevel(0), FeatureLevel(0), Timestamp(0));
    from.each(|number, field| match number {
        1 => field.to(&mut node),
        2 => field.to(&mut incarnation),
        3 => field.to(&mut boot),
        4 => field.to(&mut min),
        5 => field.to(&mut max),
        6 => field.to(&mut anchor),
        _ => Ok(()),
    })?;
    Ok(Body::BecomeLeader(BecomeLeader {
        node,
        incarnation: required(incarnation, "new leader")?,
        boot: required(boot, "new leader")?,
        levels: (min, max),
        anchor,
    }))
}

pub(super) fn take_batch(from: Reader<'_>) -> Result<Body, Undecodable> {
    let (mut epoch, mut proposed_at) = (Epoch(0), Timestamp(0));
    let mut count = 0;
    from.each(|number, _| {
        count += usize::from(number == 3);
        Ok(())
    })?;
    let mut commands = Vec::with_capacity(count);
    from.each(|number, field| match number {
        1 => field.to(&mut epoch),
        2 => field.to(&mut proposed_at),
        3 => field.one_message_of(&mut commands, take_command),
        _ => Ok(()),
    })?;
    Ok(Body::Batch {
        epoch,
        proposed_at,
        commands,
    })
}

fn take_command(from: Reader<'_>) -> Result<Command, Undecodable> {
    let (ask, duty) = (Command::Ask, Command::Duty);
    let mut command = None;
    from.each(|number, field| {
        command = Some(match number {
            1 => ask(Ask::Start(take_start(field.message()?)?)),
            2 => ask(Ask::Signal(take_signal(field.message()?)?)),
            3 => ask(Ask::Cancel(take_change(field.message()?)?)),
            4 => ask(Ask::Terminate(take_change(field.message()?)?)),
            5 => ask(Ask::Pause(take_change(field.message()?)?)),
            6 => ask(Ask::Resume(take_change(field.message()?)?)),
            7 => ask(Ask::Retry(take_retry_ask(field.message()?)?)),
            8 => ask(Ask::Attach(take_attach(field.message()?)?)),
            9 => ask(Ask::Advance(take_advance(field.message()?)?)),
            10 => ask(Ask::Report(take_report(field.message()?)?)),
            11 => ask(Ask::Progress(take_progress(field.message()?)?)),
            12 => ask(Ask::Return(take_return(field.message()?)?)),
            13 => ask(Ask::Detach(SessionId::from_field(field)?)),
            14 => ask(Ask::Deploy(take_deploy(field.message()?)?)),
            15 => ask(Ask::SetLimit(take_set_limit(field.message()?)?)),
            16 => ask(Ask::Noop(Bytes::from_field(field)?)),
            32 => duty(Duty::Grant(take_grant(field.message()?)?)),
            33 => duty(Duty::Admit(take_admit(field.message()?)?)),
            34 => duty(Duty::Expire(take_expire_session(field.message()?)?)),
            35 => duty(Duty::Expire(take_expire_attempt(field.message()?)?)),
            36 => duty(Duty::Expire(take_expire_drive(field.message()?)?)),
            37 => duty(take_fire_due(field.message()?)?),
            38 => duty(Duty::Repair(RunId::from_field(field)?)),
            39 => duty(Duty::Collect(take_collect(field.message()?)?)),
            _ => return Ok(()),
        });
        Ok(())
    })?;
    command
        .ok_or_else(|| Undecodable::new("command", "its kind is unknown; a newer release wrote it"))
}

fn take_start(from: Reader<'_>) -> Result<Start, Undecodable> {
    let (mut run, mut workflow, mut input, mut digest) = (None, None, Bytes::new(), Digest(0));
    let (mut at, mut timeout, mut if_ended, mut signal) = (None, None, 0_u64, None);
    from.each(|number, field| match number {
        1 => field.to(&mut run),
        2 => field.to(&mut workflow),
        3 => field.to(&mut input),
        4 => field.to(&mut digest),
        5 => field.to(&mut at),
        6 => field.to(&mut timeout),
        7 => field.to(&mut if_ended),
        8 => field.message_to(&mut signal, take_start_signal),
        _ => Ok(()),
    })?;
    Ok(Start {
        run: required(run, "start")?,
        workflow: required(workflow, "start")?,
        input,
        digest,
        at,
        timeout,
        if_ended: match if_ended {
            1 => IfEnded::ReturnResult,
            2 => IfEnded::Reject,
            3 => IfEnded::NewGeneration,
            other => return Err(Undecodable::new("start", format!("if_ended is {other}"))),
        },
        signal,
    })
}

fn take_start_signal(from: Reader<'_>) -> Result<(Name, RequestId, Bytes), Undecodable> {
    let (mut name, mut id, mut payload) = (None, None, Bytes::new());
    from.each(|number, field| match number {
        1 => field.to(&mut name),
        2 => field.to(&mut id),
        3 => field.to(&mut payload),
        _ => Ok(()),
    })?;
    let (name, id) = (
        required(name, "start's signal")?,
        required(id, "start's signal")?,
    );
    Ok((name, id, payload))
}

pub(in crate::domain) fn take_signal(from: Reader<'_>) -> Result<Signal, Undecodable> {
    let (mut run, mut name, mut id, mut payload) = (None, None, None, Bytes::new());
    from.each(|number, field| match number {
        1 => field.to(&mut run),
        2 => field.to(&mut name),
        3 => field.to(&mut id),
        4 => field.to(&mut payload),
        _ => Ok(()),
    })?;
    Ok(Signal {
        run: required(run, "signal")?,
        name: required(name, "signal")?,
        id: required(id, "signal")?,
        payload,
    })
}

fn take_change(from: Reader<'_>) -> Result<Change, Undecodable> {
    let (mut run, mut reason, mut request) = (None, String::new(), None);
    from.each(|number, field| match number {
        1 => field.to(&mut run),
        2 => field.to(&mut reason),
        3 => field.to(&mut request),
        _ => Ok(()),
    })?;
    Ok(Change {
        run: required(run, "change")?,
        reason,
        request: required(request, "change")?,
    })
}

fn take_retry_ask(from: Reader<'_>) -> Result<Retry, Undecodable> {
    let (mut run, mut step, mut request) = (None, None, None);
    from.each(|number, field| match number {
        1 => field.to(&mut run),
        2 => field.to(&mut step),
        3 => field.to(&mut request),
        _ => Ok(()),
    })?;
    Ok(Retry {
        run: required(run, "retry")?,
        step,
        request: required(request, "retry")?,
    })
}

pub(in crate::domain) fn take_registered(from: Reader<'_>) -> Result<(Name, Version), Undecodable> {
    let (mut name, mut version) = (None, Version(0));
    from.each(|number, field| match number {
        1 => field.to(&mut name),
        2 => field.to(&mut version),
        _ => Ok(()),
    })?;
    Ok((required(name, "registered workflow")?, version))
}

fn take_attach(from: Reader<'_>) -> Result<Attach, Undecodable> {
    let (mut session, mut process, mut worker, mut queue) = (None, None, None, None);
    let (mut workflows, mut steps, mut limits, mut slots) = (Vec::new(), Vec::new(), Vec::new(), 0);
    from.each(|number, field| match number {
        1 => field.to(&mut session),
        2 => field.to(&mut process),
        3 => field.to(&mut worker),
        4 => field.to(&mut queue),
        5 => field.one_message_of(&mut workflows, take_registered),
        6 => field.one_of(&mut steps),
        7 => field.one_message_of(&mut limits, take_declared_limit),
        8 => field.to(&mut slots),
        _ => Ok(()),
    })?;
    Ok(Attach {
        session,
        process: required(process, "attach")?,
        worker: required(worker, "attach")?,
        queue: required(queue, "attach")?,
        workflows,
        steps,
        limits,
        slots,
    })
}

fn take_declared_limit(from: Reader<'_>) -> Result<(LimitName, LimitSpec), Undecodable> {
    let (mut name, mut spec) = (None, None);
    from.each(|number, field| match number {
        1 => field.to(&mut name),
        2 => field.message_to(&mut spec, take_limit_spec),
        _ => Ok(()),
    })?;
    Ok((
        required(name, "declared limit")?,
        required(spec, "declared limit")?,
    ))
}

pub(in crate::domain) fn take_limit_spec(from: Reader<'_>) -> Result<LimitSpec, Undecodable> {
    let (mut count, mut per, mut burst, mut concurrency) = (None, Millis(0), 0, None);
    from.each(|number, field| match number {
        1 => field.to(&mut count),
        2 => field.to(&mut per),
        3 => field.to(&mut burst),
        4 => field.to(&mut concurrency),
        _ => Ok(()),
    })?;
    Ok(LimitSpec {
        rate: count.map(|count| (count, per)),
        burst,
        concurrency,
    })
}

fn take_advance(from: Reader<'_>) -> Result<Advance, Undecodable> {
    let (mut run, mut fence) = (None, Fence::default());
    let (mut advance, mut seen, mut free_slots) = (AdvanceNo(0), DeliveryNo(0), 0);
    let (mut results, mut intents) = (Vec::new(), Vec::new());
    let (mut diverged, mut panicked) = (None, None);
    from.each(|number, field| match number {
        1 => field.to(&mut run),
        2 => field.to(&mut fence),
        3 => field.to(&mut advance),
        4 => field.to(&mut seen),
        5 => field.one_message_of(&mut results, take_result),
        6 => field.one_message_of(&mut intents, take_intent),
        7 => field.to(&mut free_slots),
        8 => field.message_to(&mut diverged, take_diverged),
        9 => field.to(&mut panicked),
        _ => Ok(()),
    })?;
    Ok(Advance {
        run: required(run, "advance")?,
        fence,
        number: advance,
        seen,
        results,
        intents,
        free_slots,
        trouble: diverged.or(panicked.map(Trouble::Panicked)),
    })
}

fn take_diverged(from: Reader<'_>) -> Result<Trouble, Undecodable> {
    let (mut key, mut expected, mut got) = (None, String::new(), String::new());
    from.each(|number, field| match number {
        1 => field.message_to(&mut key, take_step_key),
        2 => field.to(&mut expected),
        3 => field.to(&mut got),
        _ => Ok(()),
    })?;
    let key = required(key, "divergence")?;
    Ok(Trouble::Diverged { key, expected, got })
}

pub(in crate::domain) fn take_step_key(from: Reader<'_>) -> Result<StepKey, Undecodable> {
    let (mut scope, mut name, mut occurrence) = ("", "", 0);
    from.each(|number, field| match number {
        1 => field.to(&mut scope),
        2 => field.to(&mut name),
        3 => field.to(&mut occurrence),
        _ => Ok(()),
    })?;
    Ok(StepKey {
        scope: scope.into(),
        name: name.into(),
        occurrence,
    })
}

fn take_result(from: Reader<'_>) -> Result<StepResult, Undecodable> {
    let (mut intent, mut fence, mut outcome) = (IntentNo(0), Fence::default(), None);
    from.each(|number, field| match number {
        1 => field.to(&mut intent),
        2 => field.to(&mut fence),
        3 => field.message_to(&mut outcome, take_outcome),
        _ => Ok(()),
    })?;
    Ok(StepResult {
        intent,
        fence,
        outcome: required(outcome, "step result")?,
    })
}

fn take_outcome(from: Reader<'_>) -> Result<AttemptOutcome, Undecodable> {
    let mut outcome = None;
    from.each(|number, field| {
        outcome = Some(match number {
            1 => AttemptOutcome::Done(Bytes::from_field(field)?),
            2 => take_retryable(field.message()?)?,
            3 => {
                let (code, message) = take_failure(field.message()?)?;
                AttemptOutcome::Terminal { code, message }
            }
            4 => take_throttled(field.message()?)?,
            5 => AttemptOutcome::Panicked(String::from_field(field)?),
            6 => AttemptOutcome::Stopped,
            7 => AttemptOutcome::Absent,
            8 => AttemptOutcome::Unsure(String::from_field(field)?),
            _ => return Ok(()),
        });
        Ok(())
    })?;
    required(outcome, "attempt outcome")
}

fn take_retryable(from: Reader<'_>) -> Result<AttemptOutcome, Undecodable> {
    let (mut message, mut after) = (String::new(), None);
    from.each(|number, field| match number {
        1 => field.to(&mut message),
        2 => field.to(&mut after),
        _ => Ok(()),
    })?;
    Ok(AttemptOutcome::Retryable { message, after })
}

fn take_throttled(from: Reader<'_>) -> Result<AttemptOutcome, Undecodable> {
    let (mut limit, mut after, mut message) = (None, Millis(0), String::new());
    from.each(|number, field| match number {
        1 => field.to(&mut limit),
        2 => field.to(&mut after),
        3 => field.to(&mut message),
        _ => Ok(()),
    })?;
    let limit = required(limit, "throttled attempt")?;
    Ok(AttemptOutcome::Throttled {
        limit,
        after,
        message,
    })
}

/// Code and message.
pub(in crate::domain) fn take_failure(from: Reader<'_>) -> Result<(String, String), Undecodable> {
    let (mut code, mut message) = (String::new(), String::new());
    from.each(|number, field| match number {
        1 => field.to(&mut code),
        2 => field.to(&mut message),
        _ => Ok(()),
    })?;
    Ok((code, message))
}

pub(in crate::domain) fn take_intent(from: Reader<'_>) -> Result<Intent, Undecodable> {
    let (mut intent, mut key, mut digest, mut kind) = (IntentNo(0), None, Digest(0), None);
    from.each(|number, field| {
        kind = Some(match number {
            1 => return field.to(&mut intent),
            2 => return field.message_to(&mut key, take_step_key),
            3 => return field.to(&mut digest),
            4 => IntentKind::Step(take_spec(field.message()?)?),
            5 => IntentKind::Timer(TimerSpec::After(Millis::from_field(field)?)),
            6 => IntentKind::Timer(TimerSpec::At(Timestamp::from_field(field)?)),
            7 => take_wait(field.message()?)?,
            8 => IntentKind::Record(Bytes::from_field(field)?),
            9 => take_publish(field.message()?)?,
            10 => IntentKind::Complete(Bytes::from_field(field)?),
            11 => {
                let (code, message) = take_failure(field.message()?)?;
                IntentKind::Fail { code, message }
            }
            _ => return Ok(()),
        });
        Ok(())
    })?;
    Ok(Intent {
        number: intent,
        key: required(key, "intent key")?,
        digest,
        kind: required(kind, "intent")?,
    })
}

fn take_wait(from: Reader<'_>) -> Result<IntentKind, Undecodable> {
    let (mut signal, mut timeout, mut ask) = (None, None, None);
    from.each(|number, field| match number {
        1 => field.to(&mut signal),
        2 => field.to(&mut timeout),
        3 => field.to(&mut ask),
        _ => Ok(()),
    })?;
    let signal = required(signal, "wait")?;
    Ok(IntentKind::Wait {
        signal,
        timeout,
        ask,
    })
}

fn take_publish(from: Reader<'_>) -> Result<IntentKind, Undecodable> {
    let (mut view, mut value) = (None, Bytes::new());
    from.each(|number, field| match number {
        1 => field.to(&mut view),
        2 => field.to(&mut value),
        _ => Ok(()),
    })?;
    let view = required(view, "published view")?;
    Ok(IntentKind::Publish { view, value })
}

fn take_spec(from: Reader<'_>) -> Result<StepSpec, Undecodable> {
    let (mut step, mut queue, mut input, mut retry) = (None, None, Bytes::new(), None);
    let (mut timeout, mut heartbeat, mut limits) = (None, None, Vec::new());
    let (mut certainty, mut undo, mut inline) = (None, None, false);
    from.each(|number, field| match number {
        1 => field.to(&mut step),
        2 => field.to(&mut queue),
        3 => field.to(&mut input),
        4 => field.message_to(&mut retry, take_retry),
        5 => field.to(&mut timeout),
        6 => field.to(&mut heartbeat),
        7 => field.one_of(&mut limits),
        8 => field.message_to(&mut certainty, take_certainty),
        9 => field.to(&mut undo),
        10 => field.to(&mut inline),
        _ => Ok(()),
    })?;
    Ok(StepSpec {
        step: required(step, "step")?,
        queue,
        input,
        retry: required(retry, "retry policy")?,
        timeout,
        heartbeat,
        limits,
        certainty: required(certainty, "certainty")?,
        undo,
        inline,
    })
}

pub(in crate::domain) fn take_certainty(from: Reader<'_>) -> Result<Certainty, Undecodable> {
    let (mut mode, mut probe) = (0_u64, None);
    from.each(|number, field| match number {
        1 => field.to(&mut mode),
        2 => field.to(&mut probe),
        _ => Ok(()),
    })?;
    match mode {
        1 => Ok(Certainty::AtLeastOnce),
        2 => Ok(Certainty::AtMostOnce),
        3 => Ok(Certainty::Reconcile(required(probe, "certainty")?)),
        other => Err(Undecodable::new("certainty", format!("mode {other}"))),
    }
}

pub(in crate::domain) fn take_retry(from: Reader<'_>) -> Result<RetryPolicy, Undecodable> {
    let (mut initial, mut factor_percent, mut cap) = (Millis(0), 0, Millis(0));
    let (mut max_attempts, mut give_up_after, mut give_up) = (None, Millis(0), 0_u64);
    from.each(|number, field| match number {
        1 => field.to(&mut initial),
        2 => field.to(&mut factor_percent),
        3 => field.to(&mut cap),
        4 => field.to(&mut max_attempts),
        5 => field.to(&mut give_up_after),
        6 => field.to(&mut give_up),
        _ => Ok(()),
    })?;
    Ok(RetryPolicy {
        initial,
        factor_percent,
        cap,
        max_attempts,
        give_up_after,
        give_up: match give_up {
            1 => GiveUp::Pause,
            2 => GiveUp::Fail,
            3 => GiveUp::Compensate,
            other => return Err(Undecodable::new("retry policy", format!("give_up {other}"))),
        },
    })
}

fn take_report(from: Reader<'_>) -> Result<Report, Undecodable> {
    let (mut run, mut result) = (None, None);
    from.each(|number, field| match number {
        1 => field.to(&mut run),
        2 => field.message_to(&mut result, take_result),
        _ => Ok(()),
    })?;
    Ok(Report {
        run: required(run, "report")?,
        result: required(result, "report")?,
    })
}

fn take_progress(from: Reader<'_>) -> Result<Progress, Undecodable> {
    let (mut run, mut intent, mut fence, mut progress) =
        (None, IntentNo(0), Fence::default(), Bytes::new());
    from.each(|number, field| match number {
        1 => field.to(&mut run),
        2 => field.to(&mut intent),
        3 => field.to(&mut fence),
        4 => field.to(&mut progress),
        _ => Ok(()),
    })?;
    Ok(Progress {
        run: required(run, "progress")?,
        intent,
        fence,
        progress,
    })
}

fn take_return(from: Reader<'_>) -> Result<Return, Undecodable> {
    let (mut runs, mut steps) = (Vec::new(), Vec::new());
    from.each(|number, field| match number {
        1 => field.one_message_of(&mut runs, take_held_run),
        2 => field.one_message_of(&mut steps, take_held_step),
        _ => Ok(()),
    })?;
    Ok(Return { runs, steps })
}

fn take_held_run(from: Reader<'_>) -> Result<(RunId, Fence), Undecodable> {
    let (mut run, mut fence) = (None, Fence::default());
    from.each(|number, field| match number {
        1 => field.to(&mut run),
        2 => field.to(&mut fence),
        _ => Ok(()),
    })?;
    Ok((required(run, "run held")?, fence))
}

fn take_held_step(from: Reader<'_>) -> Result<(RunId, IntentNo, Fence), Undecodable> {
    let (mut run, mut intent, mut fence) = (None, IntentNo(0), Fence::default());
    from.each(|number, field| match number {
        1 => field.to(&mut run),
        2 => field.to(&mut intent),
        3 => field.to(&mut fence),
        _ => Ok(()),
    })?;
    Ok((required(run, "step held")?, intent, fence))
}

fn take_deploy(from: Reader<'_>) -> Result<Deploy, Undecodable> {
    let (mut workflow, mut version, mut request) = (None, Version(0), None);
    from.each(|number, field| match number {
        1 => field.to(&mut workflow),
        2 => field.to(&mut version),
        3 => field.to(&mut request),
        _ => Ok(()),
    })?;
    Ok(Deploy {
        workflow: required(workflow, "deploy")?,
        version,
        request: required(request, "deploy")?,
    })
}

fn take_set_limit(from: Reader<'_>) -> Result<SetLimit, Undecodable> {
    let (mut name, mut spec, mut request) = (None, None, None);
    from.each(|number, field| match number {
        1 => field.to(&mut name),
        2 => field.message_to(&mut spec, take_limit_spec),
        3 => field.to(&mut request),
        _ => Ok(()),
    })?;
    Ok(SetLimit {
        name: required(name, "limit")?,
        spec: required(spec, "limit")?,
        request: required(request, "limit")?,
    })
}

fn take_work(from: Reader<'_>) -> Result<Work, Undecodable> {
    let (mut run, mut kind, mut intent) = (None, 0_u64, IntentNo(0));
    from.each(|number, field| match number {
        1 => field.to(&mut run),
        2 => field.to(&mut kind),
        3 => field.to(&mut intent),
        _ => Ok(()),
    })?;
    let run = required(run, "work")?;
    match kind {
        1 => Ok(Work::Run(run)),
        2 => Ok(Work::Step(run, intent)),
        3 => Ok(Work::Undo(run, intent)),
        other => Err(Undecodable::new("work", format!("kind {other}"))),
    }
}

fn take_grant(from: Reader<'_>) -> Result<Grant, Undecodable> {
    let (mut work, mut session, mut free_slots) = (None, SessionId(0), 0);
    from.each(|number, field| match number {
        1 => field.message_to(&mut work, take_work),
        2 => field.to(&mut session),
        3 => field.to(&mut free_slots),
        _ => Ok(()),
    })?;
    Ok(Grant {
        work: required(work, "grant")?,
        session,
        free_slots,
    })
}

fn take_admit(from: Reader<'_>) -> Result<Admit, Undecodable> {
    let (mut limit, mut waiters) = (None, Vec::new());
    from.each(|number, field| match number {
        1 => field.to(&mut limit),
        2 => field.one_message_of(&mut waiters, take_work),
        _ => Ok(()),
    })?;
    let limit = required(limit, "admit")?;
    Ok(Admit { limit, waiters })
}

fn take_expire_session(from: Reader<'_>) -> Result<Expire, Undecodable> {
    let (mut session, mut at_most) = (SessionId(0), 0);
    from.each(|number, field| match number {
        1 => field.to(&mut session),
        2 => field.to(&mut at_most),
        _ => Ok(()),
    })?;
    Ok(Expire::Session { session, at_most })
}

fn take_expire_attempt(from: Reader<'_>) -> Result<Expire, Undecodable> {
    let (mut work, mut fence) = (None, Fence::default());
    from.each(|number, field| match number {
        1 => field.message_to(&mut work, take_work),
        2 => field.to(&mut fence),
        _ => Ok(()),
    })?;
    let work = required(work, "expire")?;
    Ok(Expire::Attempt { work, fence })
}

fn take_expire_drive(from: Reader<'_>) -> Result<Expire, Undecodable> {
    let (run, fence) = take_held_run(from)?;
    Ok(Expire::Drive { run, fence })
}

fn take_fire_due(from: Reader<'_>) -> Result<Duty, Undecodable> {
    let (mut up_to, mut at_most) = (Timestamp(0), 0);
    from.each(|number, field| match number {
        1 => field.to(&mut up_to),
        2 => field.to(&mut at_most),
        _ => Ok(()),
    })?;
    Ok(Duty::FireDue { up_to, at_most })
}

fn take_collect(from: Reader<'_>) -> Result<Collect, Undecodable> {
    let nothing = Timestamp(0);
    let mut it = Collect {
        completed: nothing,
        failed: nothing,
        ids: nothing,
        at_most: 0,
    };
    from.each(|number, field| match number {
        1 => field.to(&mut it.completed),
        2 => field.to(&mut it.failed),
        3 => field.to(&mut it.ids),
        4 => field.to(&mut it.at_most),
        _ => Ok(()),
    })?;
    Ok(it)
}
