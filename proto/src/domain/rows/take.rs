//! How each row is read: one function per message. What is missing and must be there is an `Undecodable`.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use holdfast_scheduler::{
    ids::{AdvanceNo, DeliveryNo, Digest, Fence, Generation, IntentNo, Seq, SessionId, Version},
    reply::{AdvanceOutcome, Advanced, End, JournalRow, Outcome, Status, StepGrant},
    time::{Millis, Timestamp},
    values::{
        limit::Limit,
        run::{
            Back, Buffered, Drive, Finished, Group, Kept, LastAdvance, Mode, Open, OpenKind, Run,
            Session, VersionRow,
        },
        step::{Owed, Phase, Step, StepLease, Tries, TryState},
    },
};

use crate::domain::{
    Undecodable,
    log::take::{
        take_certainty, take_failure, take_intent, take_limit_spec, take_registered, take_retry,
        take_step_key,
    },
    read::{FromField, Reader},
    required,
    rows::status_from,
};

pub(super) fn take_group(from: Reader<'_>) -> Result<Group, Undecodable> {
    let (mut clock, mut epoch, mut boot, mut incarnation) = (Timestamp(0), 0, None, 0);
    from.each(|number, field| match number {
        1 => field.to(&mut clock),
        2 => field.to(&mut epoch),
        3 => field.to(&mut boot),
        4 => field.to(&mut incarnation),
        _ => Ok(()),
    })?;
    Ok(Group {
        clock,
        epoch,
        boot,
        incarnation,
    })
}

pub(super) fn take_run(from: Reader<'_>) -> Result<Run, Undecodable> {
    let (mut id, mut generation, mut digest) = (None, Generation(0), Digest(0));
    let (mut workflow, mut version, mut queue) = (None, Version(0), None);
    let (mut started, mut due, mut mode, mut ready) = (Timestamp(0), None, None, None);
    let (mut drive, mut newest_fence) = (None, None);
    let (mut next_intent, mut next_seq) = (IntentNo(0), Seq(0));
    let (mut open, mut undos, mut last, mut kept) = (BTreeMap::new(), Vec::new(), None, None);
    let (mut suspects, mut panics, mut requests) = (Vec::new(), 0, Vec::new());
    let mut buffered = (0, 0);
    from.each(|number, field| match number {
        1 => field.to(&mut id),
        2 => field.to(&mut generation),
        3 => field.to(&mut workflow),
        4 => field.to(&mut version),
        5 => field.to(&mut queue),
        6 => field.to(&mut digest),
        7 => field.to(&mut started),
        8 => field.to(&mut due),
        9 => field.message_to(&mut mode, take_mode),
        10 => field.to(&mut ready),
        11 => field.message_to(&mut drive, take_drive),
        12 => field.to(&mut newest_fence),
        13 => field.to(&mut next_intent),
        14 => field.to(&mut next_seq),
        15 => {
            let (intent, it) = take_open(field.message()?)?;
            open.insert(intent, it);
            Ok(())
        }
        16 => field.one_message_of(&mut undos, take_owed),
        17 => field.message_to(&mut last, take_last),
        18 => field.message_to(&mut kept, take_kept),
        19 => field.one_of(&mut suspects),
        20 => field.to(&mut panics),
        21 => field.one_of(&mut requests),
        22 => field.to(&mut buffered.0),
        23 => field.to(&mut buffered.1),
        _ => Ok(()),
    })?;
    Ok(Run {
        id: required(id, "run")?,
        generation,
        workflow: required(workflow, "run")?,
        version,
        queue: required(queue, "run")?,
        digest,
        started,
        due,
        mode: required(mode, "run mode")?,
        ready,
        drive,
        newest_fence,
        next_intent,
        next_seq,
        open,
        undos,
        last,
        kept,
        suspects,
        panics,
        requests,
        buffered,
    })
}

