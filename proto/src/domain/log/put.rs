//! How each entry and command is written: one function per message, fields in the order of their numbers.

use holdfast_scheduler::{
    entry::{
        Advance, Ask, Attach, AttemptOutcome, BecomeLeader, Certainty, Change, Command, Duty,
        Expire, GiveUp, IfEnded, Intent, IntentKind, LimitSpec, RetryPolicy, Return, Start,
        StepResult, StepSpec, TimerSpec, Trouble, Work,
    },
    ids::{LimitName, Name, StepKey, Version},
};

use crate::domain::write::Writer;

pub(super) fn put_become_leader(to: &mut Writer, it: &BecomeLeader) {
    to.uint(1, it.node.0);
    to.text(2, it.incarnation.as_str());
    to.text(3, it.boot.as_str());
    to.uint(4, it.levels.0.0);
    to.uint(5, it.levels.1.0);
    to.uint(6, it.anchor.0);
}

pub(super) fn put_command(to: &mut Writer, command: &Command) {
    match command {
        Command::Ask(ask) => put_ask(to, ask),
        Command::Duty(Duty::Grant(it)) => to.message(32, |to| {
            to.message(1, |to| put_work(to, &it.work));
            to.uint(2, it.session.0);
            to.uint(3, it.free_slots);
        }),
        Command::Duty(Duty::Admit(it)) => to.message(33, |to| {
            to.text(1, it.limit.as_str());
            to.messages(2, &it.waiters, put_work);
        }),
        Command::Duty(Duty::Expire(Expire::Session { session, at_most })) => to.message(34, |to| {
            to.uint(1, session.0);
            to.uint(2, *at_most);
        }),
        Command::Duty(Duty::Expire(Expire::Attempt { work, fence })) => to.message(35, |to| {
            to.message(1, |to| put_work(to, work));
            to.uint(2, fence.number());
        }),
        Command::Duty(Duty::Expire(Expire::Drive { run, fence })) => to.message(36, |to| {
            to.text(1, run.as_str());
            to.uint(2, fence.number());
        }),
        Command::Duty(Duty::FireDue { up_to, at_most }) => to.message(37, |to| {
            to.uint(1, up_to.0);
            to.uint(2, *at_most);
        }),
        Command::Duty(Duty::Collect(it)) => to.message(39, |to| {
            to.uint(1, it.completed.0);
            to.uint(2, it.failed.0);
            to.uint(3, it.ids.0);
            to.uint(4, it.at_most);
        }),
        Command::Duty(Duty::Repair(run)) => to.some_text(38, run.as_str()),
    }
}

fn put_ask(to: &mut Writer, ask: &Ask) {
    match ask {
        Ask::Start(it) => to.message(1, |to| put_start(to, it)),
        Ask::Signal(it) => to.message(2, |to| {
            to.text(1, it.run.as_str());
            to.text(2, it.name.as_str());
            to.text(3, it.id.as_str());
            to.bytes(4, &it.payload);
        }),
        Ask::Cancel(it) => to.message(3, |to| put_change(to, it)),
        Ask::Terminate(it) => to.message(4, |to| put_change(to, it)),
        Ask::Pause(it) => to.message(5, |to| put_change(to, it)),
        Ask::Resume(it) => to.message(6, |to| put_change(to, it)),
        Ask::Retry(it) => to.message(7, |to| {
            to.text(1, it.run.as_str());
            to.opt_text(2, it.step.as_ref().map(Name::as_str));
            to.text(3, it.request.as_str());
        }),
        Ask::Attach(it) => to.message(8, |to| put_attach(to, it)),
        Ask::Advance(it) => to.message(9, |to| put_advance(to, it)),
        Ask::Report(it) => to.message(10, |to| {
            to.text(1, it.run.as_str());
            to.message(2, |to| put_result(to, &it.result));
        }),
        Ask::Progress(it) => to.message(11, |to| {
            to.text(1, it.run.as_str());
            to.uint(2, it.intent.0);
            to.uint(3, it.fence.number());
            to.bytes(4, &it.progress);
        }),
        Ask::Return(it) => to.message(12, |to| put_return(to, it)),
        Ask::Detach(session) => to.some_uint(13, session.0),
        Ask::Deploy(it) => to.message(14, |to| {
            to.text(1, it.workflow.as_str());
            to.uint(2, it.version.0);
            to.text(3, it.request.as_str());
        }),
        Ask::SetLimit(it) => to.message(15, |to| {
            to.text(1, it.name.as_str());
            to.message(2, |to| put_limit_spec(to, &it.spec));
            to.text(3, it.request.as_str());
        }),
        Ask::Noop(bytes) => to.some_bytes(16, bytes),
    }
}

