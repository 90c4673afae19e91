//! Rows: the core's values and their bytes, `format u8` + a message of `stored/rows.proto`.
//!
//! Invariant: the same row gives the same bytes on every node (the digest is over them); any bytes give a row or an
//! `Undecodable`, never a panic.

use std::{collections::BTreeMap, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use holdfast_scheduler::{
    ids::{
        AdvanceNo, DeliveryNo, Digest, Fence, Generation, IntentNo, LimitName, Name, ProcessId,
        RequestId, RunId, Seq, SessionId, Version,
    },
    reply::{AdvanceOutcome, Advanced, End, JournalRow, Outcome, Status, StepGrant},
    rows::{Key, Row},
    time::{Millis, Timestamp},
    values::{
        limit::Limit,
        run::{
            Back, Buffered, Drive, Finished, Group, Kept, LastAdvance, Mode, Open, OpenKind, Run,
            Session, VersionRow, Workflow,
        },
        step::{Owed, Phase, Step, StepLease, Tries, TryState},
    },
};

use super::{Undecodable, log, required};
use crate::stored as s;

const FORMAT: u8 = 1;

/// The bytes of a row.
pub fn encode(row: &Row) -> Bytes {
    match row {
        Row::Group(it) => message(&group_to(it)),
        Row::Run(it) => message(&run_to(it)),
        Row::Finished(it) => message(&finished_to(it)),
        Row::Bytes(it) => {
            let mut out = BytesMut::with_capacity(it.len() + 1);
            out.put_u8(FORMAT);
            out.put_slice(it);
            out.freeze()
        }
        Row::Journal(it) => message(&journal_to(it)),
        Row::Signal(it) => message(&s::SignalRow {
            id: it.id.to_string(),
            payload: it.payload.clone(),
        }),
        Row::Mark => Bytes::from_static(&[FORMAT]),
        Row::Session(it) => message(&session_to(it)),
        Row::Limit(it) => message(&limit_to(it)),
        Row::Workflow(it) => message(&s::WorkflowRow {
            name: it.name.to_string(),
            current: it.current.0,
        }),
        Row::Version(it) => message(&version_to(it)),
    }
}

fn message(it: &impl Message) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + it.encoded_len());
    out.put_u8(FORMAT);
    it.encode_raw(&mut out);
    out.freeze()
}

/// The row under this key.
///
/// # Errors
/// `Undecodable`: the bytes are no such row, or of a newer release; this replica must stop.
pub fn decode(key: &Key, bytes: &Bytes) -> Result<Row, Undecodable> {
    let bad = |why: &str| Undecodable::new("row", why);
    if bytes.first() != Some(&FORMAT) {
        return Err(bad("its format is unknown; a newer release wrote it"));
    }
    let body = bytes.slice(1..);
    Ok(match key {
        Key::Group => Row::Group(group_from(parse(body)?)?),
        Key::Run(_) => Row::Run(Arc::new(run_from(parse(body)?)?)),
        Key::Finished(_) => Row::Finished(Arc::new(finished_from(parse(body)?)?)),
        Key::Input(..) | Key::View(..) => Row::Bytes(body),
        Key::Journal(..) => Row::Journal(journal_from(parse(body)?)?),
        Key::Signal(..) => {
            let it: s::SignalRow = parse(body)?;
            Row::Signal(Buffered {
                id: RequestId::from_stored(&it.id),
                payload: it.payload,
            })
        }
        Key::Seen(..) | Key::ByClass(..) | Key::ByWorkflow(..) | Key::ByTime(..) => Row::Mark,
        Key::Session(_) => Row::Session(session_from(&parse(body)?)),
        Key::Limit(_) => Row::Limit(limit_from(&parse(body)?)),
        Key::Workflow(_) => {
            let it: s::WorkflowRow = parse(body)?;
            Row::Workflow(Workflow {
                name: Name::from_stored(&it.name),
                current: Version(it.current),
            })
        }
        Key::Version(..) => Row::Version(version_from(&parse(body)?)?),
    })
}

