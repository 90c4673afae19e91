//! What the leader does: grant, admit, expire, fire.

use std::collections::BTreeSet;

use holdfast_scheduler::{
    bounds,
    entry::{AttemptOutcome, Certainty, Collect, Grant, Work},
    ids::{Fence, IntentNo, LimitName, Name, RunId, SessionId},
    reply::{End, Outcome, Reply, StepGrant},
    time::Timestamp,
};

use super::{Debt, Driver, Engine, Job, Life, Stand, Tries, When};

impl Engine {
    pub(super) fn serves(&self, session: SessionId, queue: &Name, step: &Name) -> bool {
        let worker = self.workers.get(&session);
        worker.is_some_and(|worker| worker.queue == *queue && worker.steps.contains(step))
    }

    pub(super) fn drives(&self, session: SessionId, life: &Life) -> bool {
        let version = (life.workflow.clone(), life.version);
        let worker = self.workers.get(&session);
        worker.is_some_and(|worker| worker.workflows.contains(&version))
    }

    pub(super) fn grant(&mut self, it: &Grant) -> Reply {
        let Some(mut life) = self.take(it.work.run()) else {
            return Reply::Moot;
        };
        let session = it.session;
        let fits = self.workers.contains_key(&session)
            && match &it.work {
                Work::Run(_) => {
                    let wants = life.wants_driver && life.driver.is_none();
                    life.goes_on() && wants && self.drives(session, &life)
                }
                Work::Step(_, intent) => life.steps.get(intent).is_some_and(|job| {
                    let queue = job.spec.queue.as_ref().unwrap_or(&life.queue);
                    let may = if job.is_local() {
                        life.driver.is_some_and(|driver| driver.session == session)
                    } else {
                        self.serves(session, queue, job.executes())
                    };
                    life.goes_on() && job.tries.stand == Stand::Waits && may
                }),
                Work::Undo(_, intent) => life.debts.get(intent).is_some_and(|debt| {
                    let waits = debt
                        .tries
                        .as_ref()
                        .is_some_and(|it| it.stand == Stand::Waits);
                    let at_hand = life.hold.is_none() && life.next_debt() == Some(*intent);
                    at_hand && waits && self.serves(session, &debt.queue, &debt.undo)
                }),
            };
        if !fits {
            return Reply::Moot;
        }
        match &it.work {
            Work::Run(_) => {
                let fence = self.fence();
                life.driver = Some(Driver {
                    session,
                    fence,
                    told: 0,
                    seen: 0,
                    from: life.journal.len(),
                });
                life.newest_fence = Some(fence);
                life.wants_driver = false;
                self.grant_local(&mut life, session, it.free_slots);
            }
            Work::Step(_, intent) => {
                self.grant_step(&mut life, *intent, session);
            }
            Work::Undo(_, intent) => {
                let (fence, since) = (self.fence(), self.now);
                let debt = life.debts.get_mut(intent);
                if let Some(tries) = debt.and_then(|debt| debt.tries.as_mut()) {
                    tries.attempts += 1;
                    let out = Stand::Out {
                        session,
                        fence,
                        since,
                    };
                    tries.becomes(out, since);
                }
            }
        }
        self.keep(life);
        Reply::Done
    }

    pub(super) fn grant_local(
        &mut self,
        life: &mut Life,
        session: SessionId,
        slots: u32,
    ) -> Vec<StepGrant> {
        let waits = |job: &Job| job.is_local() && job.tries.stand == Stand::Waits;
        let waiting = life.steps.iter().filter(|(_, job)| waits(job));
        let chosen: Vec<IntentNo> = waiting.map(|(it, _)| *it).take(slots as usize).collect();
        let mut grants = Vec::new();
        for intent in chosen {
            grants.push(self.grant_step(life, intent, session));
        }
        grants
    }

    pub(super) fn grant_step(
        &mut self,
        life: &mut Life,
        intent: IntentNo,
        session: SessionId,
    ) -> StepGrant {
        let (fence, since) = (self.fence(), self.now);
        let job = life.steps.get_mut(&intent).expect("chosen among them");
        job.tries.attempts += 1;
        let out = Stand::Out {
            session,
            fence,
            since,
        };
        job.tries.becomes(out, since);
        if let (Some(undo), false) = (&job.spec.undo, job.asks_probe) {
            let debt = Debt {
                step: job.spec.step.clone(),
                undo: undo.clone(),
                queue: job.spec.queue.clone().unwrap_or(life.queue.clone()),
                withdrawn: false,
                tries: None,
            };
            life.debts.entry(intent).or_insert(debt);
        }
        StepGrant {
            intent,
            fence,
            attempt: job.tries.attempts,
            timeout: job.spec.timeout,
            progress: job.tries.progress.clone(),
        }
    }