fn put_start(to: &mut Writer, it: &Start) {
    to.text(1, it.run.as_str());
    to.text(2, it.workflow.as_str());
    to.bytes(3, &it.input);
    to.fixed(4, it.digest.0);
    to.opt_uint(5, it.at.map(|at| at.0));
    to.opt_uint(6, it.timeout.map(|timeout| timeout.0));
    to.uint(
        7,
        match it.if_ended {
            IfEnded::ReturnResult => 1_u32,
            IfEnded::Reject => 2,
            IfEnded::NewGeneration => 3,
        },
    );
    to.opt_message(8, it.signal.as_ref(), |to, (name, id, payload)| {
        to.text(1, name.as_str());
        to.text(2, id.as_str());
        to.bytes(3, payload);
    });
}

fn put_change(to: &mut Writer, it: &Change) {
    to.text(1, it.run.as_str());
    to.text(2, &it.reason);
    to.text(3, it.request.as_str());
}

pub(in crate::domain) fn put_registered(to: &mut Writer, (name, version): &(Name, Version)) {
    to.text(1, name.as_str());
    to.uint(2, version.0);
}

fn put_attach(to: &mut Writer, it: &Attach) {
    to.opt_uint(1, it.session.map(|session| session.0));
    to.text(2, it.process.as_str());
    to.text(3, it.worker.as_str());
    to.text(4, it.queue.as_str());
    to.messages(5, &it.workflows, put_registered);
    to.texts(6, it.steps.iter().map(Name::as_str));
    to.messages(7, &it.limits, |to, (name, spec)| {
        to.text(1, name.as_str());
        to.message(2, |to| put_limit_spec(to, spec));
    });
    to.uint(8, it.slots);
}

pub(in crate::domain) fn put_limit_spec(to: &mut Writer, it: &LimitSpec) {
    to.opt_uint(1, it.rate.map(|(count, _)| count));
    to.uint(2, it.rate.map_or(0, |(_, per)| per.0));
    to.uint(3, it.burst);
    to.opt_uint(4, it.concurrency);
}

fn put_advance(to: &mut Writer, it: &Advance) {
    to.text(1, it.run.as_str());
    to.uint(2, it.fence.number());
    to.uint(3, it.number.0);
    to.uint(4, it.seen.0);
    to.messages(5, &it.results, put_result);
    to.messages(6, &it.intents, put_intent);
    to.uint(7, it.free_slots);
    match &it.trouble {
        None => {}
        Some(Trouble::Diverged { key, expected, got }) => to.message(8, |to| {
            to.message(1, |to| put_step_key(to, key));
            to.text(2, expected);
            to.text(3, got);
        }),
        Some(Trouble::Panicked(text)) => to.some_text(9, text),
    }
}

pub(in crate::domain) fn put_step_key(to: &mut Writer, it: &StepKey) {
    to.text(1, &it.scope);
    to.text(2, &it.name);
    to.uint(3, it.occurrence);
}

fn put_result(to: &mut Writer, it: &StepResult) {
    to.uint(1, it.intent.0);
    to.uint(2, it.fence.number());
    to.message(3, |to| put_outcome(to, &it.outcome));
}

fn put_outcome(to: &mut Writer, it: &AttemptOutcome) {
    match it {
        AttemptOutcome::Done(output) => to.some_bytes(1, output),
        AttemptOutcome::Retryable { message, after } => to.message(2, |to| {
            to.text(1, message);
            to.opt_uint(2, after.map(|after| after.0));
        }),
        AttemptOutcome::Terminal { code, message } => {
            to.message(3, |to| put_failure(to, code, message));
        }
        AttemptOutcome::Throttled {
            limit,
            after,
            message,
        } => to.message(4, |to| {
            to.text(1, limit.as_str());
            to.uint(2, after.0);
            to.text(3, message);
        }),
        AttemptOutcome::Panicked(text) => to.some_text(5, text),
        AttemptOutcome::Stopped => to.message(6, |_| {}),
        AttemptOutcome::Absent => to.message(7, |_| {}),
        AttemptOutcome::Unsure(why) => to.some_text(8, why),
    }
}