fn parse<M: Message + Default>(body: Bytes) -> Result<M, Undecodable> {
    M::decode(body).map_err(|cause| Undecodable::new("row", cause.to_string()))
}

fn group_to(it: &Group) -> s::GroupRow {
    s::GroupRow {
        clock_ms: it.clock.0,
        epoch: it.epoch,
        boot: it.boot.as_ref().map(Name::to_string),
        incarnation: u32::from(it.incarnation),
    }
}

fn group_from(it: s::GroupRow) -> Result<Group, Undecodable> {
    Ok(Group {
        clock: Timestamp(it.clock_ms),
        epoch: it.epoch,
        boot: it.boot.as_deref().map(Name::from_stored),
        incarnation: u8::try_from(it.incarnation)
            .map_err(|_| Undecodable::new("group row", "its incarnation is out of range"))?,
    })
}

fn run_to(it: &Run) -> s::RunRow {
    s::RunRow {
        id: it.id.to_string(),
        generation: it.generation.0,
        workflow: it.workflow.to_string(),
        version: it.version.0,
        queue: it.queue.to_string(),
        digest: it.digest.0,
        started_ms: it.started.0,
        due_ms: it.due.map(|due| due.0),
        mode: Some(mode_to(&it.mode)),
        ready_ms: it.ready.map(|ready| ready.0),
        drive: it.drive.as_ref().map(drive_to),
        newest_fence: it.newest_fence.map(Fence::number),
        next_intent: it.next_intent.0,
        next_seq: it.next_seq.0,
        open: it.open.iter().map(open_to).collect(),
        undos: it.undos.iter().map(owed_to).collect(),
        last: it.last.as_ref().map(last_to),
        kept: it.kept.as_ref().map(kept_to),
        suspects: it.suspects.iter().map(ProcessId::to_string).collect(),
        panics: it.panics,
        requests: it.requests.iter().map(RequestId::to_string).collect(),
        buffered: it.buffered.0,
        buffered_bytes: it.buffered.1,
    }
}

fn run_from(it: s::RunRow) -> Result<Run, Undecodable> {
    let mut open = BTreeMap::new();
    for item in it.open {
        open.insert(IntentNo(item.intent), open_from(item)?);
    }
    Ok(Run {
        id: RunId::from_stored(&it.id),
        generation: Generation(it.generation),
        workflow: Name::from_stored(&it.workflow),
        version: Version(it.version),
        queue: Name::from_stored(&it.queue),
        digest: Digest(it.digest),
        started: Timestamp(it.started_ms),
        due: it.due_ms.map(Timestamp),
        mode: mode_from(required(it.mode, "run mode")?)?,
        ready: it.ready_ms.map(Timestamp),
        drive: it.drive.as_ref().map(drive_from),
        newest_fence: it.newest_fence.map(Fence::from_wire),
        next_intent: IntentNo(it.next_intent),
        next_seq: Seq(it.next_seq),
        open,
        undos: it
            .undos
            .into_iter()
            .map(owed_from)
            .collect::<Result<_, _>>()?,
        last: it.last.map(last_from).transpose()?,
        kept: it.kept.as_ref().map(kept_from),
        suspects: it
            .suspects
            .iter()
            .map(|process| ProcessId::from_stored(process))
            .collect(),
        panics: it.panics,
        requests: it
            .requests
            .iter()
            .map(|request| RequestId::from_stored(request))
            .collect(),
        buffered: (it.buffered, it.buffered_bytes),
    })
}

fn mode_to(it: &Mode) -> s::Mode {
    let mode = |kind, back: Back, reason: &str, by_system| s::Mode {
        kind,
        back: Some(back_to(&back)),
        reason: reason.to_owned(),
        by_system,
    };
    match it {
        Mode::Scheduled { at } => mode(1, Back::Scheduled { at: *at }, "", false),
        Mode::Live => mode(2, Back::Live, "", false),
        Mode::Undoing { end } => mode(3, Back::Undoing { end: end.clone() }, "", false),
        Mode::Paused {
            reason,
            by_system,
            back,
        } => mode(4, back.clone(), reason, *by_system),
        Mode::Quarantined { evidence, back } => mode(5, back.clone(), evidence, true),
    }
}

