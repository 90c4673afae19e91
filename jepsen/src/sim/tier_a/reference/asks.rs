//! What is asked from outside: start, signal, change, attach, report. An Advance is told in `advance`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast_scheduler::{
    bounds,
    entry::{
        Attach, AttemptOutcome, Change, IfEnded, Progress, Report, Retry, Return, Start, StepResult,
    },
    ids::{Generation, IntentNo, Name, RequestId, RunId, SessionId},
    reply::{End, Outcome, Rejected, Reply, Reported},
};

use super::{
    Debt, Engine, Hold, Job, Life, Stand, Tries, Under, Worker, admits_nothing, invalid, too_large,
    unknown,
};

impl Engine {
    pub(super) fn start(&mut self, it: &Start) -> Reply {
        let signal = it.signal.as_ref().map(|(_, _, payload)| payload);
        if large(&it.input) || signal.is_some_and(large) {
            return too_large();
        }
        if let Some(life) = self.lives.get(&it.run) {
            let same = life.digest == it.digest && life.workflow == it.workflow;
            let ended = life.ended.is_some();
            let (generation, version) = (life.generation, life.version);
            match it.if_ended {
                IfEnded::NewGeneration if ended => return self.begin(it, generation.0 + 1),
                IfEnded::Reject if ended => return self.not_live(&it.run),
                _ if !same => return Rejected::IdConflict(it.run.clone()).into(),
                _ => {}
            }
            if let Some((name, id, payload)) = &it.signal {
                let sent = self.signal(&it.run, name, id, payload);
                if matches!(sent, Reply::Rejected(_)) {
                    return sent;
                }
            }
            let created = false;
            return Reply::Started {
                generation,
                version,
                created,
            };
        }
        self.begin(it, 1)
    }

    pub(super) fn begin(&mut self, it: &Start, generation: u32) -> Reply {
        let Some(version) = self.current.get(&it.workflow).copied() else {
            return unknown(&it.workflow);
        };
        let generation = Generation(generation);
        let begins = it.at.filter(|at| *at > self.now);
        let mut life = Life {
            id: it.run.clone(),
            generation,
            workflow: it.workflow.clone(),
            version,
            queue: self.queues[&(it.workflow.clone(), version)].clone(),
            digest: it.digest,
            deadline: it
                .timeout
                .map(|span| begins.unwrap_or(self.now).after(span)),
            begins,
            ending: None,
            ended: None,
            ended_at: self.now,
            forgotten: false,
            hold: None,
            wants_driver: begins.is_none(),
            driver: None,
            newest_fence: None,
            intents: 0,
            journal: Vec::new(),
            steps: BTreeMap::new(),
            timers: BTreeMap::new(),
            waits: BTreeMap::new(),
            debts: BTreeMap::new(),
            answered: None,
            deaths: Vec::new(),
            panics: 0,
            asked: Vec::new(),
            mail: Vec::new(),
            heard: BTreeSet::new(),
            compared: 0,
        };
        if let Some((name, id, payload)) = &it.signal {
            life.heard.insert(id.clone());
            life.mail.push((name.clone(), payload.clone()));
        }
        self.keep(life);
        Reply::Started {
            generation,
            version,
            created: true,
        }
    }

    pub(super) fn signal(
        &mut self,
        run: &RunId,
        name: &Name,
        id: &RequestId,
        payload: &Bytes,
    ) -> Reply {
        if large(payload) {
            return too_large();
        }
        let heard = self.lives.get(run).filter(|life| life.heard.contains(id));
        if let Some(life) = heard {
            return Reply::Changed(life.status());
        }
        let Some(mut life) = self.take(run) else {
            return self.not_live(run);
        };
        let waits = life.waits.iter().find(|(_, (signal, _))| signal == name);
        let waits = waits.map(|(intent, _)| *intent);
        let bytes: usize = life.mail.iter().map(|(_, it)| it.len()).sum();
        let full = life.mail.len() >= bounds::SIGNALS_PER_RUN_MAX
            || bytes + payload.len() > bounds::SIGNAL_BYTES_PER_RUN_MAX;
        if waits.is_none() && full {
            let (run, signals) = (run.clone(), count(life.mail.len()));
            let bytes = bytes as u64;
            return Rejected::SignalOverflow {
                run,
                signals,
                bytes,
            }
            .into();
        }
        life.heard.insert(id.clone());
        if let Some(intent) = waits {
            life.waits.remove(&intent);
            self.tell(&mut life, vec![(intent, Outcome::Done(payload.clone()))]);
        } else {
            life.mail.push((name.clone(), payload.clone()));
        }
        let status = life.status();
        self.settle(life);
        Reply::Changed(status)
    }