fn take_mode(from: Reader<'_>) -> Result<Mode, Undecodable> {
    let (mut kind, mut back, mut reason, mut by_system) = (0_u64, None, String::new(), false);
    from.each(|number, field| match number {
        1 => field.to(&mut kind),
        2 => field.message_to(&mut back, take_back),
        3 => field.to(&mut reason),
        4 => field.to(&mut by_system),
        _ => Ok(()),
    })?;
    Ok(match (kind, required(back, "run mode")?) {
        (1, Back::Scheduled { at }) => Mode::Scheduled { at },
        (2, Back::Live) => Mode::Live,
        (3, Back::Undoing { end }) => Mode::Undoing { end },
        (4, back) => Mode::Paused {
            reason,
            by_system,
            back,
        },
        (5, back) => Mode::Quarantined {
            evidence: reason,
            back,
        },
        (kind, back) => {
            let why = format!("kind {kind} with {back:?}");
            return Err(Undecodable::new("run mode", why));
        }
    })
}

fn take_back(from: Reader<'_>) -> Result<Back, Undecodable> {
    let mut back = None;
    from.each(|number, field| {
        back = Some(match number {
            1 => Back::Scheduled {
                at: Timestamp::from_field(field)?,
            },
            2 => Back::Live,
            3 => Back::Undoing {
                end: take_end(field.message()?)?,
            },
            _ => return Ok(()),
        });
        Ok(())
    })?;
    required(back, "run mode")
}

fn take_end(from: Reader<'_>) -> Result<End, Undecodable> {
    let mut end = None;
    from.each(|number, field| {
        end = Some(match number {
            1 => End::Completed(Bytes::from_field(field)?),
            2 => {
                let (code, message) = take_failure(field.message()?)?;
                End::Failed { code, message }
            }
            3 => End::Cancelled(String::from_field(field)?),
            4 => take_terminated(field.message()?)?,
            5 => End::TimedOut,
            _ => return Ok(()),
        });
        Ok(())
    })?;
    required(end, "end of a run")
}

fn take_terminated(from: Reader<'_>) -> Result<End, Undecodable> {
    let (mut reason, mut not_undone) = (String::new(), Vec::new());
    from.each(|number, field| match number {
        1 => field.to(&mut reason),
        2 => field.one_of(&mut not_undone),
        _ => Ok(()),
    })?;
    Ok(End::Terminated { reason, not_undone })
}

fn take_drive(from: Reader<'_>) -> Result<Drive, Undecodable> {
    let mut drive = Drive {
        session: SessionId(0),
        fence: Fence::default(),
        since: Timestamp(0),
        delivery: DeliveryNo(0),
        seen: DeliveryNo(0),
        unseen_from: Seq(0),
        shown_from: Seq(0),
    };
    from.each(|number, field| match number {
        1 => field.to(&mut drive.session),
        2 => field.to(&mut drive.fence),
        3 => field.to(&mut drive.since),
        4 => field.to(&mut drive.delivery),
        5 => field.to(&mut drive.seen),
        6 => field.to(&mut drive.unseen_from),
        7 => field.to(&mut drive.shown_from),
        _ => Ok(()),
    })?;
    Ok(drive)
}

fn take_kept(from: Reader<'_>) -> Result<Kept, Undecodable> {
    let (mut session, mut shown_from) = (SessionId(0), Seq(0));
    from.each(|number, field| match number {
        1 => field.to(&mut session),
        2 => field.to(&mut shown_from),
        _ => Ok(()),
    })?;
    Ok(Kept {
        session,
        shown_from,
    })
}

fn take_last(from: Reader<'_>) -> Result<LastAdvance, Undecodable> {
    let (mut fence, mut advance, mut outcome) = (Fence::default(), AdvanceNo(0), 0_u64);
    let (mut grants, mut deliveries) = (Vec::new(), Vec::new());
    from.each(|number, field| match number {
        1 => field.to(&mut fence),
        2 => field.to(&mut advance),
        3 => field.to(&mut outcome),
        4 => field.one_message_of(&mut grants, take_grant),
        5 => field.one_message_of(&mut deliveries, take_journal),
        _ => Ok(()),
    })?;
    let outcome = match outcome {
        1 => AdvanceOutcome::GoesOn,
        2 => AdvanceOutcome::Suspended,
        3 => AdvanceOutcome::Finished,
        4 => AdvanceOutcome::DeliveriesWait,
        5 => AdvanceOutcome::Interrupted,
        6 => AdvanceOutcome::Superseded,
        other => return Err(Undecodable::new("last Advance", format!("outcome {other}"))),
    };
    let reply = Advanced {
        number: advance,
        outcome,
        grants,
        deliveries,
    };
    Ok(LastAdvance {
        fence,
        number: advance,
        reply,
    })
}