fn mode_from(it: s::Mode) -> Result<Mode, Undecodable> {
    let back = back_from(required(it.back, "run mode")?)?;
    Ok(match (it.kind, back) {
        (1, Back::Scheduled { at }) => Mode::Scheduled { at },
        (2, Back::Live) => Mode::Live,
        (3, Back::Undoing { end }) => Mode::Undoing { end },
        (4, back) => Mode::Paused {
            reason: it.reason,
            by_system: it.by_system,
            back,
        },
        (5, back) => Mode::Quarantined {
            evidence: it.reason,
            back,
        },
        (kind, back) => {
            return Err(Undecodable::new(
                "run mode",
                format!("kind {kind} with {back:?}"),
            ));
        }
    })
}

fn back_to(it: &Back) -> s::Back {
    use s::back::Kind;
    let kind = match it {
        Back::Scheduled { at } => Kind::ScheduledMs(at.0),
        Back::Live => Kind::Live(s::Nothing {}),
        Back::Undoing { end } => Kind::Undoing(end_to(end)),
    };
    s::Back { kind: Some(kind) }
}

fn back_from(it: s::Back) -> Result<Back, Undecodable> {
    use s::back::Kind;
    Ok(match required(it.kind, "run mode")? {
        Kind::ScheduledMs(at) => Back::Scheduled { at: Timestamp(at) },
        Kind::Live(_) => Back::Live,
        Kind::Undoing(end) => Back::Undoing {
            end: end_from(end)?,
        },
    })
}

fn end_to(it: &End) -> s::End {
    use s::end::Kind;
    let kind = match it {
        End::Completed(output) => Kind::Completed(output.clone()),
        End::Failed { code, message } => Kind::Failed(s::Failure {
            code: code.clone(),
            message: message.clone(),
        }),
        End::Cancelled(reason) => Kind::Cancelled(reason.clone()),
        End::Terminated { reason, not_undone } => Kind::Terminated(s::Terminated {
            reason: reason.clone(),
            not_undone: not_undone.clone(),
        }),
        End::TimedOut => Kind::TimedOut(s::Nothing {}),
    };
    s::End { kind: Some(kind) }
}

fn end_from(it: s::End) -> Result<End, Undecodable> {
    use s::end::Kind;
    Ok(match required(it.kind, "end of a run")? {
        Kind::Completed(output) => End::Completed(output),
        Kind::Failed(it) => End::Failed {
            code: it.code,
            message: it.message,
        },
        Kind::Cancelled(reason) => End::Cancelled(reason),
        Kind::Terminated(it) => End::Terminated {
            reason: it.reason,
            not_undone: it.not_undone,
        },
        Kind::TimedOut(_) => End::TimedOut,
    })
}

fn drive_to(it: &Drive) -> s::Drive {
    s::Drive {
        session: it.session.0,
        fence: it.fence.number(),
        since_ms: it.since.0,
        delivery: it.delivery.0,
        seen: it.seen.0,
        unseen_from: it.unseen_from.0,
        shown_from: it.shown_from.0,
    }
}

fn drive_from(it: &s::Drive) -> Drive {
    Drive {
        session: SessionId(it.session),
        fence: Fence::from_wire(it.fence),
        since: Timestamp(it.since_ms),
        delivery: DeliveryNo(it.delivery),
        seen: DeliveryNo(it.seen),
        unseen_from: Seq(it.unseen_from),
        shown_from: Seq(it.shown_from),
    }
}

fn kept_to(it: &Kept) -> s::Kept {
    s::Kept {
        session: it.session.0,
        shown_from: it.shown_from.0,
    }
}

