//! Samples of rows: one by hand for each kind, and for each variant within a kind.

use std::{collections::BTreeMap, sync::Arc};

use holdfast_scheduler::{
    entry::{Certainty, GiveUp},
    ids::*,
    reply::{AdvanceOutcome, Advanced, End, JournalRow, Outcome, Status, StepGrant},
    rows::{Class, Keeps, Key, Newest, Row},
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

use super::{
    bytes, certainty, fence, give_up, intent_names, intents, limit, limit_spec, name, named,
    retry_policy, run, step_key,
};

named!(KINDS, kind(Key),
    Key::Group => "group",
    Key::Run(_) => "run",
    Key::Finished(_) => "finished",
    Key::Input(..) => "input",
    Key::Journal(..) => "journal",
    Key::Signal(..) => "signal",
    Key::Seen(..) => "seen",
    Key::View(..) => "view",
    Key::Session(_) => "session",
    Key::Limit(_) => "limit",
    Key::Workflow(_) => "workflow",
    Key::Version(..) => "version",
    Key::ByClass(..) => "by-class",
    Key::ByWorkflow(..) => "by-workflow",
    Key::ByTime(..) => "by-time",
    Key::Ended(..) => "ended",
);
named!(MODES, mode(Mode),
    Mode::Scheduled { .. } => "mode scheduled",
    Mode::Live => "mode live",
    Mode::Undoing { .. } => "mode undoing",
    Mode::Paused { .. } => "mode paused",
    Mode::Quarantined { .. } => "mode quarantined",
);
named!(BACKS, back(Back),
    Back::Scheduled { .. } => "back to scheduled",
    Back::Live => "back to live",
    Back::Undoing { .. } => "back to undoing",
);
named!(ENDS, end(End),
    End::Completed(_) => "end completed",
    End::Failed { .. } => "end failed",
    End::Cancelled(_) => "end cancelled",
    End::Terminated { .. } => "end terminated",
    End::TimedOut => "end timed out",
);
named!(OUTCOMES, outcome(Outcome),
    Outcome::Done(_) => "outcome done",
    Outcome::Failed { .. } => "outcome failed",
    Outcome::Fired => "outcome fired",
    Outcome::TimedOut => "outcome timed out",
    Outcome::Cancelled(_) => "outcome cancelled",
);
named!(ADVANCES, advance_outcome(AdvanceOutcome),
    AdvanceOutcome::GoesOn => "advance goes on",
    AdvanceOutcome::Suspended => "advance suspended",
    AdvanceOutcome::Finished => "advance finished",
    AdvanceOutcome::DeliveriesWait => "advance deliveries wait",
    AdvanceOutcome::Interrupted => "advance interrupted",
    AdvanceOutcome::Superseded => "advance superseded",
);
named!(OPENS, open_kind(OpenKind),
    OpenKind::Step(_) => "open step",
    OpenKind::Timer { .. } => "open timer",
    OpenKind::Wait { .. } => "open wait",
);
named!(TRIES, try_state(TryState),
    TryState::AtLimit { .. } => "tries at limit",
    TryState::Scheduled { .. } => "tries scheduled",
    TryState::Leased(_) => "tries leased",
    TryState::Backoff { .. } => "tries backoff",
    TryState::Held => "tries held",
);
named!(PHASES, phase(Phase),
    Phase::Body => "phase body",
    Phase::Probe => "phase probe",
);
named!(STATUSES, status(Status),
    Status::Scheduled => "status scheduled",
    Status::Ready => "status ready",
    Status::Running => "status running",
    Status::Waiting => "status waiting",
    Status::Paused => "status paused",
    Status::Quarantined => "status quarantined",
    Status::Undoing => "status undoing",
    Status::Completed => "status completed",
    Status::Failed => "status failed",
    Status::Cancelled => "status cancelled",
    Status::Terminated => "status terminated",
    Status::TimedOut => "status timed out",
);
named!(CLASSES, class(Class),
    Class::Live => "class live",
    Class::Paused => "class paused",
    Class::Quarantined => "class quarantined",
    Class::Undoing => "class undoing",
    Class::Completed => "class completed",
    Class::Failed => "class failed",
    Class::Cancelled => "class cancelled",
    Class::Terminated => "class terminated",
    Class::TimedOut => "class timed out",
);

/// All names that a set of samples of rows must have.
pub const ROW_NAMES: &[&[&str]] = &[
    KINDS,
    MODES,
    BACKS,
    ENDS,
    OUTCOMES,
    ADVANCES,
    OPENS,
    TRIES,
    PHASES,
    STATUSES,
    CLASSES,
    super::INTENTS,
    super::CERTAINTIES,
    super::GIVE_UPS,
];

/// The names in one row.
pub fn row_names(key: &Key, row: &Row) -> Vec<&'static str> {
    let mut names = vec![kind(key)];
    if let Key::ByClass(of, ..) = key {
        names.push(class(of));
    }
    match row {
        Row::Run(run) => {
            names.push(mode(&run.mode));
            let back_to = run.back();
            names.push(back(&back_to));
            if let Back::Undoing { end: it } = &back_to {
                names.push(end(it));
            }
            for open in run.open.values() {
                names.push(open_kind(&open.what));
                if let OpenKind::Step(step) = &open.what {
                    names.extend([phase(&step.phase), try_state(&step.tries.state)]);
                    names.extend([certainty(&step.certainty), give_up(&step.retry.give_up)]);
                }
            }
        }
        Row::Finished(done) => {
            names.push(end(&done.end));
            names.extend(
                done.last
                    .iter()
                    .map(|it| advance_outcome(&it.reply.outcome)),
            );
        }
        Row::Journal(row) => {
            names.extend(row.outcomes.iter().map(|(_, it)| outcome(it)));
            names.extend(row.intents.iter().flat_map(intent_names));
        }
        Row::Version(row) => names.extend(row.open.keys().map(status)),
        Row::Group(_)
        | Row::Bytes(_)
        | Row::Signal(_)
        | Row::Mark
        | Row::Session(_)
        | Row::Limit(_)
        | Row::Workflow(_) => {}
    }
    names
}

