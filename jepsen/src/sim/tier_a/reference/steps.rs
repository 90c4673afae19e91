//! What becomes of a step: in line, out, over, lost, undone; and of a run that ends.

use std::collections::BTreeMap;

use holdfast_scheduler::{
    entry::{AttemptOutcome, Certainty, GiveUp, RetryPolicy},
    ids::{IntentNo, LimitName, RunId},
    reply::{End, Outcome},
    time::Millis,
};

use super::{Engine, Hold, Job, Life, Stand};

impl Engine {
    /// Steps that hold a place at a limit, counted.
    pub fn held(&self, limit: &LimitName, also: Option<&Life>) -> u32 {
        let mut held = 0;
        for life in self.lives.values() {
            // A run that is being changed is looked at as it is now.
            let life = also.filter(|it| it.id == life.id).unwrap_or(life);
            if life.ended.is_none() {
                let holds = |job: &&Job| job.has_place && job.spec.limits.contains(limit);
                held += life.steps.values().filter(holds).count();
            }
        }
        u32::try_from(held).expect("a few runs")
    }

    /// Who waits at a limit, by the number drawn.
    pub fn line(&self, limit: &LimitName, also: Option<&Life>) -> BTreeMap<u64, (RunId, IntentNo)> {
        let mut line = BTreeMap::new();
        for life in self.lives.values() {
            let life = also.filter(|it| it.id == life.id).unwrap_or(life);
            for (intent, job) in life.steps.iter().filter(|_| life.goes_on()) {
                if let Stand::InLine(number) = job.tries.stand
                    && job.spec.limits.contains(limit)
                {
                    line.insert(number, (life.id.clone(), *intent));
                }
            }
        }
        line
    }

    pub fn admits(&self, limit: &LimitName, also: Option<&Life>) -> bool {
        let gate = self.gates.get(limit).cloned().unwrap_or_default();
        gate.admits(self.held(limit, also), self.now)
    }

    /// A step passes if every limit admits it and, unless it is called up, nobody waits before it.
    pub(super) fn pass(&mut self, life: &mut Life, intent: IntentNo, called_up: bool) -> bool {
        let job = &life.steps[&intent];
        let Stand::InLine(number) = job.tries.stand else {
            return false;
        };
        let limits = job.limits();
        let may = |limit: &LimitName| {
            let line = self.line(limit, Some(life));
            let first = called_up || line.range(..number).next().is_none();
            first && self.admits(limit, Some(life))
        };
        if !life.goes_on() || !limits.iter().all(may) {
            return false;
        }
        for limit in limits {
            let now = self.now;
            self.gates.entry(limit).or_default().take(now);
        }
        let job = life.steps.get_mut(&intent).expect("it waits in line");
        job.has_place = true;
        job.tries.stand = Stand::Waits;
        if job.is_local() {
            life.wake();
        }
        true
    }

    pub(super) fn schedule(&mut self, life: &mut Life, intent: IntentNo) {
        self.queue(life, intent);
        if life.driver.is_some() && life.steps.get(&intent).is_some_and(Job::is_local) {
            self.pass(life, intent, false);
        }
    }

    /// A step may be tried (again).
    pub(super) fn queue(&mut self, life: &mut Life, intent: IntentNo) {
        let Some(job) = life.steps.get_mut(&intent) else {
            return;
        };
        job.has_place = false;
        self.tickets += 1;
        if !job.asks_probe && !job.spec.limits.is_empty() {
            job.tries.becomes(Stand::InLine(self.tickets), self.now);
        } else {
            job.tries.becomes(Stand::Waits, self.now);
            if job.is_local() {
                life.wake();
            }
        }
    }

    /// An attempt is over; answers what the function sees if its step is over, too.
    pub(super) fn end_attempt(
        &mut self,
        life: &mut Life,
        intent: IntentNo,
        outcome: &AttemptOutcome,
    ) -> Option<Outcome> {
        let job = &life.steps[&intent];
        let (probing, attempts) = (job.asks_probe, job.tries.failures + 1);
        let failed = |code: &str, message: &str| Outcome::Failed {
            code: code.to_owned(),
            message: message.to_owned(),
            attempts,
        };
        if life.ending.is_some() {
            life.steps.remove(&intent);
            return Some(match outcome {
                AttemptOutcome::Done(output) => Outcome::Done(output.clone()),
                AttemptOutcome::Absent if probing => {
                    life.debts.remove(&intent);
                    Outcome::Cancelled("it never happened".to_owned())
                }
                AttemptOutcome::Stopped => Outcome::Cancelled("stopped".to_owned()),
                AttemptOutcome::Terminal { code, message } => failed(code, message),
                AttemptOutcome::Panicked(_) => failed("PANICKED", ""),
                AttemptOutcome::Retryable { .. } | AttemptOutcome::Throttled { .. } => {
                    failed("GAVE_UP", "")
                }
                AttemptOutcome::Unsure(_) => failed("UNSURE", ""),
                AttemptOutcome::Absent => failed("INTERNAL", ""),
            });
        }
        match outcome {
            AttemptOutcome::Done(output) => {
                life.deaths.clear();
                life.panics = 0;
                life.steps.remove(&intent);
                Some(Outcome::Done(output.clone()))
            }
            AttemptOutcome::Stopped => {
                self.lose_step(life, intent);
                None
            }
            AttemptOutcome::Throttled { limit, after, .. } => {
                let named = life.steps[&intent].spec.limits.contains(limit);
                if probing || !named {
                    return self.failed(life, intent, Some(*after));
                }
                let now = self.now;
                let gate = self.gates.entry(limit.clone()).or_default();
                gate.close(now, *after);
                self.schedule(life, intent);
                None
            }
            AttemptOutcome::Retryable { after, .. } => self.failed(life, intent, *after),
            AttemptOutcome::Panicked(_) => self.failed(life, intent, None),
            AttemptOutcome::Terminal { code, message } if !probing => {
                life.steps.remove(&intent);
                Some(failed(code, message))
            }
            AttemptOutcome::Absent if probing => {
                life.debts.remove(&intent);
                if let Some(job) = life.steps.get_mut(&intent) {
                    job.asks_probe = false;
                }
                self.schedule(life, intent);
                None
            }
            AttemptOutcome::Terminal { .. } | AttemptOutcome::Unsure(_) if probing => {
                self.stick(life, intent);
                None
            }
            AttemptOutcome::Absent
            | AttemptOutcome::Unsure(_)
            | AttemptOutcome::Terminal { .. } => self.failed(life, intent, None),
        }
    }

