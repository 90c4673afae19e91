//! Samples of everything that is stored: one by hand for each variant (golden bytes), any number from choices (round trips).

mod any;
mod rows;

use bytes::Bytes;
use holdfast_scheduler::{
    entry::*,
    ids::*,
    time::{Millis, Timestamp},
};

pub use any::Choices;
pub use rows::{ROW_NAMES, row_names, rows};

/// A function that names every variant of a type, and the list of its names: a new variant breaks the build, and a name
/// without a sample breaks the test.
macro_rules! named {
    ($all:ident, $of:ident($type:ty), $($pattern:pat => $name:literal,)*) => {
        pub const $all: &[&str] = &[$($name),*];
        pub fn $of(it: &$type) -> &'static str {
            match it { $($pattern => $name,)* }
        }
    };
}
pub(crate) use named;

named!(COMMANDS, command(Command),
    Command::Ask(Ask::Start(_)) => "start",
    Command::Ask(Ask::Signal(_)) => "signal",
    Command::Ask(Ask::Cancel(_)) => "cancel",
    Command::Ask(Ask::Terminate(_)) => "terminate",
    Command::Ask(Ask::Pause(_)) => "pause",
    Command::Ask(Ask::Resume(_)) => "resume",
    Command::Ask(Ask::Retry(_)) => "retry",
    Command::Ask(Ask::Attach(_)) => "attach",
    Command::Ask(Ask::Advance(_)) => "advance",
    Command::Ask(Ask::Report(_)) => "report",
    Command::Ask(Ask::Progress(_)) => "progress",
    Command::Ask(Ask::Return(_)) => "return",
    Command::Ask(Ask::Detach(_)) => "detach",
    Command::Ask(Ask::Deploy(_)) => "deploy",
    Command::Ask(Ask::SetLimit(_)) => "set-limit",
    Command::Ask(Ask::Noop(_)) => "noop",
    Command::Duty(Duty::Grant(_)) => "grant",
    Command::Duty(Duty::Admit(_)) => "admit",
    Command::Duty(Duty::Expire(Expire::Session { .. })) => "expire-session",
    Command::Duty(Duty::Expire(Expire::Attempt { .. })) => "expire-attempt",
    Command::Duty(Duty::Expire(Expire::Drive { .. })) => "expire-drive",
    Command::Duty(Duty::FireDue { .. }) => "fire-due",
    Command::Duty(Duty::Collect(_)) => "collect",
    Command::Duty(Duty::Repair(_)) => "repair",
);
named!(BODIES, body(Body),
    Body::BecomeLeader(_) => "become-leader",
    Body::Batch { .. } => "batch",
);
named!(ATTEMPT_OUTCOMES, attempt_outcome(AttemptOutcome),
    AttemptOutcome::Done(_) => "attempt done",
    AttemptOutcome::Retryable { .. } => "attempt retryable",
    AttemptOutcome::Terminal { .. } => "attempt terminal",
    AttemptOutcome::Throttled { .. } => "attempt throttled",
    AttemptOutcome::Panicked(_) => "attempt panicked",
    AttemptOutcome::Stopped => "attempt stopped",
    AttemptOutcome::Absent => "attempt absent",
    AttemptOutcome::Unsure(_) => "attempt unsure",
);
named!(INTENTS, intent_kind(IntentKind),
    IntentKind::Step(_) => "intent step",
    IntentKind::Timer(TimerSpec::After(_)) => "intent timer after",
    IntentKind::Timer(TimerSpec::At(_)) => "intent timer at",
    IntentKind::Wait { .. } => "intent wait",
    IntentKind::Record(_) => "intent record",
    IntentKind::Publish { .. } => "intent publish",
    IntentKind::Complete(_) => "intent complete",
    IntentKind::Fail { .. } => "intent fail",
);
named!(CERTAINTIES, certainty(Certainty),
    Certainty::AtLeastOnce => "at least once",
    Certainty::AtMostOnce => "at most once",
    Certainty::Reconcile(_) => "reconcile",
);
named!(GIVE_UPS, give_up(GiveUp),
    GiveUp::Pause => "give up: pause",
    GiveUp::Fail => "give up: fail",
    GiveUp::Compensate => "give up: compensate",
);
named!(TROUBLES, trouble(Trouble),
    Trouble::Diverged { .. } => "diverged",
    Trouble::Panicked(_) => "panicked",
);
named!(IF_ENDED, if_ended(IfEnded),
    IfEnded::ReturnResult => "or return result",
    IfEnded::Reject => "or reject",
    IfEnded::NewGeneration => "or begin anew",
);
named!(WORKS, work(Work),
    Work::Run(_) => "work: run",
    Work::Step(..) => "work: step",
    Work::Undo(..) => "work: undo",
);

