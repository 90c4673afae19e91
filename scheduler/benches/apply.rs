//! How long `apply` takes over rows in memory: one Advance of a run (a result, the next step), alone and 64 in an entry.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::wildcard_imports,
    reason = "a benchmark"
)]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use holdfast_scheduler::{
    apply::{Applied, apply},
    effect::Effect,
    entry::*,
    ids::*,
    orders::Orders,
    reply::*,
    rows::MemRows,
    time::Timestamp,
};

/// A journal has an end: after so many steps a run is replaced by a new one.
const STEPS_PER_RUN: u32 = 10_000;

/// Runs that are driven, each with one step in flight.
struct Bench {
    rows: MemRows,
    orders: Orders,
    at: u64,
    session: SessionId,
    driven: Vec<Driven>,
}

struct Driven {
    run: RunId,
    fence: Fence,
    number: u32,
    step: (IntentNo, Fence),
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

impl Bench {
    fn new(runs: usize) -> Self {
        let mut bench = Self {
            rows: MemRows::default(),
            orders: Orders::default(),
            at: 0,
            session: SessionId(0),
            driven: Vec::new(),
        };
        let attached = bench.ask(Ask::Attach(Attach {
            session: None,
            process: ProcessId::new("p").unwrap(),
            worker: name("w"),
            queue: name("q"),
            workflows: vec![(name("order"), Version(1))],
            steps: vec![name("charge")],
            limits: Vec::new(),
            slots: 1_000,
        }));
        let Reply::Attached { session, .. } = attached.replies[0] else {
            panic!("{attached:?}");
        };
        bench.session = session;
        for _ in 0..runs {
            let driven = bench.start();
            bench.driven.push(driven);
        }
        bench
    }

    fn apply(&mut self, commands: Vec<Command>) -> Applied {
        self.at += 1;
        let body = Body::Batch {
            epoch: Epoch(0),
            proposed_at: Timestamp(self.at),
            commands,
        };
        let level = FeatureLevel(1);
        let entry = Entry { level, body };
        apply(&mut self.rows, &mut self.orders, LogIndex(self.at), &entry).unwrap()
    }

    fn ask(&mut self, ask: Ask) -> Applied {
        self.apply(vec![Command::Ask(ask)])
    }

    /// A new run, driven, with its first step in flight.
    fn start(&mut self) -> Driven {
        let run = RunId::new(&format!("order-{}", self.at)).unwrap();
        self.ask(Ask::Start(Start {
            run: run.clone(),
            workflow: name("order"),
            input: Bytes::from_static(b"1001"),
            digest: Digest(1),
            at: None,
            timeout: None,
            if_ended: IfEnded::ReturnResult,
            signal: None,
        }));
        let work = Work::Run(run.clone());
        let (session, free_slots) = (self.session, 1);
        let granted = self.apply(vec![Command::Duty(Duty::Grant(Grant {
            work,
            session,
            free_slots,
        }))]);
        let fence = granted.effects.iter().find_map(|effect| match effect {
            Effect::Granted { fence, .. } => Some(*fence),
            _ => None,
        });
        let fence = fence.unwrap();
        let first = Ask::Advance(advance(&run, fence, 1, None));
        let step = granted_step(&self.ask(first).replies[0]);
        Driven {
            run,
            fence,
            number: 1,
            step,
        }
    }

    /// One entry in which each run moves by one step.
    fn go_on(&mut self) {
        let asks = self.driven.iter().map(|it| {
            let done = Some(it.step);
            Command::Ask(Ask::Advance(advance(
                &it.run,
                it.fence,
                it.number + 1,
                done,
            )))
        });
        let applied = self.apply(asks.collect());
        for (it, reply) in self.driven.iter_mut().zip(&applied.replies) {
            it.step = granted_step(reply);
            it.number += 1;
        }
        if self.driven[0].number >= STEPS_PER_RUN {
            *self = Self::new(self.driven.len());
        }
    }
}

fn granted_step(reply: &Reply) -> (IntentNo, Fence) {
    match reply {
        Reply::Advanced(advanced) => (advanced.grants[0].intent, advanced.grants[0].fence),
        other => panic!("{other:?}"),
    }
}

fn advance(run: &RunId, fence: Fence, number: u32, done: Option<(IntentNo, Fence)>) -> Advance {
    let result = done.map(|(intent, fence)| StepResult {
        intent,
        fence,
        outcome: AttemptOutcome::Done(Bytes::from_static(b"\"ok\"")),
    });
    let intent = Intent {
        number: IntentNo(number - 1),
        key: StepKey {
            scope: "0".into(),
            name: "charge".into(),
            occurrence: number - 1,
        },
        digest: Digest(7),
        kind: IntentKind::Step(StepSpec {
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
        }),
    };
    Advance {
        run: run.clone(),
        fence,
        number: AdvanceNo(number),
        seen: DeliveryNo(0),
        results: result.into_iter().collect(),
        intents: vec![intent],
        free_slots: 1,
        trouble: None,
    }
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    for runs in [1, 64] {
        let mut bench = Bench::new(runs);
        group.throughput(Throughput::Elements(runs as u64));
        group.bench_function(format!("advance x {runs}"), |b| {
            b.iter(|| black_box(&mut bench).go_on());
        });
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
