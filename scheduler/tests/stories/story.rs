//! A story: a script of commands against the core over rows in memory, with every invariant checked after each.

use bytes::Bytes;
use holdfast_scheduler::{
    apply::{Applied, apply},
    effect::Effect,
    entry::*,
    ids::*,
    invariants,
    orders::Orders,
    reply::*,
    rows::{MemRows, TypedRows},
    time::{Millis, Timestamp},
    views::{self, AnyRun},
};

/// The core and its rows, a leader's clock, and what came out last.
#[derive(Clone)]
pub struct Story {
    pub rows: MemRows,
    pub orders: Orders,
    pub at: u64,
    pub now: Timestamp,
    pub epoch: Epoch,
    pub effects: Vec<Effect>,
}

/// A drive as its worker knows it.
#[derive(Debug, Clone)]
pub struct Driven {
    pub run: RunId,
    pub fence: Fence,
    pub number: u32,
    pub next: u32,
    pub seen: u32,
    pub grants: Vec<StepGrant>,
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn run(text: &str) -> RunId {
    RunId::new(text).unwrap()
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

impl Story {
    /// A group with a leader.
    pub fn new() -> Self {
        let mut story = Self {
            rows: MemRows::default(),
            orders: Orders::default(),
            at: 0,
            now: Timestamp(1_000_000),
            epoch: Epoch(0),
            effects: Vec::new(),
        };
        story.new_leader();
        story
    }

    pub fn new_leader(&mut self) {
        let it = BecomeLeader {
            node: NodeId(1),
            incarnation: name("i"),
            boot: name("b"),
            levels: (FeatureLevel(1), FeatureLevel(1)),
            anchor: self.now,
        };
        self.entry(Body::BecomeLeader(it));
        self.epoch = Epoch(self.at);
    }

    pub fn entry(&mut self, body: Body) -> Applied {
        self.at += 1;
        let entry = Entry {
            level: FeatureLevel(1),
            body,
        };
        let applied = apply(&mut self.rows, &mut self.orders, LogIndex(self.at), &entry).unwrap();
        let broken = invariants::check(&self.rows, &self.orders).unwrap();
        assert!(broken.is_empty(), "{broken:?} after {entry:?}");
        self.effects = applied.effects.clone();
        applied
    }

    pub fn batch(&mut self, epoch: Epoch, commands: Vec<Command>) -> Vec<Reply> {
        let body = Body::Batch {
            epoch,
            proposed_at: self.now,
            commands,
        };
        self.entry(body).replies
    }

    pub fn ask(&mut self, ask: Ask) -> Reply {
        self.batch(self.epoch, vec![Command::Ask(ask)]).remove(0)
    }

    pub fn duty(&mut self, duty: Duty) -> Reply {
        self.batch(self.epoch, vec![Command::Duty(duty)]).remove(0)
    }

    pub fn wait(&mut self, ms: u64) -> &mut Self {
        self.now = self.now.after(Millis(ms));
        self
    }

    pub fn fire(&mut self) -> Reply {
        self.duty(Duty::FireDue {
            up_to: self.now,
            at_most: 100,
        })
    }

    /// A worker of queue `q` that drives `order@v1` and executes the steps of the tests.
    pub fn worker(&mut self, process: &str) -> SessionId {
        self.worker_of(process, &[("order", 1)])
    }

    pub fn worker_of(&mut self, process: &str, workflows: &[(&str, u32)]) -> SessionId {
        let steps = ["charge", "refund", "find", "ship", "unship", "mail"];
        let reply = self.ask(Ask::Attach(Attach {
            session: None,
            process: ProcessId::new(process).unwrap(),
            worker: name(process),
            queue: name("q"),
            workflows: workflows
                .iter()
                .map(|(n, v)| (name(n), Version(*v)))
                .collect(),
            steps: steps.iter().map(|step| name(step)).collect(),
            limits: Vec::new(),
            slots: 10,
        }));
        let Reply::Attached { session, .. } = reply else {
            panic!("{reply:?}")
        };
        session
    }

    pub fn start_with(&mut self, id: &str, input: &str) -> Reply {
        self.ask(Ask::Start(start(id, input)))
    }

    pub fn start(&mut self, id: &str) -> RunId {
        let reply = self.start_with(id, "1");
        assert!(
            matches!(reply, Reply::Started { created: true, .. }),
            "{reply:?}"
        );
        run(id)
    }

    /// Gives a ready run to a session.
    pub fn drive(&mut self, id: &RunId, session: SessionId) -> Driven {
        let reply = self.grant(Work::Run(id.clone()), session);
        assert_eq!(reply, Reply::Done);
        let granted = self.effects.iter().find_map(|effect| match effect {
            Effect::Granted {
                work: Work::Run(_),
                fence,
                grants,
                ..
            } => Some((*fence, grants.clone())),
            _ => None,
        });
        let (fence, grants) = granted.unwrap();
        let next = self.rows.run(id).unwrap().unwrap().next_intent.0;
        Driven {
            run: id.clone(),
            fence,
            number: 0,
            next,
            seen: 0,
            grants,
        }
    }

    pub fn grant(&mut self, work: Work, session: SessionId) -> Reply {
        self.duty(Duty::Grant(Grant {
            work,
            session,
            free_slots: 10,
        }))
    }

    pub fn advance(
        &mut self,
        driven: &mut Driven,
        results: Vec<StepResult>,
        intents: Vec<IntentKind>,
    ) -> Reply {
        let it = driven.next_advance(results, intents);
        let reply = self.ask(Ask::Advance(it));
        if let Reply::Advanced(advanced) = &reply {
            driven.grants.extend(advanced.grants.clone());
            for row in &advanced.deliveries {
                driven.seen = driven.seen.max(row.delivery.map_or(0, |it| it.0));
            }
        }
        reply
    }

    pub fn lose(&mut self, session: SessionId) -> Reply {
        self.duty(Duty::Expire(Expire::Session {
            session,
            at_most: 100,
        }))
    }

    pub fn signal(&mut self, id: &RunId, signal: &str, signal_id: &str) -> Reply {
        self.ask(Ask::Signal(Signal {
            run: id.clone(),
            name: name(signal),
            id: RequestId::new(signal_id).unwrap(),
            payload: bytes("true"),
        }))
    }

    pub fn change(&self, id: &RunId, request: &str) -> Change {
        let request = RequestId::new(request).unwrap();
        Change {
            run: id.clone(),
            reason: "because".into(),
            request,
        }
    }

    pub fn cancel(&mut self, id: &RunId) -> Reply {
        self.ask(Ask::Cancel(self.change(id, "cancel-1")))
    }

    pub fn any(&self, id: &RunId) -> AnyRun {
        views::run(&self.rows, id).unwrap().unwrap()
    }

    pub fn status(&self, id: &RunId) -> Status {
        self.any(id).status()
    }

    pub fn explain(&self, id: &RunId) -> String {
        views::explain(&self.rows, &self.any(id), self.now)
            .unwrap()
            .sentence
    }

    /// Executes the undo that is at hand.
    pub fn undo(&mut self, id: &RunId, intent: u32, session: SessionId) -> Reply {
        let work = Work::Undo(id.clone(), IntentNo(intent));
        assert_eq!(self.grant(work, session), Reply::Done, "undo of {intent}");
        let fence = self.granted_fence();
        self.report(id, intent, fence, AttemptOutcome::Done(bytes("null")))
    }

    pub fn granted_fence(&self) -> Fence {
        let granted = self.effects.iter().find_map(|effect| match effect {
            Effect::Granted { fence, .. } => Some(*fence),
            _ => None,
        });
        granted.unwrap()
    }

    pub fn report(
        &mut self,
        id: &RunId,
        intent: u32,
        fence: Fence,
        outcome: AttemptOutcome,
    ) -> Reply {
        let result = StepResult {
            intent: IntentNo(intent),
            fence,
            outcome,
        };
        self.ask(Ask::Report(Report {
            run: id.clone(),
            result,
        }))
    }

    pub fn journal(&self, id: &RunId) -> Vec<JournalRow> {
        let generation = self.any(id).generation();
        views::journal(&self.rows, id, generation, Seq(0), 1000).unwrap()
    }
}

impl Driven {
    pub fn next_advance(&mut self, results: Vec<StepResult>, intents: Vec<IntentKind>) -> Advance {
        self.number += 1;
        let first = self.next;
        self.next += u32::try_from(intents.len()).unwrap();
        let intents = (first..).zip(intents).map(|(n, kind)| Intent {
            number: IntentNo(n),
            key: StepKey {
                scope: "0".into(),
                name: format!("op{n}").as_str().into(),
                occurrence: 0,
            },
            digest: Digest(0),
            kind,
        });
        Advance {
            run: self.run.clone(),
            fence: self.fence,
            number: AdvanceNo(self.number),
            seen: DeliveryNo(self.seen),
            results,
            intents: intents.collect(),
            free_slots: 10,
            trouble: None,
        }
    }

    /// The result of the step granted last for this intent.
    pub fn ends(&self, intent: u32, outcome: AttemptOutcome) -> StepResult {
        let grant = self
            .grants
            .iter()
            .rev()
            .find(|grant| grant.intent.0 == intent)
            .unwrap();
        StepResult {
            intent: IntentNo(intent),
            fence: grant.fence,
            outcome,
        }
    }

    pub fn done(&self, intent: u32) -> StepResult {
        self.ends(intent, AttemptOutcome::Done(bytes("\"ok\"")))
    }

    pub fn fails(&self, intent: u32) -> StepResult {
        let outcome = AttemptOutcome::Retryable {
            message: "503".into(),
            after: Some(Millis(100)),
        };
        self.ends(intent, outcome)
    }
}

pub fn start(id: &str, input: &str) -> Start {
    let digest = Digest(input.bytes().map(u64::from).sum());
    Start {
        run: run(id),
        workflow: name("order"),
        input: bytes(input),
        digest,
        at: None,
        timeout: None,
        if_ended: IfEnded::ReturnResult,
        signal: None,
    }
}

pub fn step(of: &str) -> StepSpec {
    StepSpec {
        step: name(of),
        queue: None,
        input: bytes("{}"),
        retry: RetryPolicy::default(),
        timeout: None,
        heartbeat: None,
        limits: Vec::new(),
        certainty: Certainty::AtLeastOnce,
        undo: None,
        inline: false,
    }
}

pub fn charge() -> IntentKind {
    IntentKind::Step(StepSpec {
        undo: Some(name("refund")),
        ..step("charge")
    })
}

pub fn complete() -> IntentKind {
    IntentKind::Complete(bytes("\"done\""))
}

pub fn wait_for(signal: &str, timeout: Option<u64>) -> IntentKind {
    IntentKind::Wait {
        signal: name(signal),
        timeout: timeout.map(Millis),
        ask: None,
    }
}

pub fn sleep(ms: u64) -> IntentKind {
    IntentKind::Timer(TimerSpec::After(Millis(ms)))
}

pub fn outcome(reply: &Reply) -> &AdvanceOutcome {
    match reply {
        Reply::Advanced(advanced) => &advanced.outcome,
        other => panic!("no answer to an Advance: {other:?}"),
    }
}