const AT: Timestamp = Timestamp(1_700_000_000_000);

fn tries(state: TryState) -> Tries {
    Tries {
        state,
        attempt: 3,
        failures: 2,
        spent: Millis(1_234),
        last_error: "503".into(),
        progress: Some(bytes("half")),
    }
}

fn try_states() -> Vec<TryState> {
    vec![
        TryState::AtLimit {
            since: AT,
            ticket: (99, 1),
        },
        TryState::Scheduled { since: AT },
        TryState::Leased(StepLease {
            session: SessionId(5 << 16),
            fence: fence(9),
            since: AT,
            stopping: true,
        }),
        TryState::Backoff {
            until: AT.after(Millis(500)),
            since: AT,
        },
        TryState::Held,
    ]
}

fn open_steps() -> Vec<OpenKind> {
    let step = |(nth, state): (u32, TryState)| {
        let reconcile = Certainty::Reconcile(name("find"));
        let (certainty, give_up) = match nth % 3 {
            0 => (reconcile, GiveUp::Pause),
            1 => (Certainty::AtLeastOnce, GiveUp::Fail),
            _ => (Certainty::AtMostOnce, GiveUp::Compensate),
        };
        OpenKind::Step(Arc::new(Step {
            step: name("charge"),
            queue: (nth > 0).then(|| name("payments")),
            seq: Seq(4),
            retry: retry_policy(give_up),
            timeout: (nth > 0).then_some(Millis(30_000)),
            heartbeat: (nth > 0).then_some(Millis(5_000)),
            limits: vec![limit("erp")],
            certainty,
            undo: (nth > 0).then(|| name("refund")),
            phase: if nth == 3 { Phase::Probe } else { Phase::Body },
            admitted: nth == 2,
            tries: tries(state),
        }))
    };
    (0..).zip(try_states()).map(step).collect()
}

fn opens() -> BTreeMap<IntentNo, Open> {
    let mut kinds = open_steps();
    kinds.push(OpenKind::Timer { due: AT });
    kinds.push(OpenKind::Wait {
        signal: name("approval"),
        due: Some(AT),
        ask: Some("ship it?".into()),
        since: AT,
    });
    kinds.push(OpenKind::Wait {
        signal: name("go"),
        due: None,
        ask: None,
        since: AT,
    });
    let open = |what| Open {
        key: step_key(),
        what,
    };
    (0..)
        .map(IntentNo)
        .zip(kinds.into_iter().map(open))
        .collect()
}

fn ends() -> Vec<End> {
    vec![
        End::Completed(bytes("\"done\"")),
        End::Failed {
            code: "REJECTED".into(),
            message: "no stock".into(),
        },
        End::Cancelled("changed my mind".into()),
        End::Terminated {
            reason: "stuck".into(),
            not_undone: vec!["charge (entry 3, by refund)".into()],
        },
        End::TimedOut,
    ]
}

