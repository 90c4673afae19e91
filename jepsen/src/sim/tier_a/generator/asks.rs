//! What people, callers and workers ask: start, signal, change, attach, hand back.

use holdfast_scheduler::{
    entry::{
        Ask, Change, Deploy, IfEnded, LimitSpec, Progress, Retry, Return, SetLimit, Signal, Start,
        Work,
    },
    ids::{Digest, Name, Version},
    time::Millis,
};

use super::{
    super::{coverage::Reached, swarm::Kind},
    LIMITS, SIGNALS, World, attach, limit_name, name, sessions, text,
};

impl World {
    pub(super) fn other(&mut self, kind: Kind) -> Ask {
        match kind {
            Kind::Start => Ask::Start(self.start()),
            Kind::Signal => Ask::Signal(self.signal()),
            Kind::Cancel => Ask::Cancel(self.change()),
            Kind::Terminate => Ask::Terminate(self.change()),
            Kind::Pause => Ask::Pause(self.change()),
            Kind::Resume => Ask::Resume(self.change()),
            Kind::Retry => Ask::Retry(Retry {
                run: self.any_run(),
                step: self.dice.chance(50).then(|| name("charge")),
                request: self.request(),
            }),
            Kind::Attach => self.attach(),
            Kind::Return => self.give_back(),
            Kind::Detach => Ask::Detach(self.session()),
            Kind::Deploy => Ask::Deploy(Deploy {
                workflow: name("order"),
                version: Version(1 + self.dice.count(3)),
                request: self.request(),
            }),
            Kind::SetLimit => Ask::SetLimit(SetLimit {
                name: limit_name(self.dice.one(LIMITS)),
                spec: self.limit_spec(),
                request: self.request(),
            }),
            Kind::Progress => self.progress(),
            _ => Ask::Noop(bytes::Bytes::new()),
        }
    }

    fn progress(&mut self) -> Ask {
        match self.leased() {
            Some((Work::Step(run, intent) | Work::Undo(run, intent), fence)) => {
                Ask::Progress(Progress {
                    run,
                    intent,
                    fence,
                    progress: text("half"),
                })
            }
            _ => Ask::Noop(bytes::Bytes::new()),
        }
    }

    pub(super) fn change(&mut self) -> Change {
        Change {
            run: self.any_run(),
            reason: "because".into(),
            request: self.request(),
        }
    }

    /// Each payload says whose it is: no two signals of a run look alike.
    pub(super) fn signal(&mut self) -> Signal {
        let id = self.request();
        let payload = text(id.as_str());
        Signal {
            run: self.any_run(),
            name: self.signal_name(),
            id,
            payload,
        }
    }

    pub(super) fn signal_name(&mut self) -> Name {
        name(self.dice.one(SIGNALS))
    }

    pub(super) fn start(&mut self) -> Start {
        let if_ended = self.dice.one([
            IfEnded::ReturnResult,
            IfEnded::Reject,
            IfEnded::NewGeneration,
            IfEnded::NewGeneration,
        ]);
        let signal = self.dice.chance(20).then(|| {
            let id = self.request();
            let payload = text(id.as_str());
            (name("go"), id, payload)
        });
        Start {
            run: self.any_run(),
            workflow: name("order"),
            input: text("1"),
            digest: Digest(u64::from(self.dice.chance(5))),
            at: self.dice.chance(10).then(|| self.now.after(Millis(400))),
            timeout: self.dice.chance(15).then_some(Millis(5_000)),
            if_ended,
            signal,
        }
    }

    /// Rates of which a quarter is a whole number of thousandths in a millisecond: the reference rounds nothing.
    pub(super) fn limit_spec(&mut self) -> LimitSpec {
        let rates = [
            None,
            None,
            Some((8, Millis(1_000))),
            Some((4, Millis(1_000))),
        ];
        LimitSpec {
            rate: self.dice.one(rates),
            burst: self.dice.one([1, 2, 4]),
            concurrency: self.dice.one([None, Some(1), Some(2)]),
        }
    }

    fn attach(&mut self) -> Ask {
        if self.dice.chance(30) {
            let known = sessions(self.group());
            if let Some((session, process)) = self.dice.pick(&known) {
                return Ask::Attach(attach(process.as_str(), Some(session)));
            }
        }
        self.processes += u64::from(self.dice.chance(80));
        let mut it = attach(&format!("p{}", self.processes), None);
        if self.dice.chance(20) {
            it.queue = name("elsewhere");
        }
        if self.dice.chance(30) {
            let most = 2 + usize::from(self.dice.chance(50));
            it.workflows.truncate(most - 1);
            it.steps.truncate(most);
        }
        if self.dice.chance(20) {
            it.limits
                .push((limit_name(self.dice.one(LIMITS)), self.limit_spec()));
        }
        Ask::Attach(it)
    }

    fn give_back(&mut self) -> Ask {
        let (mut runs, mut steps) = (Vec::new(), Vec::new());
        for _ in 0..=self.dice.below(2) {
            match self.leased() {
                Some((Work::Run(run), fence)) => runs.push((run, fence)),
                Some((Work::Step(run, intent) | Work::Undo(run, intent), fence)) => {
                    steps.push((run, intent, fence));
                }
                None => {}
            }
        }
        Ask::Return(Return { runs, steps })
    }

    /// A worker that was away too long goes on as if nothing had happened.
    pub(super) fn under_an_old_fence(&mut self) -> Option<Ask> {
        let (work, fence) = self.dice.pick(&self.old)?;
        self.group_reach(Reached::OldFence);
        Some(match work {
            Work::Run(run) => Ask::Advance(holdfast_scheduler::entry::Advance {
                run,
                fence,
                number: holdfast_scheduler::ids::AdvanceNo(1),
                seen: holdfast_scheduler::ids::DeliveryNo(0),
                results: Vec::new(),
                intents: Vec::new(),
                free_slots: 1,
                trouble: None,
            }),
            Work::Step(run, intent) | Work::Undo(run, intent) => {
                Ask::Report(holdfast_scheduler::entry::Report {
                    run,
                    result: holdfast_scheduler::entry::StepResult {
                        intent,
                        fence,
                        outcome: self.outcome(),
                    },
                })
            }
        })
    }
}