fn kept_from(it: &s::Kept) -> Kept {
    Kept {
        session: SessionId(it.session),
        shown_from: Seq(it.shown_from),
    }
}

fn last_to(it: &LastAdvance) -> s::LastAdvance {
    s::LastAdvance {
        fence: it.fence.number(),
        number: it.number.0,
        outcome: match it.reply.outcome {
            AdvanceOutcome::GoesOn => 1,
            AdvanceOutcome::Suspended => 2,
            AdvanceOutcome::Finished => 3,
            AdvanceOutcome::DeliveriesWait => 4,
            AdvanceOutcome::Interrupted => 5,
            AdvanceOutcome::Superseded => 6,
        },
        grants: it.reply.grants.iter().map(grant_to).collect(),
        deliveries: it.reply.deliveries.iter().map(journal_to).collect(),
    }
}

fn last_from(it: s::LastAdvance) -> Result<LastAdvance, Undecodable> {
    let outcome = match it.outcome {
        1 => AdvanceOutcome::GoesOn,
        2 => AdvanceOutcome::Suspended,
        3 => AdvanceOutcome::Finished,
        4 => AdvanceOutcome::DeliveriesWait,
        5 => AdvanceOutcome::Interrupted,
        6 => AdvanceOutcome::Superseded,
        other => return Err(Undecodable::new("last Advance", format!("outcome {other}"))),
    };
    let number = AdvanceNo(it.number);
    let grants = it.grants.into_iter().map(grant_from).collect();
    let deliveries = it
        .deliveries
        .into_iter()
        .map(journal_from)
        .collect::<Result<_, _>>()?;
    let reply = Advanced {
        number,
        outcome,
        grants,
        deliveries,
    };
    Ok(LastAdvance {
        fence: Fence::from_wire(it.fence),
        number,
        reply,
    })
}

fn grant_to(it: &StepGrant) -> s::StepGrant {
    s::StepGrant {
        intent: it.intent.0,
        fence: it.fence.number(),
        attempt: it.attempt,
        timeout_ms: it.timeout.map(|timeout| timeout.0),
        progress: it.progress.clone(),
    }
}

fn grant_from(it: s::StepGrant) -> StepGrant {
    StepGrant {
        intent: IntentNo(it.intent),
        fence: Fence::from_wire(it.fence),
        attempt: it.attempt,
        timeout: it.timeout_ms.map(Millis),
        progress: it.progress,
    }
}

fn open_to((intent, it): (&IntentNo, &Open)) -> s::Open {
    use s::open::What;
    let what = match &it.what {
        OpenKind::Step(step) => What::Step(step_to(step)),
        OpenKind::Timer { due } => What::TimerDueMs(due.0),
        OpenKind::Wait {
            signal,
            due,
            ask,
            since,
        } => What::Wait(s::OpenWait {
            signal: signal.to_string(),
            due_ms: due.map(|due| due.0),
            ask: ask.clone(),
            since_ms: since.0,
        }),
    };
    s::Open {
        intent: intent.0,
        key: Some(log::step_key_to(&it.key)),
        what: Some(what),
    }
}

fn open_from(it: s::Open) -> Result<Open, Undecodable> {
    use s::open::What;
    let what = match required(it.what, "open intent")? {
        What::Step(step) => OpenKind::Step(Box::new(step_from(step)?)),
        What::TimerDueMs(due) => OpenKind::Timer {
            due: Timestamp(due),
        },
        What::Wait(it) => OpenKind::Wait {
            signal: Name::from_stored(&it.signal),
            due: it.due_ms.map(Timestamp),
            ask: it.ask,
            since: Timestamp(it.since_ms),
        },
    };
    Ok(Open {
        key: log::step_key_from(&required(it.key, "open intent")?),
        what,
    })
}