    pub(super) fn admit(&mut self, limit: &LimitName) -> Reply {
        let mut count = 0;
        for (run, intent) in self.line(limit, None).into_values() {
            if !self.admits(limit, None) {
                break;
            }
            let mut life = self.lives[&run].clone();
            let job = &life.steps[&intent];
            let queue = job.spec.queue.as_ref().unwrap_or(&life.queue);
            let is_served = self.workers.keys().any(|session| {
                if job.is_local() {
                    self.drives(*session, &life)
                } else {
                    self.serves(*session, queue, job.executes())
                }
            });
            if is_served && self.pass(&mut life, intent, true) {
                self.settle(life);
                count += 1;
            }
        }
        Reply::Did { count, more: false }
    }

    pub(super) fn end_session(&mut self, session: SessionId, at_most: usize, died: bool) -> Reply {
        let Some(worker) = self.workers.get(&session).cloned() else {
            return Reply::Moot;
        };
        let live = self.lives.values().filter(|life| life.ended.is_none());
        let holding = live.filter(|life| life.holds_of(session));
        let runs: Vec<RunId> = holding.map(|life| life.id.clone()).collect();
        let more = runs.len() > at_most;
        let mut count = 0;
        for run in runs.iter().take(at_most) {
            let mut life = self.lives[run].clone();
            self.lose_all(&mut life, session);
            if died {
                if !life.deaths.contains(&worker.process) {
                    life.deaths.push(worker.process.clone());
                }
                if life.deaths.len() >= 3 {
                    life.quarantine();
                }
            }
            self.settle(life);
            count += 1;
        }
        if !more {
            self.workers.remove(&session);
            self.staffed = true;
        }
        Reply::Did { count, more }
    }

    pub(super) fn lose_all(&mut self, life: &mut Life, session: SessionId) {
        let of = |tries: &Tries| tries.out().is_some_and(|(whose, _)| whose == session);
        let steps = life.steps.iter().filter(|(_, job)| of(&job.tries));
        let steps: Vec<IntentNo> = steps.map(|(intent, _)| *intent).collect();
        if life.driver.is_some_and(|driver| driver.session == session) {
            self.lose_driver(life);
        }
        for intent in steps {
            if life.steps.get(&intent).is_some_and(|job| of(&job.tries)) {
                self.lose_step(life, intent);
            }
        }
        let debts: Vec<IntentNo> = life.debts.keys().copied().collect();
        for intent in debts {
            if life.debts[&intent].tries.as_ref().is_some_and(of) {
                self.end_undo(life, intent, &AttemptOutcome::Stopped);
            }
        }
    }

    pub(super) fn expire_attempt(&mut self, work: &Work, fence: Fence) -> Reply {
        let Some(mut life) = self.take(work.run()) else {
            return Reply::Moot;
        };
        let overdue = AttemptOutcome::Retryable {
            message: String::new(),
            after: None,
        };
        match work {
            Work::Run(_) => return Reply::Moot,
            Work::Step(_, intent) => {
                let job = life
                    .steps
                    .get(intent)
                    .filter(|job| job.tries.is_under(fence));
                let Some(job) = job else {
                    return Reply::Moot;
                };
                if job.asks_probe || job.spec.certainty == Certainty::AtLeastOnce {
                    if let Some(seen) = self.end_attempt(&mut life, *intent, &overdue) {
                        self.tell(&mut life, vec![(*intent, seen)]);
                    }
                } else {
                    self.lose_step(&mut life, *intent);
                }
            }
            Work::Undo(_, intent) => {
                let tries = life.debts.get(intent).and_then(|debt| debt.tries.as_ref());
                if !tries.is_some_and(|tries| tries.is_under(fence)) {
                    return Reply::Moot;
                }
                self.end_undo(&mut life, *intent, &overdue);
            }
        }
        self.settle(life);
        Reply::Done
    }

