//! How each row is written: one function per message, fields in the order of their numbers.

use holdfast_scheduler::{
    ids::{Fence, IntentNo, LimitName, Name, ProcessId, RequestId},
    reply::{AdvanceOutcome, End, JournalRow, Outcome},
    values::{
        limit::Limit,
        run::{
            Back, Drive, Finished, Group, LastAdvance, Mode, Open, OpenKind, Run, Session,
            VersionRow,
        },
        step::{Owed, Phase, Step, Tries, TryState},
    },
};

use crate::domain::{
    log::put::{
        put_certainty, put_failure, put_intent, put_limit_spec, put_registered, put_retry,
        put_step_key,
    },
    rows::status_number,
    write::Writer,
};

pub(super) fn put_group(to: &mut Writer, it: &Group) {
    to.uint(1, it.clock.0);
    to.uint(2, it.epoch);
    to.opt_text(3, it.boot.as_ref().map(Name::as_str));
    to.uint(4, it.incarnation);
}

pub(super) fn put_run(to: &mut Writer, it: &Run) {
    to.text(1, it.id.as_str());
    to.uint(2, it.generation.0);
    to.text(3, it.workflow.as_str());
    to.uint(4, it.version.0);
    to.text(5, it.queue.as_str());
    to.fixed(6, it.digest.0);
    to.uint(7, it.started.0);
    to.opt_uint(8, it.due.map(|due| due.0));
    to.message(9, |to| put_mode(to, &it.mode));
    to.opt_uint(10, it.ready.map(|ready| ready.0));
    to.opt_message(11, it.drive.as_ref(), put_drive);
    to.opt_uint(12, it.newest_fence.map(Fence::number));
    to.uint(13, it.next_intent.0);
    to.uint(14, it.next_seq.0);
    to.messages(15, &it.open, put_open);
    to.messages(16, &it.undos, put_owed);
    to.opt_message(17, it.last.as_ref(), put_last);
    to.opt_message(18, it.kept.as_ref(), |to, it| {
        to.uint(1, it.session.0);
        to.uint(2, it.shown_from.0);
    });
    to.texts(19, it.suspects.iter().map(ProcessId::as_str));
    to.uint(20, it.panics);
    to.texts(21, it.requests.iter().map(RequestId::as_str));
    to.uint(22, it.buffered.0);
    to.uint(23, it.buffered.1);
}

fn put_mode(to: &mut Writer, it: &Mode) {
    let (kind, reason, by_system) = match it {
        Mode::Scheduled { .. } => (1_u32, "", false),
        Mode::Live => (2, "", false),
        Mode::Undoing { .. } => (3, "", false),
        Mode::Paused {
            reason, by_system, ..
        } => (4, reason.as_str(), *by_system),
        Mode::Quarantined { evidence, .. } => (5, evidence.as_str(), true),
    };
    to.uint(1, kind);
    to.message(2, |to| match it {
        Mode::Scheduled { at } => to.some_uint(1, at.0),
        Mode::Live => to.message(2, |_| {}),
        Mode::Undoing { end } => to.message(3, |to| put_end(to, end)),
        Mode::Paused { back, .. } | Mode::Quarantined { back, .. } => put_back(to, back),
    });
    to.text(3, reason);
    to.uint(4, by_system);
}

fn put_back(to: &mut Writer, it: &Back) {
    match it {
        Back::Scheduled { at } => to.some_uint(1, at.0),
        Back::Live => to.message(2, |_| {}),
        Back::Undoing { end } => to.message(3, |to| put_end(to, end)),
    }
}

fn put_end(to: &mut Writer, it: &End) {
    match it {
        End::Completed(output) => to.some_bytes(1, output),
        End::Failed { code, message } => to.message(2, |to| put_failure(to, code, message)),
        End::Cancelled(reason) => to.some_text(3, reason),
        End::Terminated { reason, not_undone } => to.message(4, |to| {
            to.text(1, reason);
            to.texts(2, not_undone.iter().map(String::as_str));
        }),
        End::TimedOut => to.message(5, |_| {}),
    }
}

fn put_drive(to: &mut Writer, it: &Drive) {
    to.uint(1, it.session.0);
    to.uint(2, it.fence.number());
    to.uint(3, it.since.0);
    to.uint(4, it.delivery.0);
    to.uint(5, it.seen.0);
    to.uint(6, it.unseen_from.0);
    to.uint(7, it.shown_from.0);
}

fn put_last(to: &mut Writer, it: &LastAdvance) {
    to.uint(1, it.fence.number());
    to.uint(2, it.number.0);
    to.uint(
        3,
        match it.reply.outcome {
            AdvanceOutcome::GoesOn => 1_u32,
            AdvanceOutcome::Suspended => 2,
            AdvanceOutcome::Finished => 3,
            AdvanceOutcome::DeliveriesWait => 4,
            AdvanceOutcome::Interrupted => 5,
            AdvanceOutcome::Superseded => 6,
        },
    );
    to.messages(4, &it.reply.grants, |to, it| {
        to.uint(1, it.intent.0);
        to.uint(2, it.fence.number());
        to.uint(3, it.attempt);
        to.opt_uint(4, it.timeout.map(|timeout| timeout.0));
        to.opt_bytes(5, it.progress.as_deref());
    });
    to.messages(5, &it.reply.deliveries, put_journal);
}