fn step_to(it: &Step) -> s::Step {
    s::Step {
        step: it.step.to_string(),
        queue: it.queue.as_ref().map(Name::to_string),
        seq: it.seq.0,
        retry: Some(log::retry_to(&it.retry)),
        timeout_ms: it.timeout.map(|timeout| timeout.0),
        heartbeat_ms: it.heartbeat.map(|heartbeat| heartbeat.0),
        limits: it.limits.iter().map(LimitName::to_string).collect(),
        certainty: Some(log::certainty_to(&it.certainty)),
        undo: it.undo.as_ref().map(Name::to_string),
        probing: it.phase == Phase::Probe,
        admitted: it.admitted,
        tries: Some(tries_to(&it.tries)),
    }
}

fn step_from(it: s::Step) -> Result<Step, Undecodable> {
    Ok(Step {
        step: Name::from_stored(&it.step),
        queue: it.queue.as_deref().map(Name::from_stored),
        seq: Seq(it.seq),
        retry: log::retry_from(&required(it.retry, "step")?)?,
        timeout: it.timeout_ms.map(Millis),
        heartbeat: it.heartbeat_ms.map(Millis),
        limits: it
            .limits
            .iter()
            .map(|limit| LimitName::from_stored(limit))
            .collect(),
        certainty: log::certainty_from(&required(it.certainty, "step")?)?,
        undo: it.undo.as_deref().map(Name::from_stored),
        phase: if it.probing {
            Phase::Probe
        } else {
            Phase::Body
        },
        admitted: it.admitted,
        tries: tries_from(required(it.tries, "step")?)?,
    })
}

fn tries_to(it: &Tries) -> s::Tries {
    use s::tries::State;
    let state = match &it.state {
        TryState::AtLimit { since, ticket } => State::AtLimit(s::AtLimit {
            since_ms: since.0,
            ticket_index: ticket.0,
            ticket_nth: ticket.1,
        }),
        TryState::Scheduled { since } => State::ScheduledMs(since.0),
        TryState::Leased(lease) => State::Leased(s::StepLease {
            session: lease.session.0,
            fence: lease.fence.number(),
            since_ms: lease.since.0,
            stopping: lease.stopping,
        }),
        TryState::Backoff { until, since } => State::Backoff(s::Backoff {
            until_ms: until.0,
            since_ms: since.0,
        }),
        TryState::Held => State::Held(s::Nothing {}),
    };
    s::Tries {
        state: Some(state),
        attempt: it.attempt,
        failures: it.failures,
        spent_ms: it.spent.0,
        last_error: it.last_error.clone(),
        progress: it.progress.clone(),
    }
}

fn tries_from(it: s::Tries) -> Result<Tries, Undecodable> {
    use s::tries::State;
    let state = match required(it.state, "attempts")? {
        State::AtLimit(it) => TryState::AtLimit {
            since: Timestamp(it.since_ms),
            ticket: (it.ticket_index, it.ticket_nth),
        },
        State::ScheduledMs(since) => TryState::Scheduled {
            since: Timestamp(since),
        },
        State::Leased(it) => TryState::Leased(StepLease {
            session: SessionId(it.session),
            fence: Fence::from_wire(it.fence),
            since: Timestamp(it.since_ms),
            stopping: it.stopping,
        }),
        State::Backoff(it) => TryState::Backoff {
            until: Timestamp(it.until_ms),
            since: Timestamp(it.since_ms),
        },
        State::Held(_) => TryState::Held,
    };
    Ok(Tries {
        state,
        attempt: it.attempt,
        failures: it.failures,
        spent: Millis(it.spent_ms),
        last_error: it.last_error,
        progress: it.progress,
    })
}

fn owed_to(it: &Owed) -> s::Owed {
    s::Owed {
        intent: it.intent.0,
        step: it.step.to_string(),
        undo: it.undo.to_string(),
        queue: it.queue.to_string(),
        seq: it.seq.0,
        output: it.output.map(|seq| seq.0),
        withdrawn: it.withdrawn,
        tries: it.tries.as_ref().map(tries_to),
    }
}