    pub(super) fn failed(
        &mut self,
        life: &mut Life,
        intent: IntentNo,
        asked: Option<Millis>,
    ) -> Option<Outcome> {
        let job = life.steps.get_mut(&intent).expect("it is open");
        job.has_place = false;
        let policy = job.spec.retry.clone();
        if !job.tries.fail(&policy, asked, self.now) {
            return None;
        }
        let attempts = job.tries.failures;
        if policy.give_up == GiveUp::Pause {
            life.pause(Hold::System);
            return None;
        }
        life.steps.remove(&intent);
        let (code, message) = ("GAVE_UP".to_owned(), String::new());
        if policy.give_up == GiveUp::Compensate {
            let hold = life.hold;
            let (code, message) = (code.clone(), message.clone());
            self.begin_ending(life, End::Failed { code, message });
            life.hold = hold; // it undoes once it is resumed
        }
        Some(Outcome::Failed {
            code,
            message,
            attempts,
        })
    }

    pub(super) fn stick(&mut self, life: &mut Life, intent: IntentNo) {
        let job = life.steps.get_mut(&intent).expect("it is open");
        job.has_place = false;
        job.tries.becomes(Stand::Stuck, self.now);
        life.pause(Hold::System);
    }

    /// It may have happened: what follows is what the user chose for it.
    pub(super) fn lose_step(&mut self, life: &mut Life, intent: IntentNo) {
        if life.ending.is_some() {
            life.steps.remove(&intent);
            return;
        }
        let job = life.steps.get_mut(&intent).expect("it is open");
        match job.spec.certainty {
            Certainty::AtMostOnce => self.stick(life, intent),
            Certainty::Reconcile(_) => {
                job.asks_probe = true;
                self.queue(life, intent);
            }
            Certainty::AtLeastOnce => self.queue(life, intent),
        }
    }

    pub(super) fn lose_driver(&mut self, life: &mut Life) {
        life.driver = None;
        self.lose_orphans(life);
        if life.ending.is_none() {
            life.wake();
        }
    }

    /// Nobody reports local steps without their driver.
    pub(super) fn lose_orphans(&mut self, life: &mut Life) {
        let out = |job: &Job| job.is_local() && job.tries.out().is_some();
        let orphans = life.steps.iter().filter(|(_, job)| out(job));
        let orphans: Vec<IntentNo> = orphans.map(|(intent, _)| *intent).collect();
        if life.driver.is_none() {
            for intent in orphans {
                self.lose_step(life, intent);
            }
        }
    }

    pub(super) fn end_undo(&mut self, life: &mut Life, intent: IntentNo, outcome: &AttemptOutcome) {
        let now = self.now;
        let Some(tries) = life.debts.get_mut(&intent).and_then(|it| it.tries.as_mut()) else {
            return;
        };
        let asked = match outcome {
            AttemptOutcome::Done(_) => {
                life.debts.remove(&intent);
                life.deaths.clear();
                self.note(life);
                return;
            }
            AttemptOutcome::Stopped => return tries.becomes(Stand::Waits, now),
            AttemptOutcome::Terminal { .. } => {
                tries.becomes(Stand::Stuck, now);
                return life.pause(Hold::System);
            }
            AttemptOutcome::Retryable { after, .. } => *after,
            AttemptOutcome::Throttled { after, .. } => Some(*after),
            AttemptOutcome::Panicked(_) | AttemptOutcome::Absent | AttemptOutcome::Unsure(_) => {
                None
            }
        };
        if tries.fail(&RetryPolicy::default(), asked, now) {
            life.pause(Hold::System);
        }
    }

    /// Nothing new begins; what is out may report; the rest is withdrawn.
    pub(super) fn begin_ending(&mut self, life: &mut Life, end: End) {
        if matches!(end, End::Completed(_)) {
            for intent in life.steps.keys() {
                if let Some(debt) = life.debts.get_mut(intent) {
                    debt.withdrawn = true;
                }
            }
        }
        life.ending = Some(end);
        (life.hold, life.begins, life.wants_driver) = (None, None, false);
        let driven = life.driver.is_some();
        let reports = |job: &Job| job.tries.out().is_some() && (driven || !job.is_local());
        life.steps.retain(|_, job| reports(job));
        life.timers.clear();
        life.waits.clear();
    }
}