    pub(super) fn changed(
        &mut self,
        it: &Change,
        change: impl FnOnce(&mut Self, &mut Life, &str) -> Option<Rejected>,
    ) -> Reply {
        let Some(mut life) = self.take(&it.run) else {
            return self.not_live(&it.run);
        };
        if life.asked.contains(&it.request) {
            return Reply::Changed(life.status());
        }
        remember(&mut life, &it.request);
        if let Some(rejected) = change(self, &mut life, &it.reason) {
            return rejected.into();
        }
        self.settle(life);
        Reply::Changed(self.lives[&it.run].status())
    }

    pub(super) fn cancel(&mut self, life: &mut Life, reason: &str) -> Option<Rejected> {
        if life.ending.is_none() {
            self.write(life, |row| row.cancel = Some(reason.to_owned()), true);
            self.begin_ending(life, End::Cancelled(reason.to_owned()));
        }
        None
    }

    pub(super) fn terminate(&mut self, life: &mut Life, reason: &str) -> Option<Rejected> {
        let undone = |(intent, debt): (&IntentNo, &Debt)| {
            format!("{} (entry {intent}, by {})", debt.step, debt.undo)
        };
        life.ended_at = self.now;
        life.ended = Some(End::Terminated {
            reason: reason.to_owned(),
            not_undone: life.debts.iter().map(undone).collect(),
        });
        None
    }

    pub(super) fn pause(&mut self, life: &mut Life, _: &str) -> Option<Rejected> {
        if life.hold.is_none() {
            self.note(life);
            life.pause(Hold::Person);
            if life.local_out() == 0 {
                self.lose_driver(life);
            }
        }
        None
    }

    pub(super) fn resume(&mut self, life: &mut Life, _: &str) -> Option<Rejected> {
        if life.hold.is_none() {
            let (run, status) = (life.id.clone(), life.status());
            let why = String::new();
            return Some(Rejected::NotNow { run, status, why });
        }
        self.go_on(life);
        None
    }

    pub(super) fn go_on(&mut self, life: &mut Life) {
        self.note(life);
        life.hold = None;
        life.deaths.clear();
        life.panics = 0;
        if life.goes_on() {
            life.wake();
        }
        let stuck = |job: &Job| job.tries.stand == Stand::Stuck;
        let of = life.steps.iter().filter(|(_, job)| stuck(job));
        let stuck: Vec<IntentNo> = of.map(|(intent, _)| *intent).collect();
        self.lose_orphans(life);
        for intent in stuck {
            if let Some(job) = life.steps.get_mut(&intent) {
                job.tries.anew();
            }
            self.schedule(life, intent);
        }
        for tries in life.debts.values_mut().filter_map(|it| it.tries.as_mut()) {
            if tries.stand == Stand::Stuck {
                tries.anew();
                tries.becomes(Stand::Waits, self.now);
            }
        }
    }

    pub(super) fn retry(&mut self, it: &Retry) -> Reply {
        let Some(mut life) = self.take(&it.run) else {
            return self.not_live(&it.run);
        };
        if life.asked.contains(&it.request) {
            return Reply::Changed(life.status());
        }
        let named = |name: &Name| it.step.as_ref().is_none_or(|wanted| wanted == name);
        let mut steps: Vec<IntentNo> = life.steps.keys().copied().collect();
        steps.retain(|it| named(&life.steps[it].spec.step) && life.steps[it].tries.failed());
        let mut debts: Vec<IntentNo> = life.debts.keys().copied().collect();
        debts.retain(|it| {
            let debt = &life.debts[it];
            named(&debt.undo) && debt.tries.as_ref().is_some_and(Tries::failed)
        });
        if steps.is_empty() && debts.is_empty() {
            let (run, status) = (life.id.clone(), life.status());
            let why = String::new();
            return Rejected::NotNow { run, status, why }.into();
        }
        remember(&mut life, &it.request);
        if life.hold == Some(Hold::System) {
            self.go_on(&mut life);
        }
        for intent in steps {
            if let Some(job) = life.steps.get_mut(&intent) {
                job.tries.anew();
                if job.tries.failed() {
                    self.schedule(&mut life, intent);
                }
            }
        }
        for intent in debts {
            let tries = life.debts.get_mut(&intent).and_then(|it| it.tries.as_mut());
            if let Some(tries) = tries.filter(|tries| tries.failed()) {
                tries.anew();
                tries.becomes(Stand::Waits, self.now);
            }
        }
        let status = life.status();
        self.settle(life);
        Reply::Changed(status)
    }