fn owed_from(it: s::Owed) -> Result<Owed, Undecodable> {
    Ok(Owed {
        intent: IntentNo(it.intent),
        step: Name::from_stored(&it.step),
        undo: Name::from_stored(&it.undo),
        queue: Name::from_stored(&it.queue),
        seq: Seq(it.seq),
        output: it.output.map(Seq),
        withdrawn: it.withdrawn,
        tries: it.tries.map(tries_from).transpose()?,
    })
}

fn finished_to(it: &Finished) -> s::FinishedRow {
    s::FinishedRow {
        id: it.id.to_string(),
        generation: it.generation.0,
        workflow: it.workflow.to_string(),
        version: it.version.0,
        digest: it.digest.0,
        started_ms: it.started.0,
        ended_ms: it.ended.0,
        end: Some(end_to(&it.end)),
        rows: it.rows.0,
        last: it.last.as_ref().map(last_to),
    }
}

fn finished_from(it: s::FinishedRow) -> Result<Finished, Undecodable> {
    Ok(Finished {
        id: RunId::from_stored(&it.id),
        generation: Generation(it.generation),
        workflow: Name::from_stored(&it.workflow),
        version: Version(it.version),
        digest: Digest(it.digest),
        started: Timestamp(it.started_ms),
        ended: Timestamp(it.ended_ms),
        end: end_from(required(it.end, "finished run")?)?,
        rows: Seq(it.rows),
        last: it.last.map(last_from).transpose()?,
    })
}

fn journal_to(it: &JournalRow) -> s::JournalRow {
    s::JournalRow {
        seq: it.seq.0,
        at_ms: it.at.0,
        index: it.position.0,
        slot: it.position.1,
        delivery: it.delivery.map(|delivery| delivery.0),
        seen: it.seen.map(|seen| seen.0),
        outcomes: it.outcomes.iter().map(outcome_to).collect(),
        intents: it.intents.iter().map(log::intent_to).collect(),
        cancel: it.cancel.clone(),
        note: it.note.clone(),
    }
}

fn journal_from(it: s::JournalRow) -> Result<JournalRow, Undecodable> {
    Ok(JournalRow {
        seq: Seq(it.seq),
        at: Timestamp(it.at_ms),
        position: (it.index, it.slot),
        delivery: it.delivery.map(DeliveryNo),
        seen: it.seen.map(DeliveryNo),
        outcomes: it
            .outcomes
            .into_iter()
            .map(outcome_from)
            .collect::<Result<_, _>>()?,
        intents: it
            .intents
            .into_iter()
            .map(log::intent_from)
            .collect::<Result<_, _>>()?,
        cancel: it.cancel,
        note: it.note,
    })
}

fn outcome_to((intent, it): &(IntentNo, Outcome)) -> s::Outcome {
    use s::outcome::Kind;
    let kind = match it {
        Outcome::Done(output) => Kind::Done(output.clone()),
        Outcome::Failed {
            code,
            message,
            attempts,
        } => Kind::Failed(s::StepFailed {
            code: code.clone(),
            message: message.clone(),
            attempts: *attempts,
        }),
        Outcome::Fired => Kind::Fired(s::Nothing {}),
        Outcome::TimedOut => Kind::TimedOut(s::Nothing {}),
        Outcome::Cancelled(reason) => Kind::Cancelled(reason.clone()),
    };
    s::Outcome {
        intent: intent.0,
        kind: Some(kind),
    }
}

fn outcome_from(it: s::Outcome) -> Result<(IntentNo, Outcome), Undecodable> {
    use s::outcome::Kind;
    let outcome = match required(it.kind, "outcome")? {
        Kind::Done(output) => Outcome::Done(output),
        Kind::Failed(it) => Outcome::Failed {
            code: it.code,
            message: it.message,
            attempts: it.attempts,
        },
        Kind::Fired(_) => Outcome::Fired,
        Kind::TimedOut(_) => Outcome::TimedOut,
        Kind::Cancelled(reason) => Outcome::Cancelled(reason),
    };
    Ok((IntentNo(it.intent), outcome))
}