fn last(outcome: AdvanceOutcome) -> LastAdvance {
    let number = AdvanceNo(4);
    let grant = |progress| StepGrant {
        intent: IntentNo(3),
        fence: fence(9),
        attempt: 2,
        timeout: Some(Millis(30_000)),
        progress,
    };
    LastAdvance {
        fence: fence(8),
        number,
        reply: Advanced {
            number,
            outcome,
            grants: vec![grant(Some(bytes("half"))), grant(None)],
            deliveries: vec![journal(Some(DeliveryNo(3)))],
        },
    }
}

fn journal(delivery: Option<DeliveryNo>) -> JournalRow {
    let outcomes = vec![
        Outcome::Done(bytes("\"ok\"")),
        Outcome::Failed {
            code: "CARD".into(),
            message: "declined".into(),
            attempts: 3,
        },
        Outcome::Fired,
        Outcome::TimedOut,
        Outcome::Cancelled("stopped".into()),
    ];
    JournalRow {
        seq: Seq(6),
        at: AT,
        position: (901, 2),
        delivery,
        seen: delivery.is_none().then_some(DeliveryNo(2)),
        outcomes: (1..).map(IntentNo).zip(outcomes).collect(),
        intents: if delivery.is_none() {
            intents()
        } else {
            Vec::new()
        },
        cancel: delivery.map(|_| "changed my mind".into()),
        note: delivery.map(|_| "resumed".into()),
    }
}

fn bare_run(mode: Mode) -> Run {
    Run {
        id: run(),
        generation: Generation(1),
        workflow: name("order"),
        version: Version(1),
        queue: name("default"),
        digest: Digest(9),
        started: AT,
        due: None,
        mode,
        ready: None,
        drive: None,
        newest_fence: None,
        next_intent: IntentNo(0),
        next_seq: Seq(0),
        open: BTreeMap::new(),
        undos: Vec::new(),
        last: None,
        kept: None,
        suspects: Vec::new(),
        panics: 0,
        requests: Vec::new(),
        buffered: (0, 0),
    }
}

fn full_run() -> Run {
    let owed = |tries| Owed {
        intent: IntentNo(3),
        step: name("charge"),
        undo: name("refund"),
        queue: name("payments"),
        seq: Seq(4),
        output: Some(Seq(6)),
        withdrawn: true,
        tries,
    };
    Run {
        due: Some(AT),
        ready: Some(AT),
        drive: Some(Drive {
            session: SessionId(5 << 16),
            fence: fence(8),
            since: AT,
            delivery: DeliveryNo(3),
            seen: DeliveryNo(2),
            unseen_from: Seq(6),
            shown_from: Seq(4),
        }),
        newest_fence: Some(fence(8)),
        next_intent: IntentNo(12),
        next_seq: Seq(7),
        open: opens(),
        undos: vec![owed(None), owed(Some(tries(TryState::Held)))],
        last: Some(last(AdvanceOutcome::GoesOn)),
        kept: Some(Kept {
            session: SessionId(5 << 16),
            shown_from: Seq(4),
        }),
        suspects: vec![ProcessId::new("host-1:77:abc").unwrap()],
        panics: 1,
        requests: vec![RequestId::new("ask-1").unwrap()],
        buffered: (2, 17),
        ..bare_run(Mode::Live)
    }
}

fn modes() -> Vec<Mode> {
    let (reason, evidence) = ("lunch".to_owned(), "it killed three workers".to_owned());
    let undoing = |end: End| Mode::Undoing { end };
    let mut modes = vec![Mode::Scheduled { at: AT }, Mode::Live];
    modes.extend(ends().into_iter().map(undoing));
    let end = End::TimedOut;
    for back in [
        Back::Scheduled { at: AT },
        Back::Live,
        Back::Undoing { end },
    ] {
        modes.push(Mode::Paused {
            reason: reason.clone(),
            by_system: back == Back::Live,
            back: back.clone(),
        });
        modes.push(Mode::Quarantined {
            evidence: evidence.clone(),
            back,
        });
    }
    modes
}

fn finished() -> Vec<Finished> {
    let outcomes = [
        AdvanceOutcome::GoesOn,
        AdvanceOutcome::Suspended,
        AdvanceOutcome::Finished,
        AdvanceOutcome::DeliveriesWait,
        AdvanceOutcome::Interrupted,
        AdvanceOutcome::Superseded,
    ];
    let lasts = outcomes.map(|outcome| Some(last(outcome)));
    let ends = ends().into_iter().chain([End::TimedOut]);
    let done = ends.zip(lasts).map(|(end, last)| Finished {
        id: run(),
        generation: Generation(2),
        workflow: name("order"),
        version: Version(1),
        digest: Digest(9),
        started: AT,
        ended: AT.after(Millis(9)),
        end,
        rows: Seq(7),
        last,
        forgotten: false,
    });
    let mut done: Vec<Finished> = done.collect();
    done.push(Finished {
        last: None,
        ..done[0].clone()
    });
    done.push(Finished {
        end: End::Completed(bytes("")),
        last: None,
        forgotten: true,
        ..done[0].clone()
    });
    done
}