    pub(super) fn expire_drive(&mut self, run: &RunId, fence: Fence) -> Reply {
        let idle = |life: &Life| {
            life.driver.is_some_and(|driver| driver.fence == fence) && life.local_out() == 0
        };
        let Some(mut life) = self.take(run).filter(idle) else {
            return Reply::Moot;
        };
        self.lose_driver(&mut life);
        self.settle(life);
        Reply::Done
    }

    pub(super) fn due(&self, until: Timestamp) -> BTreeSet<(Timestamp, RunId)> {
        let due = self
            .lives
            .values()
            .filter_map(|life| Some((life.due()?, life.id.clone())));
        due.filter(|(at, _)| *at <= until).collect()
    }

    pub(super) fn fire(&mut self, up_to: Timestamp, at_most: usize) -> Reply {
        let until = up_to.min(self.now);
        let mut count = 0;
        for (_, run) in self.due(until).into_iter().take(at_most) {
            if self.broke(&run) {
                count += 1;
                continue;
            }
            let mut life = self.lives[&run].clone();
            if life.ending.is_some() {
                for tries in life.debts.values_mut().filter_map(|it| it.tries.as_mut()) {
                    if let Stand::Later {
                        when: When::At(at), ..
                    } = tries.stand
                        && at <= self.now
                    {
                        tries.becomes(Stand::Waits, self.now);
                    }
                }
            } else if life.begins.is_some() {
                life.begins = None;
                life.wake();
            } else if life.deadline.is_some_and(|due| due <= self.now) {
                self.note(&mut life);
                self.begin_ending(&mut life, End::TimedOut);
            } else {
                self.fire_open(&mut life);
            }
            self.settle(life);
            count += 1;
        }
        let more = !self.due(until).is_empty();
        Reply::Did { count, more }
    }

    /// Of completed runs, of others and of ids each those whose time is over, the oldest end first.
    pub(super) fn collect(&mut self, it: &Collect) -> Reply {
        let kept = |life: &Life| match life.ended.as_ref()? {
            _ if life.forgotten => Some(it.ids),
            End::Completed(_) => Some(it.completed),
            _ => Some(it.failed),
        };
        let class = |life: &Life| {
            let completed = matches!(life.ended, Some(End::Completed(_)));
            (life.forgotten, !completed)
        };
        let now = self.now;
        let over = |life: &&Life| kept(life).is_some_and(|kept| life.ended_at < kept.min(now));
        let mut due: Vec<_> = (self.lives.values().filter(over))
            .map(|life| {
                // Once forgotten, how it ended makes no difference.
                let (forgotten, failed) = class(life);
                let failed = failed && !forgotten;
                ((forgotten, failed, life.ended_at), life.id.clone())
            })
            .collect();
        due.sort();
        let most = (it.at_most as usize).clamp(1, bounds::RUNS_PER_DUTY_MAX);
        let more = due.len() > most;
        let mut count = 0;
        for (_, id) in due.into_iter().take(most) {
            let Some(life) = self.lives.get_mut(&id) else {
                continue;
            };
            if life.forgotten {
                self.lives.remove(&id);
            } else {
                life.forgotten = true;
                life.answered = None;
                life.heard.clear();
                if let Some(End::Completed(output)) = &mut life.ended {
                    output.clear();
                }
            }
            self.touched.insert(id);
            count += 1;
        }
        let more = more && count > 0;
        Reply::Did { count, more }
    }

    pub(super) fn fire_open(&mut self, life: &mut Life) {
        let mut due: BTreeSet<(Timestamp, IntentNo)> = BTreeSet::new();
        due.extend(life.timers.iter().map(|(intent, at)| (*at, *intent)));
        let waits = life.waits.iter();
        due.extend(waits.filter_map(|(intent, (_, at))| Some(((*at)?, *intent))));
        for (intent, job) in &life.steps {
            if let Stand::Later {
                when: When::At(at), ..
            } = job.tries.stand
            {
                due.insert((at, *intent));
            }
        }
        let mut outcomes = Vec::new();
        let now = self.now;
        for (_, intent) in due.into_iter().filter(|(at, _)| *at <= now) {
            if life.timers.remove(&intent).is_some() {
                outcomes.push((intent, Outcome::Fired));
            } else if life.waits.remove(&intent).is_some() {
                outcomes.push((intent, Outcome::TimedOut));
            } else {
                self.schedule(life, intent);
            }
        }
        if !outcomes.is_empty() {
            self.tell(life, outcomes);
        }
    }
}