fn session_to(it: &Session) -> s::SessionRow {
    s::SessionRow {
        id: it.id.0,
        process: it.process.to_string(),
        worker: it.worker.to_string(),
        queue: it.queue.to_string(),
        workflows: it.workflows.iter().map(log::registered_to).collect(),
        steps: it.steps.iter().map(Name::to_string).collect(),
        slots: it.slots,
        since_ms: it.since.0,
        leaving: it.leaving,
    }
}

fn session_from(it: &s::SessionRow) -> Session {
    Session {
        id: SessionId(it.id),
        process: ProcessId::from_stored(&it.process),
        worker: Name::from_stored(&it.worker),
        queue: Name::from_stored(&it.queue),
        workflows: it.workflows.iter().map(log::registered_from).collect(),
        steps: it
            .steps
            .iter()
            .map(|step| Name::from_stored(step))
            .collect(),
        slots: it.slots,
        since: Timestamp(it.since_ms),
        leaving: it.leaving,
    }
}

fn limit_to(it: &Limit) -> s::LimitRow {
    s::LimitRow {
        spec: it.spec.as_ref().map(log::limit_spec_to),
        tokens_milli: it.tokens_milli,
        refilled_ms: it.refilled.0,
        held: it.held,
        closed_until_ms: it.closed_until.map(|until| until.0),
        waiting: it.waiting,
        oldest_ms: it.oldest.map(|since| since.0),
    }
}

fn limit_from(it: &s::LimitRow) -> Limit {
    Limit {
        spec: it.spec.as_ref().map(log::limit_spec_from),
        tokens_milli: it.tokens_milli,
        refilled: Timestamp(it.refilled_ms),
        held: it.held,
        closed_until: it.closed_until_ms.map(Timestamp),
        waiting: it.waiting,
        oldest: it.oldest_ms.map(Timestamp),
    }
}

fn version_to(it: &VersionRow) -> s::VersionRow {
    let open = |(status, runs): (&Status, &u64)| s::OpenRuns {
        status: status_number(*status),
        runs: *runs,
    };
    s::VersionRow {
        name: it.name.to_string(),
        version: it.version.0,
        queue: it.queue.to_string(),
        open: it.open.iter().map(open).collect(),
    }
}

fn version_from(it: &s::VersionRow) -> Result<VersionRow, Undecodable> {
    let mut open = BTreeMap::new();
    for item in &it.open {
        open.insert(status_from(item.status)?, item.runs);
    }
    Ok(VersionRow {
        name: Name::from_stored(&it.name),
        version: Version(it.version),
        queue: Name::from_stored(&it.queue),
        open,
    })
}

/// The number of a status, in rows and on the wire alike.
pub fn status_number(status: Status) -> u32 {
    match status {
        Status::Scheduled => 1,
        Status::Ready => 2,
        Status::Running => 3,
        Status::Waiting => 4,
        Status::Paused => 5,
        Status::Quarantined => 6,
        Status::Undoing => 7,
        Status::Completed => 8,
        Status::Failed => 9,
        Status::Cancelled => 10,
        Status::Terminated => 11,
        Status::TimedOut => 12,
    }
}

/// The status with this number.
///
/// # Errors
/// `Undecodable`: none has it.
pub fn status_from(number: u32) -> Result<Status, Undecodable> {
    Ok(match number {
        1 => Status::Scheduled,
        2 => Status::Ready,
        3 => Status::Running,
        4 => Status::Waiting,
        5 => Status::Paused,
        6 => Status::Quarantined,
        7 => Status::Undoing,
        8 => Status::Completed,
        9 => Status::Failed,
        10 => Status::Cancelled,
        11 => Status::Terminated,
        12 => Status::TimedOut,
        other => return Err(Undecodable::new("status", format!("{other} is unknown"))),
    })
}