fn classes() -> [Class; 9] {
    [
        Class::Live,
        Class::Paused,
        Class::Quarantined,
        Class::Undoing,
        Class::Completed,
        Class::Failed,
        Class::Cancelled,
        Class::Terminated,
        Class::TimedOut,
    ]
}

fn statuses() -> BTreeMap<Status, u64> {
    let all = [
        Status::Scheduled,
        Status::Ready,
        Status::Running,
        Status::Waiting,
        Status::Paused,
        Status::Quarantined,
        Status::Undoing,
        Status::Completed,
        Status::Failed,
        Status::Cancelled,
        Status::Terminated,
        Status::TimedOut,
    ];
    all.into_iter().zip(1..).collect()
}

fn session(leaving: bool) -> Session {
    Session {
        id: SessionId(5 << 16),
        process: ProcessId::new("host-1:77:abc").unwrap(),
        worker: name("worker-1"),
        queue: name("default"),
        workflows: vec![(name("order"), Version(1))],
        steps: vec![name("charge")],
        slots: 16,
        since: AT,
        leaving,
    }
}

/// A row of each kind, and of each variant within it, under its key.
#[expect(clippy::too_many_lines, reason = "a list")]
pub fn rows() -> Vec<(Key, Row)> {
    let id = run();
    let newest = Newest::first(AT);
    let mut rows = vec![
        (Key::Group, Row::Group(Group::default())),
        (
            Key::Group,
            Row::Group(Group {
                clock: AT,
                epoch: 41,
                boot: Some(name("7c1d")),
                incarnation: 3,
            }),
        ),
        (Key::Run(id.clone()), Row::Run(Arc::new(full_run()))),
    ];
    let run_row = |mode| (Key::Run(run()), Row::Run(Arc::new(bare_run(mode))));
    rows.extend(modes().into_iter().map(run_row));
    let done = |it| (Key::Finished(run()), Row::Finished(Arc::new(it)));
    rows.extend(finished().into_iter().map(done));
    rows.push((
        Key::Input(id.clone(), Generation(1)),
        Row::Bytes(bytes("1001")),
    ));
    for delivery in [None, Some(DeliveryNo(3))] {
        let key = Key::Journal(id.clone(), Generation(1), Seq(6));
        rows.push((key, Row::Journal(Arc::new(journal(delivery)))));
    }
    let signal = Buffered {
        id: RequestId::new("s1").unwrap(),
        payload: bytes("true"),
    };
    let key = Key::Signal(id.clone(), name("go"), (900, 2));
    rows.push((key, Row::Signal(signal)));
    let seen = Key::Seen(id.clone(), RequestId::new("s1").unwrap());
    rows.push((seen, Row::Mark));
    rows.push((
        Key::View(id.clone(), name("progress")),
        Row::Bytes(bytes("50")),
    ));
    for leaving in [false, true] {
        let key = Key::Session(SessionId(5 << 16));
        rows.push((key, Row::Session(Arc::new(session(leaving)))));
    }
    let declared = Limit {
        spec: Some(limit_spec()),
        tokens_milli: 1_500,
        refilled: AT,
        held: 2,
        closed_until: Some(AT),
        waiting: 4,
        oldest: Some(AT),
    };
    rows.push((Key::Limit(limit("erp")), Row::Limit(declared)));
    rows.push((Key::Limit(limit("erp")), Row::Limit(Limit::undeclared(AT))));
    let workflow = Workflow {
        name: name("order"),
        current: Version(2),
    };
    rows.push((Key::Workflow(name("order")), Row::Workflow(workflow)));
    let version = VersionRow {
        name: name("order"),
        version: Version(2),
        queue: name("default"),
        open: statuses(),
    };
    let key = Key::Version(name("order"), Version(2));
    rows.push((key, Row::Version(Arc::new(version))));
    for class in classes() {
        rows.push((Key::ByClass(class, newest, id.clone()), Row::Mark));
    }
    let key = Key::ByWorkflow(name("order"), Version(2), newest, id.clone());
    rows.push((key, Row::Mark));
    rows.push((Key::ByTime(newest, id.clone()), Row::Mark));
    for keeps in [Keeps::Completed, Keeps::Failed, Keeps::Id] {
        rows.push((Key::Ended(keeps, AT, id.clone()), Row::Mark));
    }
    rows
}