fn take_grant(from: Reader<'_>) -> Result<StepGrant, Undecodable> {
    let mut grant = StepGrant {
        intent: IntentNo(0),
        fence: Fence::default(),
        attempt: 0,
        timeout: None,
        progress: None,
    };
    from.each(|number, field| match number {
        1 => field.to(&mut grant.intent),
        2 => field.to(&mut grant.fence),
        3 => field.to(&mut grant.attempt),
        4 => field.to(&mut grant.timeout),
        5 => field.to(&mut grant.progress),
        _ => Ok(()),
    })?;
    Ok(grant)
}

fn take_open(from: Reader<'_>) -> Result<(IntentNo, Open), Undecodable> {
    let (mut intent, mut key, mut what) = (IntentNo(0), None, None);
    from.each(|number, field| {
        what = Some(match number {
            1 => return field.to(&mut intent),
            2 => return field.message_to(&mut key, take_step_key),
            3 => OpenKind::Step(Arc::new(take_step(field.message()?)?)),
            4 => OpenKind::Timer {
                due: Timestamp::from_field(field)?,
            },
            5 => take_open_wait(field.message()?)?,
            _ => return Ok(()),
        });
        Ok(())
    })?;
    let (key, what) = (
        required(key, "open intent")?,
        required(what, "open intent")?,
    );
    Ok((intent, Open { key, what }))
}

fn take_open_wait(from: Reader<'_>) -> Result<OpenKind, Undecodable> {
    let (mut signal, mut due, mut ask, mut since) = (None, None, None, Timestamp(0));
    from.each(|number, field| match number {
        1 => field.to(&mut signal),
        2 => field.to(&mut due),
        3 => field.to(&mut ask),
        4 => field.to(&mut since),
        _ => Ok(()),
    })?;
    Ok(OpenKind::Wait {
        signal: required(signal, "open wait")?,
        due,
        ask,
        since,
    })
}

fn take_step(from: Reader<'_>) -> Result<Step, Undecodable> {
    let (mut step, mut queue, mut seq, mut retry) = (None, None, Seq(0), None);
    let (mut timeout, mut heartbeat, mut limits) = (None, None, Vec::new());
    let (mut certainty, mut undo, mut tries) = (None, None, None);
    let (mut probing, mut admitted) = (false, false);
    from.each(|number, field| match number {
        1 => field.to(&mut step),
        2 => field.to(&mut queue),
        3 => field.to(&mut seq),
        4 => field.message_to(&mut retry, take_retry),
        5 => field.to(&mut timeout),
        6 => field.to(&mut heartbeat),
        7 => field.one_of(&mut limits),
        8 => field.message_to(&mut certainty, take_certainty),
        9 => field.to(&mut undo),
        10 => field.to(&mut probing),
        11 => field.to(&mut admitted),
        12 => field.message_to(&mut tries, take_tries),
        _ => Ok(()),
    })?;
    Ok(Step {
        step: required(step, "step")?,
        queue,
        seq,
        retry: required(retry, "step")?,
        timeout,
        heartbeat,
        limits,
        certainty: required(certainty, "step")?,
        undo,
        phase: if probing { Phase::Probe } else { Phase::Body },
        admitted,
        tries: required(tries, "step")?,
    })
}

fn take_tries(from: Reader<'_>) -> Result<Tries, Undecodable> {
    let (mut state, mut attempt, mut failures, mut spent) = (None, 0, 0, Millis(0));
    let (mut last_error, mut progress) = (String::new(), None);
    from.each(|number, field| {
        state = Some(match number {
            1 => take_at_limit(field.message()?)?,
            2 => TryState::Scheduled {
                since: Timestamp::from_field(field)?,
            },
            3 => TryState::Leased(take_step_lease(field.message()?)?),
            4 => take_backoff(field.message()?)?,
            5 => TryState::Held,
            6 => return field.to(&mut attempt),
            7 => return field.to(&mut failures),
            8 => return field.to(&mut spent),
            9 => return field.to(&mut last_error),
            10 => return field.to(&mut progress),
            _ => return Ok(()),
        });
        Ok(())
    })?;
    Ok(Tries {
        state: required(state, "attempts")?,
        attempt,
        failures,
        spent,
        last_error,
        progress,
    })
}