    pub(super) fn attach(&mut self, it: &Attach) -> Reply {
        let registered = it.workflows.len() + it.steps.len();
        if registered > bounds::REGISTRATIONS_PER_SESSION_MAX {
            return too_large();
        }
        if it.limits.iter().any(|(_, spec)| admits_nothing(spec)) {
            return invalid();
        }
        let session = match it.session {
            None => SessionId(self.fence().number()),
            Some(id) => match self.workers.get(&id) {
                Some(known) if known.process == it.process => id,
                _ => return Rejected::SessionEnded(id).into(),
            },
        };
        let worker = Worker {
            process: it.process.clone(),
            queue: it.queue.clone(),
            workflows: it.workflows.clone(),
            steps: it.steps.clone(),
        };
        self.workers.insert(session, worker);
        self.staffed = true;
        let highest = it.workflows.iter().max_by_key(|(_, version)| *version);
        if let Some((name, version)) = highest {
            self.current.entry(name.clone()).or_insert(*version);
        }
        for version in &it.workflows {
            let queue = it.queue.clone();
            self.queues.entry(version.clone()).or_insert(queue);
        }
        for (name, spec) in &it.limits {
            let now = self.now;
            let gate = self.gates.entry(name.clone()).or_default();
            if gate.spec.is_none() {
                gate.declare(*spec, now);
            }
        }
        for life in self.lives.values_mut().filter(|life| life.ended.is_none()) {
            let before = life.deaths.len();
            life.deaths.retain(|process| *process != it.process);
            if life.deaths.len() != before {
                self.touched.insert(life.id.clone());
            }
        }
        let warnings = Vec::new();
        Reply::Attached { session, warnings }
    }

    pub(super) fn report(&mut self, it: &Report) -> Reply {
        let StepResult {
            intent,
            fence,
            outcome,
        } = &it.result;
        if done_large(outcome) {
            return too_large();
        }
        let Some(mut life) = self.take(&it.run) else {
            return Reply::Reported(Reported::Stale);
        };
        match life.under(*intent, *fence) {
            None => return Reply::Reported(Reported::Stale),
            Some(Under::Debt) => self.end_undo(&mut life, *intent, outcome),
            Some(Under::Step) => {
                let seen = self.end_attempt(&mut life, *intent, outcome);
                // Once the run is ending nobody reads how a step failed.
                let kept =
                    |seen: &Outcome| life.ending.is_none() || matches!(seen, Outcome::Done(_));
                if let Some(seen) = seen.filter(kept) {
                    self.tell(&mut life, vec![(*intent, seen)]);
                }
            }
        }
        self.settle(life);
        Reply::Reported(Reported::Accepted)
    }

    pub(super) fn progress(&mut self, it: &Progress) -> Reply {
        if it.progress.len() > bounds::PROGRESS_BYTES_MAX {
            return too_large();
        }
        let stale = Reply::Rejected(Rejected::StaleFence(it.fence));
        let Some(mut life) = self.take(&it.run) else {
            return stale;
        };
        let progress = Some(it.progress.clone());
        let steps = life.under(it.intent, it.fence);
        let tries = match steps {
            None => None,
            Some(Under::Step) => life.steps.get_mut(&it.intent).map(|job| &mut job.tries),
            Some(Under::Debt) => {
                let debt = life.debts.get_mut(&it.intent);
                debt.and_then(|debt| debt.tries.as_mut())
            }
        };
        let Some(tries) = tries else {
            return stale;
        };
        tries.progress = progress;
        self.keep(life);
        Reply::Done
    }

    pub(super) fn give_back(&mut self, it: &Return) -> Reply {
        let mut count = 0;
        for (run, fence) in &it.runs {
            if self.broke(run) {
                continue;
            }
            let life = self.take(run);
            let driven = |life: &Life| life.driver.is_some_and(|driver| driver.fence == *fence);
            if let Some(mut life) = life.filter(driven) {
                self.lose_driver(&mut life);
                self.settle(life);
                count += 1;
            }
        }
        for (run, intent, fence) in &it.steps {
            if self.broke(run) {
                continue;
            }
            let Some(mut life) = self.take(run) else {
                continue;
            };
            match life.under(*intent, *fence) {
                None => continue,
                Some(Under::Step) => self.lose_step(&mut life, *intent),
                Some(Under::Debt) => self.end_undo(&mut life, *intent, &AttemptOutcome::Stopped),
            }
            self.settle(life);
            count += 1;
        }
        Reply::Did { count, more: false }
    }
}

/// A person has at most eight asks under way at one run.
fn remember(life: &mut Life, request: &RequestId) {
    life.asked.push(request.clone());
    if life.asked.len() > 8 {
        life.asked.remove(0);
    }
}

fn count(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

pub(super) fn large(payload: &Bytes) -> bool {
    payload.len() > bounds::INLINE_PAYLOAD_BYTES_MAX
}

pub(super) fn done_large(outcome: &AttemptOutcome) -> bool {
    matches!(outcome, AttemptOutcome::Done(output) if large(output))
}