/// All names that a set of samples of the log must have.
pub const LOG_NAMES: &[&[&str]] = &[
    COMMANDS,
    BODIES,
    ATTEMPT_OUTCOMES,
    INTENTS,
    CERTAINTIES,
    GIVE_UPS,
    TROUBLES,
    IF_ENDED,
    WORKS,
];

/// The names in one entry.
pub fn log_names(entry: &Entry) -> Vec<&'static str> {
    let mut names = vec![body(&entry.body)];
    let Body::Batch { commands, .. } = &entry.body else {
        return names;
    };
    for it in commands {
        names.push(command(it));
        match it {
            Command::Ask(Ask::Start(it)) => names.push(if_ended(&it.if_ended)),
            Command::Ask(Ask::Report(it)) => names.push(attempt_outcome(&it.result.outcome)),
            Command::Ask(Ask::Advance(it)) => {
                let results = it.results.iter().map(|result| &result.outcome);
                names.extend(results.map(attempt_outcome));
                names.extend(it.trouble.iter().map(trouble));
                for intent in &it.intents {
                    names.extend(intent_names(intent));
                }
            }
            Command::Duty(Duty::Grant(it)) => names.push(work(&it.work)),
            _ => {}
        }
    }
    names
}

pub fn intent_names(intent: &Intent) -> Vec<&'static str> {
    let mut names = vec![intent_kind(&intent.kind)];
    if let IntentKind::Step(spec) = &intent.kind {
        names.extend([certainty(&spec.certainty), give_up(&spec.retry.give_up)]);
    }
    names
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn run() -> RunId {
    RunId::new("order-1").unwrap()
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn request() -> RequestId {
    RequestId::new("ask-1").unwrap()
}

pub fn limit(text: &str) -> LimitName {
    LimitName::new(text).unwrap()
}

pub fn fence(number: u64) -> Fence {
    Fence::from_wire(number)
}

pub fn step_key() -> StepKey {
    StepKey {
        scope: "0/left".into(),
        name: "charge".into(),
        occurrence: 2,
    }
}

pub fn limit_spec() -> LimitSpec {
    LimitSpec {
        rate: Some((10, Millis(1_000))),
        burst: 20,
        concurrency: Some(5),
    }
}

pub fn retry_policy(give_up: GiveUp) -> RetryPolicy {
    RetryPolicy {
        initial: Millis(200),
        factor_percent: 150,
        cap: Millis(60_000),
        max_attempts: Some(7),
        give_up_after: Millis(86_400_000),
        give_up,
    }
}

fn step(certainty: Certainty, give_up: GiveUp) -> IntentKind {
    IntentKind::Step(StepSpec {
        step: name("charge"),
        queue: Some(name("payments")),
        input: bytes("{\"amount\":5}"),
        retry: retry_policy(give_up),
        timeout: Some(Millis(30_000)),
        heartbeat: Some(Millis(5_000)),
        limits: vec![limit("stripe:acct_42"), limit("erp")],
        certainty,
        undo: Some(name("refund")),
        inline: false,
    })
}

/// One intent of each kind, a step of each certainty and each way to give up.
pub fn intents() -> Vec<Intent> {
    let plain = IntentKind::Step(StepSpec {
        step: name("ship"),
        queue: None,
        input: bytes(""),
        retry: RetryPolicy {
            max_attempts: None,
            ..retry_policy(GiveUp::Pause)
        },
        timeout: None,
        heartbeat: None,
        limits: Vec::new(),
        certainty: Certainty::AtLeastOnce,
        undo: None,
        inline: true,
    });
    let kinds = vec![
        step(Certainty::AtLeastOnce, GiveUp::Pause),
        step(Certainty::AtMostOnce, GiveUp::Fail),
        step(Certainty::Reconcile(name("find")), GiveUp::Compensate),
        plain,
        IntentKind::Timer(TimerSpec::After(Millis(1_500))),
        IntentKind::Timer(TimerSpec::At(Timestamp(1_700_000_000_000))),
        IntentKind::Wait {
            signal: name("approval"),
            timeout: Some(Millis(3_000)),
            ask: Some("ship it?".into()),
        },
        IntentKind::Wait {
            signal: name("go"),
            timeout: None,
            ask: None,
        },
        IntentKind::Record(bytes("42")),
        IntentKind::Publish {
            view: name("progress"),
            value: bytes("50"),
        },
        IntentKind::Complete(bytes("\"done\"")),
        IntentKind::Fail {
            code: "REJECTED".into(),
            message: "no stock".into(),
        },
    ];
    (3..)
        .zip(kinds)
        .map(|(number, kind)| Intent {
            number: IntentNo(number),
            key: step_key(),
            digest: Digest(0x0123_4567_89ab_cdef),
            kind,
        })
        .collect()
}

fn results() -> Vec<StepResult> {
    let message = "503".to_owned();
    let outcomes = vec![
        AttemptOutcome::Done(bytes("\"ok\"")),
        AttemptOutcome::Retryable {
            message: message.clone(),
            after: Some(Millis(50)),
        },
        AttemptOutcome::Retryable {
            message: message.clone(),
            after: None,
        },
        AttemptOutcome::Terminal {
            code: "CARD".into(),
            message: "declined".into(),
        },
        AttemptOutcome::Throttled {
            limit: limit("stripe"),
            after: Millis(2_000),
            message: "429".into(),
        },
        AttemptOutcome::Panicked("index out of bounds".into()),
        AttemptOutcome::Stopped,
        AttemptOutcome::Absent,
        AttemptOutcome::Unsure("the callee is down".into()),
    ];
    (1..)
        .zip(outcomes)
        .map(|(number, outcome)| StepResult {
            intent: IntentNo(number),
            fence: fence(77 << 16 | u64::from(number)),
            outcome,
        })
        .collect()
}

fn advance(results: Vec<StepResult>, intents: Vec<Intent>, trouble: Option<Trouble>) -> Ask {
    Ask::Advance(Advance {
        run: run(),
        fence: fence(77 << 16),
        number: AdvanceNo(4),
        seen: DeliveryNo(2),
        results,
        intents,
        free_slots: 8,
        trouble,
    })
}

fn change() -> Change {
    Change {
        run: run(),
        reason: "because".into(),
        request: request(),
    }
}

fn start(if_ended: IfEnded) -> Start {
    Start {
        run: run(),
        workflow: name("order"),
        input: bytes("1001"),
        digest: Digest(9),
        at: Some(Timestamp(1_700_000_000_000)),
        timeout: Some(Millis(60_000)),
        if_ended,
        signal: Some((name("go"), request(), bytes("true"))),
    }
}

fn attach(session: Option<SessionId>) -> Ask {
    Ask::Attach(Attach {
        session,
        process: ProcessId::new("host-1:77:abc").unwrap(),
        worker: name("worker-1"),
        queue: name("default"),
        workflows: vec![(name("order"), Version(1)), (name("order"), Version(2))],
        steps: vec![name("charge"), name("refund")],
        limits: vec![(limit("erp"), limit_spec())],
        slots: 16,
    })
}

#[expect(clippy::too_many_lines, reason = "a list")]
fn asks() -> Vec<Ask> {
    let (expected, got) = ("step charge".to_owned(), "step ship".to_owned());
    let key = step_key();
    vec![
        Ask::Start(start(IfEnded::ReturnResult)),
        Ask::Start(Start {
            at: None,
            timeout: None,
            signal: None,
            ..start(IfEnded::Reject)
        }),
        Ask::Start(start(IfEnded::NewGeneration)),
        Ask::Signal(Signal {
            run: run(),
            name: name("go"),
            id: request(),
            payload: bytes("true"),
        }),
        Ask::Cancel(change()),
        Ask::Terminate(change()),
        Ask::Pause(change()),
        Ask::Resume(change()),
        Ask::Retry(Retry {
            run: run(),
            step: Some(name("charge")),
            request: request(),
        }),
        Ask::Retry(Retry {
            run: run(),
            step: None,
            request: request(),
        }),
        attach(None),
        attach(Some(SessionId(5 << 16))),
        advance(results(), intents(), None),
        advance(vec![], vec![], Some(Trouble::Panicked("oh".into()))),
        advance(
            vec![],
            vec![],
            Some(Trouble::Diverged { key, expected, got }),
        ),
        Ask::Report(Report {
            run: run(),
            result: results().remove(0),
        }),
        Ask::Progress(Progress {
            run: run(),
            intent: IntentNo(3),
            fence: fence(9),
            progress: bytes("half"),
        }),
        Ask::Return(Return {
            runs: vec![(run(), fence(8))],
            steps: vec![(run(), IntentNo(3), fence(9))],
        }),
        Ask::Detach(SessionId(5 << 16)),
        Ask::Deploy(Deploy {
            workflow: name("order"),
            version: Version(3),
            request: request(),
        }),
        Ask::SetLimit(SetLimit {
            name: limit("erp"),
            spec: limit_spec(),
            request: request(),
        }),
        Ask::SetLimit(SetLimit {
            name: limit("erp"),
            spec: LimitSpec {
                rate: None,
                burst: 1,
                concurrency: None,
            },
            request: request(),
        }),
        Ask::Noop(bytes("xxxx")),
    ]
}

fn duties() -> Vec<Duty> {
    let (session, step) = (SessionId(5 << 16), Work::Step(run(), IntentNo(3)));
    let grant = |work| {
        Duty::Grant(Grant {
            work,
            session,
            free_slots: 4,
        })
    };
    vec![
        grant(Work::Run(run())),
        grant(step.clone()),
        grant(Work::Undo(run(), IntentNo(3))),
        Duty::Admit(Admit {
            limit: limit("erp"),
            waiters: vec![step.clone()],
        }),
        Duty::Expire(Expire::Session {
            session,
            at_most: 128,
        }),
        Duty::Expire(Expire::Attempt {
            work: step,
            fence: fence(9),
        }),
        Duty::Expire(Expire::Drive {
            run: run(),
            fence: fence(8),
        }),
        Duty::FireDue {
            up_to: Timestamp(1_700_000_000_000),
            at_most: 128,
        },
        Duty::Collect(Collect {
            completed: Timestamp(1_700_000_000_000),
            failed: Timestamp(1_690_000_000_000),
            ids: Timestamp(1_680_000_000_000),
            at_most: 128,
        }),
        Duty::Repair(run()),
    ]
}

/// An entry for each command, and one for a new leader.
pub fn entries() -> Vec<Entry> {
    let leader = Body::BecomeLeader(BecomeLeader {
        node: NodeId(3),
        incarnation: name("0b5f3c1e"),
        boot: name("7c1d"),
        levels: (FeatureLevel(1), FeatureLevel(2)),
        anchor: Timestamp(1_700_000_000_000),
    });
    let asks = asks().into_iter().map(Command::Ask);
    let commands = asks.chain(duties().into_iter().map(Command::Duty));
    let batches = commands.map(|command| Body::Batch {
        epoch: Epoch(41),
        proposed_at: Timestamp(1_700_000_000_123),
        commands: vec![command],
    });
    std::iter::once(leader)
        .chain(batches)
        .map(|body| Entry {
            level: FeatureLevel(1),
            body,
        })
        .collect()
}