fn take_at_limit(from: Reader<'_>) -> Result<TryState, Undecodable> {
    let (mut since, mut ticket) = (Timestamp(0), (0, 0));
    from.each(|number, field| match number {
        1 => field.to(&mut since),
        2 => field.to(&mut ticket.0),
        3 => field.to(&mut ticket.1),
        _ => Ok(()),
    })?;
    Ok(TryState::AtLimit { since, ticket })
}

fn take_step_lease(from: Reader<'_>) -> Result<StepLease, Undecodable> {
    let mut lease = StepLease {
        session: SessionId(0),
        fence: Fence::default(),
        since: Timestamp(0),
        stopping: false,
    };
    from.each(|number, field| match number {
        1 => field.to(&mut lease.session),
        2 => field.to(&mut lease.fence),
        3 => field.to(&mut lease.since),
        4 => field.to(&mut lease.stopping),
        _ => Ok(()),
    })?;
    Ok(lease)
}

fn take_backoff(from: Reader<'_>) -> Result<TryState, Undecodable> {
    let (mut until, mut since) = (Timestamp(0), Timestamp(0));
    from.each(|number, field| match number {
        1 => field.to(&mut until),
        2 => field.to(&mut since),
        _ => Ok(()),
    })?;
    Ok(TryState::Backoff { until, since })
}

fn take_owed(from: Reader<'_>) -> Result<Owed, Undecodable> {
    let (mut intent, mut step, mut undo, mut queue) = (IntentNo(0), None, None, None);
    let (mut seq, mut output, mut withdrawn, mut tries) = (Seq(0), None, false, None);
    from.each(|number, field| match number {
        1 => field.to(&mut intent),
        2 => field.to(&mut step),
        3 => field.to(&mut undo),
        4 => field.to(&mut queue),
        5 => field.to(&mut seq),
        6 => field.to(&mut output),
        7 => field.to(&mut withdrawn),
        8 => field.message_to(&mut tries, take_tries),
        _ => Ok(()),
    })?;
    Ok(Owed {
        intent,
        step: required(step, "undo owed")?,
        undo: required(undo, "undo owed")?,
        queue: required(queue, "undo owed")?,
        seq,
        output,
        withdrawn,
        tries,
    })
}

pub(super) fn take_finished(from: Reader<'_>) -> Result<Finished, Undecodable> {
    let (mut id, mut generation, mut digest) = (None, Generation(0), Digest(0));
    let (mut workflow, mut version) = (None, Version(0));
    let (mut started, mut ended) = (Timestamp(0), Timestamp(0));
    let (mut end, mut rows, mut last, mut forgotten) = (None, Seq(0), None, false);
    from.each(|number, field| match number {
        1 => field.to(&mut id),
        2 => field.to(&mut generation),
        3 => field.to(&mut workflow),
        4 => field.to(&mut version),
        5 => field.to(&mut digest),
        6 => field.to(&mut started),
        7 => field.to(&mut ended),
        8 => field.message_to(&mut end, take_end),
        9 => field.to(&mut rows),
        10 => field.message_to(&mut last, take_last),
        11 => field.to(&mut forgotten),
        _ => Ok(()),
    })?;
    Ok(Finished {
        id: required(id, "finished run")?,
        generation,
        workflow: required(workflow, "finished run")?,
        version,
        digest,
        started,
        ended,
        end: required(end, "finished run")?,
        rows,
        last,
        forgotten,
    })
}

pub(super) fn take_journal(from: Reader<'_>) -> Result<JournalRow, Undecodable> {
    let mut row = JournalRow {
        seq: Seq(0),
        at: Timestamp(0),
        position: (0, 0),
        delivery: None,
        seen: None,
        outcomes: Vec::new(),
        intents: Vec::new(),
        cancel: None,
        note: None,
    };
    from.each(|number, field| match number {
        1 => field.to(&mut row.seq),
        2 => field.to(&mut row.at),
        3 => field.to(&mut row.position.0),
        4 => field.to(&mut row.position.1),
        5 => field.to(&mut row.delivery),
        6 => field.to(&mut row.seen),
        7 => field.one_message_of(&mut row.outcomes, take_outcome),
        8 => field.one_message_of(&mut row.intents, take_intent),
        9 => field.to(&mut row.cancel),
        10 => field.to(&mut row.note),
        _ => Ok(()),
    })?;
    Ok(row)
}