pub(in crate::domain) fn put_failure(to: &mut Writer, code: &str, message: &str) {
    to.text(1, code);
    to.text(2, message);
}

pub(in crate::domain) fn put_intent(to: &mut Writer, it: &Intent) {
    to.uint(1, it.number.0);
    to.message(2, |to| put_step_key(to, &it.key));
    to.fixed(3, it.digest.0);
    match &it.kind {
        IntentKind::Step(spec) => to.message(4, |to| put_spec(to, spec)),
        IntentKind::Timer(TimerSpec::After(span)) => to.some_uint(5, span.0),
        IntentKind::Timer(TimerSpec::At(at)) => to.some_uint(6, at.0),
        IntentKind::Wait {
            signal,
            timeout,
            ask,
        } => to.message(7, |to| {
            to.text(1, signal.as_str());
            to.opt_uint(2, timeout.map(|timeout| timeout.0));
            to.opt_text(3, ask.as_deref());
        }),
        IntentKind::Record(value) => to.some_bytes(8, value),
        IntentKind::Publish { view, value } => to.message(9, |to| {
            to.text(1, view.as_str());
            to.bytes(2, value);
        }),
        IntentKind::Complete(output) => to.some_bytes(10, output),
        IntentKind::Fail { code, message } => to.message(11, |to| put_failure(to, code, message)),
    }
}

fn put_spec(to: &mut Writer, it: &StepSpec) {
    to.text(1, it.step.as_str());
    to.opt_text(2, it.queue.as_ref().map(Name::as_str));
    to.bytes(3, &it.input);
    to.message(4, |to| put_retry(to, &it.retry));
    to.opt_uint(5, it.timeout.map(|timeout| timeout.0));
    to.opt_uint(6, it.heartbeat.map(|heartbeat| heartbeat.0));
    to.texts(7, it.limits.iter().map(LimitName::as_str));
    to.message(8, |to| put_certainty(to, &it.certainty));
    to.opt_text(9, it.undo.as_ref().map(Name::as_str));
    to.uint(10, it.inline);
}

pub(in crate::domain) fn put_certainty(to: &mut Writer, it: &Certainty) {
    match it {
        Certainty::AtLeastOnce => to.uint(1, 1_u32),
        Certainty::AtMostOnce => to.uint(1, 2_u32),
        Certainty::Reconcile(probe) => {
            to.uint(1, 3_u32);
            to.text(2, probe.as_str());
        }
    }
}

pub(in crate::domain) fn put_retry(to: &mut Writer, it: &RetryPolicy) {
    to.uint(1, it.initial.0);
    to.uint(2, it.factor_percent);
    to.uint(3, it.cap.0);
    to.opt_uint(4, it.max_attempts);
    to.uint(5, it.give_up_after.0);
    to.uint(
        6,
        match it.give_up {
            GiveUp::Pause => 1_u32,
            GiveUp::Fail => 2,
            GiveUp::Compensate => 3,
        },
    );
}

fn put_return(to: &mut Writer, it: &Return) {
    to.messages(1, &it.runs, |to, (run, fence)| {
        to.text(1, run.as_str());
        to.uint(2, fence.number());
    });
    to.messages(2, &it.steps, |to, (run, intent, fence)| {
        to.text(1, run.as_str());
        to.uint(2, intent.0);
        to.uint(3, fence.number());
    });
}

fn put_work(to: &mut Writer, it: &Work) {
    let (kind, intent) = match it {
        Work::Run(_) => (1_u32, 0),
        Work::Step(_, intent) => (2, intent.0),
        Work::Undo(_, intent) => (3, intent.0),
    };
    to.text(1, it.run().as_str());
    to.uint(2, kind);
    to.uint(3, intent);
}