fn put_open(to: &mut Writer, (intent, it): (&IntentNo, &Open)) {
    to.uint(1, intent.0);
    to.message(2, |to| put_step_key(to, &it.key));
    match &it.what {
        OpenKind::Step(step) => to.message(3, |to| put_step(to, step)),
        OpenKind::Timer { due } => to.some_uint(4, due.0),
        OpenKind::Wait {
            signal,
            due,
            ask,
            since,
        } => to.message(5, |to| {
            to.text(1, signal.as_str());
            to.opt_uint(2, due.map(|due| due.0));
            to.opt_text(3, ask.as_deref());
            to.uint(4, since.0);
        }),
    }
}

fn put_step(to: &mut Writer, it: &Step) {
    to.text(1, it.step.as_str());
    to.opt_text(2, it.queue.as_ref().map(Name::as_str));
    to.uint(3, it.seq.0);
    to.message(4, |to| put_retry(to, &it.retry));
    to.opt_uint(5, it.timeout.map(|timeout| timeout.0));
    to.opt_uint(6, it.heartbeat.map(|heartbeat| heartbeat.0));
    to.texts(7, it.limits.iter().map(LimitName::as_str));
    to.message(8, |to| put_certainty(to, &it.certainty));
    to.opt_text(9, it.undo.as_ref().map(Name::as_str));
    to.uint(10, it.phase == Phase::Probe);
    to.uint(11, it.admitted);
    to.message(12, |to| put_tries(to, &it.tries));
}

fn put_tries(to: &mut Writer, it: &Tries) {
    match &it.state {
        TryState::AtLimit { since, ticket } => to.message(1, |to| {
            to.uint(1, since.0);
            to.uint(2, ticket.0);
            to.uint(3, ticket.1);
        }),
        TryState::Scheduled { since } => to.some_uint(2, since.0),
        TryState::Leased(lease) => to.message(3, |to| {
            to.uint(1, lease.session.0);
            to.uint(2, lease.fence.number());
            to.uint(3, lease.since.0);
            to.uint(4, lease.stopping);
        }),
        TryState::Backoff { until, since } => to.message(4, |to| {
            to.uint(1, until.0);
            to.uint(2, since.0);
        }),
        TryState::Held => to.message(5, |_| {}),
    }
    to.uint(6, it.attempt);
    to.uint(7, it.failures);
    to.uint(8, it.spent.0);
    to.text(9, &it.last_error);
    to.opt_bytes(10, it.progress.as_deref());
}

fn put_owed(to: &mut Writer, it: &Owed) {
    to.uint(1, it.intent.0);
    to.text(2, it.step.as_str());
    to.text(3, it.undo.as_str());
    to.text(4, it.queue.as_str());
    to.uint(5, it.seq.0);
    to.opt_uint(6, it.output.map(|seq| seq.0));
    to.uint(7, it.withdrawn);
    to.opt_message(8, it.tries.as_ref(), put_tries);
}

pub(super) fn put_finished(to: &mut Writer, it: &Finished) {
    to.text(1, it.id.as_str());
    to.uint(2, it.generation.0);
    to.text(3, it.workflow.as_str());
    to.uint(4, it.version.0);
    to.fixed(5, it.digest.0);
    to.uint(6, it.started.0);
    to.uint(7, it.ended.0);
    to.message(8, |to| put_end(to, &it.end));
    to.uint(9, it.rows.0);
    to.opt_message(10, it.last.as_ref(), put_last);
    to.uint(11, it.forgotten);
}

pub(super) fn put_journal(to: &mut Writer, it: &JournalRow) {
    to.uint(1, it.seq.0);
    to.uint(2, it.at.0);
    to.uint(3, it.position.0);
    to.uint(4, it.position.1);
    to.opt_uint(5, it.delivery.map(|delivery| delivery.0));
    to.opt_uint(6, it.seen.map(|seen| seen.0));
    to.messages(7, &it.outcomes, put_outcome);
    to.messages(8, &it.intents, put_intent);
    to.opt_text(9, it.cancel.as_deref());
    to.opt_text(10, it.note.as_deref());
}

fn put_outcome(to: &mut Writer, (intent, it): &(IntentNo, Outcome)) {
    to.uint(1, intent.0);
    match it {
        Outcome::Done(output) => to.some_bytes(2, output),
        Outcome::Failed {
            code,
            message,
            attempts,
        } => to.message(3, |to| {
            put_failure(to, code, message);
            to.uint(3, *attempts);
        }),
        Outcome::Fired => to.message(4, |_| {}),
        Outcome::TimedOut => to.message(5, |_| {}),
        Outcome::Cancelled(reason) => to.some_text(6, reason),
    }
}

pub(super) fn put_session(to: &mut Writer, it: &Session) {
    to.uint(1, it.id.0);
    to.text(2, it.process.as_str());
    to.text(3, it.worker.as_str());
    to.text(4, it.queue.as_str());
    to.messages(5, &it.workflows, put_registered);
    to.texts(6, it.steps.iter().map(Name::as_str));
    to.uint(7, it.slots);
    to.uint(8, it.since.0);
    to.uint(9, it.leaving);
}

pub(super) fn put_limit(to: &mut Writer, it: &Limit) {
    to.opt_message(1, it.spec.as_ref(), put_limit_spec);
    to.uint(2, it.tokens_milli);
    to.uint(3, it.refilled.0);
    to.uint(4, it.held);
    to.opt_uint(5, it.closed_until.map(|until| until.0));
    to.uint(6, it.waiting);
    to.opt_uint(7, it.oldest.map(|since| since.0));
}

pub(super) fn put_version(to: &mut Writer, it: &VersionRow) {
    to.text(1, it.name.as_str());
    to.uint(2, it.version.0);
    to.text(3, it.queue.as_str());
    to.messages(4, &it.open, |to, (status, runs)| {
        to.uint(1, status_number(*status));
        to.uint(2, *runs);
    });
}
