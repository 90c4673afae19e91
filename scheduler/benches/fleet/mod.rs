//! Runs of ten steps that do nothing, many beside each other: the commands of each next entry, as leader and worker would give them.

use bytes::Bytes;
use holdfast_scheduler::{entry::*, ids::*, reply::*};

/// Steps of a run.
pub const STEPS: u32 = 10;
/// Entries of a run: its start, an Advance before each step, and the last result with the end.
pub const ENTRIES: u32 = STEPS + 2;

/// Runs that go side by side, all at the same step.
pub struct Fleet {
    width: usize,
    begun: u64,
    session: SessionId,
    driven: Vec<Driven>,
}

struct Driven {
    run: RunId,
    fence: Fence,
    step: Option<(IntentNo, Fence)>,
    number: u32,
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

impl Fleet {
    /// So many runs; `attach` and `attached` come first.
    pub fn new(width: usize) -> Self {
        Self {
            width,
            begun: 0,
            session: SessionId(0),
            driven: Vec::new(),
        }
    }

    /// The worker's greeting.
    pub fn attach() -> Command {
        Command::Ask(Ask::Attach(Attach {
            session: None,
            process: ProcessId::new("p").unwrap(),
            worker: name("w"),
            queue: name("q"),
            workflows: vec![(name("order"), Version(1))],
            steps: vec![name("charge")],
            limits: Vec::new(),
            slots: 1_000,
        }))
    }

    /// The answer to it.
    pub fn attached(&mut self, reply: &Reply) {
        let Reply::Attached { session, .. } = reply else {
            panic!("{reply:?}");
        };
        self.session = *session;
    }

    /// The commands of the entry at `at`.
    pub fn entry(&mut self, at: LogIndex) -> Vec<Command> {
        if self.driven.is_empty() {
            return self.begin(at);
        }
        let advances = self.driven.iter_mut().map(|it| {
            it.number += 1;
            Command::Ask(Ask::Advance(advance(it)))
        });
        advances.collect()
    }

    /// New runs, each granted in the entry of its start.
    fn begin(&mut self, at: LogIndex) -> Vec<Command> {
        let mut commands = Vec::with_capacity(2 * self.width);
        for nth in 0..self.width as u64 {
            let run = RunId::new(&format!("order-{}", self.begun)).unwrap();
            self.begun += 1;
            commands.push(Command::Ask(Ask::Start(Start {
                run: run.clone(),
                workflow: name("order"),
                input: Bytes::from_static(b"1001"),
                digest: Digest(1),
                at: None,
                timeout: None,
                if_ended: IfEnded::ReturnResult,
                signal: None,
            })));
            commands.push(Command::Duty(Duty::Grant(Grant {
                work: Work::Run(run.clone()),
                session: self.session,
                free_slots: 1,
            })));
            // The entry's grants are numbered in their order.
            let fence = Fence::from_wire(at.0 << 16 | nth);
            self.driven.push(Driven {
                run,
                fence,
                step: None,
                number: 0,
            });
        }
        commands
    }

    /// The answers to the last entry: the next steps, or the end.
    pub fn answered(&mut self, replies: &[Reply]) {
        if self.driven[0].number == 0 {
            let moot = replies.iter().find(|it| matches!(it, Reply::Moot));
            assert_eq!(moot, None, "a grant found nothing to do");
            return;
        }
        for (it, reply) in self.driven.iter_mut().zip(replies) {
            let Reply::Advanced(advanced) = reply else {
                panic!("{reply:?}");
            };
            let granted = advanced.grants.first();
            it.step = granted.map(|grant| (grant.intent, grant.fence));
            let over = advanced.outcome == AdvanceOutcome::Finished;
            assert_eq!(over, it.number > STEPS, "{advanced:?}");
        }
        if self.driven[0].number > STEPS {
            self.driven.clear();
        }
    }
}

fn advance(it: &Driven) -> Advance {
    let result = it.step.map(|(intent, fence)| StepResult {
        intent,
        fence,
        outcome: AttemptOutcome::Done(Bytes::from_static(b"null")),
    });
    let nth = it.number - 1;
    let (what, kind) = if nth < STEPS {
        ("charge", IntentKind::Step(step()))
    } else {
        ("end", IntentKind::Complete(Bytes::from_static(b"null")))
    };
    let intent = Intent {
        number: IntentNo(nth),
        key: StepKey {
            scope: "0".into(),
            name: what.into(),
            occurrence: nth,
        },
        digest: Digest(7),
        kind,
    };
    Advance {
        run: it.run.clone(),
        fence: it.fence,
        number: AdvanceNo(it.number),
        seen: DeliveryNo(0),
        results: result.into_iter().collect(),
        intents: vec![intent],
        free_slots: 1,
        trouble: None,
    }
}

fn step() -> StepSpec {
    StepSpec {
        step: name("charge"),
        queue: None,
        input: Bytes::from_static(b"{}"),
        retry: RetryPolicy::default(),
        timeout: None,
        heartbeat: None,
        limits: Vec::new(),
        certainty: Certainty::AtLeastOnce,
        undo: None,
        inline: false,
    }
}
