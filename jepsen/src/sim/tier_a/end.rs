//! A world without trouble: workers answer, the leader does its duties, people let held runs go on. Every run must end.

use std::sync::Arc;

use holdfast_scheduler::{
    effect::Needs,
    entry::{
        Admit, Advance, Ask, AttemptOutcome, Change, Command, Duty, Grant, IntentKind, Report,
        Signal, StepResult, Work,
    },
    ids::{Fence, IntentNo, RequestId, SessionId},
    reply::Reply,
    time::Millis,
    values::run::{Mode, Run},
};

use super::{
    Act, Broken,
    coverage::Reached,
    generator::{World, attach, drives::next_number, drives::numbered, name, text},
    leaders,
};

/// Rounds in which every run must have come to its end.
const ROUNDS: u32 = 400;
/// A new worker comes after so many rounds: the last one may have left.
const ROUNDS_PER_WORKER: u32 = 25;

impl World {
    /// Lets everything come to its end.
    ///
    /// # Errors
    /// A run that never ends, or what did not hold on the way.
    pub fn bring_to_an_end(&mut self) -> Result<(), Broken> {
        (self.swarm.breaks, self.swarm.wrong_epochs) = (0, 0);
        self.heal()?;
        let mut session = SessionId::default();
        for round in 0..ROUNDS {
            if self.runs().is_empty() {
                self.group_reach(Reached::BroughtToAnEnd);
                return Ok(());
            }
            if round % ROUNDS_PER_WORKER == 0 {
                let process = format!("last{round}");
                match self.ask(Ask::Attach(attach(&process, None)))? {
                    Reply::Attached { session: new, .. } => session = new,
                    other => {
                        return Err(Broken::new(
                            "L2",
                            format!("a new worker was told {other:?}"),
                        ));
                    }
                }
            }
            self.pass_time(Millis(30_000))?;
            self.let_go_on(round)?;
            if self.is_led() {
                self.do_as_led()?;
            } else {
                self.do_all_duties(session)?;
            }
            for run in self.runs() {
                self.answer_all(&run)?;
            }
        }
        let why = |run: &Arc<Run>| {
            let (id, status, source) = (&run.id, run.status(), run.wake_source());
            let (ready, leases) = (run.ready_work(), run.leases());
            format!("{id} is {status:?}, moved by {source:?}, ready {ready:?}, leased {leases:?}")
        };
        let stuck: Vec<String> = self.runs().iter().map(why).collect();
        let what = format!("these never end: {}", stuck.join("; "));
        Err(Broken::new("L2", what))
    }

    fn let_go_on(&mut self, round: u32) -> Result<(), Broken> {
        let held =
            |run: &&Arc<Run>| matches!(run.mode, Mode::Paused { .. } | Mode::Quarantined { .. });
        for run in self.runs().iter().filter(held) {
            let request = RequestId::from_stored(&format!("end{round}"));
            self.ask(Ask::Resume(Change {
                run: run.id.clone(),
                reason: String::new(),
                request,
            }))?;
        }
        Ok(())
    }

    /// Whatever the leader's thinking wants.
    fn do_as_led(&mut self) -> Result<(), Broken> {
        for _ in 0..6 {
            let proposed = self.led_duties()?;
            if proposed.is_empty() {
                return Ok(());
            }
            let (ids, duties): (Vec<_>, Vec<_>) = proposed.into_iter().unzip();
            let replies = self.batch(duties.into_iter().map(Command::Duty).collect())?;
            for (id, reply) in ids.into_iter().zip(&replies) {
                self.tape.act(Act::Lead(leaders::answer(id, Some(reply))))?;
            }
        }
        Ok(())
    }

    fn do_all_duties(&mut self, session: SessionId) -> Result<(), Broken> {
        let up_to = self.now;
        let at_most = 100;
        self.duty(Duty::FireDue { up_to, at_most })?;
        let due = self.looks.iter().filter(|(_, at)| **at <= up_to);
        let due: Vec<_> = due.map(|(limit, _)| limit.clone()).collect();
        for limit in due {
            self.looks.remove(&limit);
            let waiters = Vec::new();
            self.duty(Duty::Admit(Admit { limit, waiters }))?;
        }
        for (work, ready) in self.group().orders().ready.clone() {
            let session = match ready.needs {
                Needs::Session(session) => session,
                Needs::Workflow(..) | Needs::Step { .. } => session,
            };
            let free_slots = 10;
            self.duty(Duty::Grant(Grant {
                work,
                session,
                free_slots,
            }))?;
        }
        Ok(())
    }

    /// Every lease in a run comes to something good, and its function to its end.
    fn answer_all(&mut self, run: &Run) -> Result<(), Broken> {
        if let (Some(drive), Some(number)) = (run.drive, next_number(run)) {
            let local = run.steps().filter(|(_, step)| step.is_local());
            let results =
                local.filter_map(|(intent, step)| Some(done(intent, step.tries.lease()?.fence)));
            let ends = run.steps().next().is_none();
            let intents = if ends && run.is_live() {
                vec![IntentKind::Complete(text("done"))]
            } else {
                Vec::new()
            };
            self.ask(Ask::Advance(Advance {
                run: run.id.clone(),
                fence: drive.fence,
                number,
                seen: drive.delivery,
                results: results.collect(),
                intents: numbered(run, intents),
                free_slots: 10,
                trouble: None,
            }))?;
        }
        for (work, lease) in run.leases() {
            if let Work::Step(run, intent) | Work::Undo(run, intent) = work {
                let result = done(intent, lease.fence);
                self.ask(Ask::Report(Report { run, result }))?;
            }
        }
        // A function that waits for a signal and nothing else gets it.
        let live = self.runs().into_iter().find(|live| live.id == run.id);
        if live.is_some_and(|live| live.is_live()) {
            for signal in ["go", "stop"] {
                let id = self.new_request("end-");
                let payload = text(id.as_str());
                self.ask(Ask::Signal(Signal {
                    run: run.id.clone(),
                    name: name(signal),
                    id,
                    payload,
                }))?;
            }
        }
        Ok(())
    }
}

fn done(intent: IntentNo, fence: Fence) -> StepResult {
    StepResult {
        intent,
        fence,
        outcome: AttemptOutcome::Done(text("ok")),
    }
}