fn take_outcome(from: Reader<'_>) -> Result<(IntentNo, Outcome), Undecodable> {
    let (mut intent, mut outcome) = (IntentNo(0), None);
    from.each(|number, field| {
        outcome = Some(match number {
            1 => return field.to(&mut intent),
            2 => Outcome::Done(Bytes::from_field(field)?),
            3 => take_step_failed(field.message()?)?,
            4 => Outcome::Fired,
            5 => Outcome::TimedOut,
            6 => Outcome::Cancelled(String::from_field(field)?),
            _ => return Ok(()),
        });
        Ok(())
    })?;
    Ok((intent, required(outcome, "outcome")?))
}

fn take_step_failed(from: Reader<'_>) -> Result<Outcome, Undecodable> {
    let (mut code, mut message, mut attempts) = (String::new(), String::new(), 0);
    from.each(|number, field| match number {
        1 => field.to(&mut code),
        2 => field.to(&mut message),
        3 => field.to(&mut attempts),
        _ => Ok(()),
    })?;
    Ok(Outcome::Failed {
        code,
        message,
        attempts,
    })
}

pub(super) fn take_signal(from: Reader<'_>) -> Result<Buffered, Undecodable> {
    let (mut id, mut payload) = (None, Bytes::new());
    from.each(|number, field| match number {
        1 => field.to(&mut id),
        2 => field.to(&mut payload),
        _ => Ok(()),
    })?;
    let id = required(id, "buffered signal")?;
    Ok(Buffered { id, payload })
}

pub(super) fn take_session(from: Reader<'_>) -> Result<Session, Undecodable> {
    let (mut id, mut process, mut worker, mut queue) = (SessionId(0), None, None, None);
    let (mut workflows, mut steps, mut slots) = (Vec::new(), Vec::new(), 0);
    let (mut since, mut leaving) = (Timestamp(0), false);
    from.each(|number, field| match number {
        1 => field.to(&mut id),
        2 => field.to(&mut process),
        3 => field.to(&mut worker),
        4 => field.to(&mut queue),
        5 => field.one_message_of(&mut workflows, take_registered),
        6 => field.one_of(&mut steps),
        7 => field.to(&mut slots),
        8 => field.to(&mut since),
        9 => field.to(&mut leaving),
        _ => Ok(()),
    })?;
    Ok(Session {
        id,
        process: required(process, "session")?,
        worker: required(worker, "session")?,
        queue: required(queue, "session")?,
        workflows,
        steps,
        slots,
        since,
        leaving,
    })
}

pub(super) fn take_limit(from: Reader<'_>) -> Result<Limit, Undecodable> {
    let mut limit = Limit {
        spec: None,
        tokens_milli: 0,
        refilled: Timestamp(0),
        held: 0,
        closed_until: None,
        waiting: 0,
        oldest: None,
    };
    from.each(|number, field| match number {
        1 => field.message_to(&mut limit.spec, take_limit_spec),
        2 => field.to(&mut limit.tokens_milli),
        3 => field.to(&mut limit.refilled),
        4 => field.to(&mut limit.held),
        5 => field.to(&mut limit.closed_until),
        6 => field.to(&mut limit.waiting),
        7 => field.to(&mut limit.oldest),
        _ => Ok(()),
    })?;
    Ok(limit)
}

pub(super) fn take_version(from: Reader<'_>) -> Result<VersionRow, Undecodable> {
    let (mut name, mut version, mut queue, mut open) = (None, Version(0), None, BTreeMap::new());
    from.each(|number, field| match number {
        1 => field.to(&mut name),
        2 => field.to(&mut version),
        3 => field.to(&mut queue),
        4 => {
            let (status, runs) = take_open_runs(field.message()?)?;
            open.insert(status, runs);
            Ok(())
        }
        _ => Ok(()),
    })?;
    Ok(VersionRow {
        name: required(name, "version")?,
        version,
        queue: required(queue, "version")?,
        open,
    })
}

fn take_open_runs(from: Reader<'_>) -> Result<(Status, u64), Undecodable> {
    let (mut status, mut runs) = (0, 0);
    from.each(|number, field| match number {
        1 => field.to(&mut status),
        2 => field.to(&mut runs),
        _ => Ok(()),
    })?;
    Ok((status_from(status)?, runs))
}
