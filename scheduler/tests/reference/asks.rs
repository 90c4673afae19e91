//! What is asked from outside: start, signal, change, attach, advance, report.

use super::*;

/// What an Advance brought.
#[derive(Default)]
struct Taken {
    /// What its function knows already.
    outcomes: Vec<(IntentNo, Outcome)>,
    intents: Vec<Intent>,
    /// What its function is yet to be told.
    later: Vec<(IntentNo, Outcome)>,
    foreign: bool,
    end: Option<End>,
    end_waits: bool,
}

impl Engine {
    pub(super) fn start(&mut self, it: &Start) -> Reply {
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
        let version = self.current[&it.workflow];
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
        };
        if let Some((name, id, payload)) = &it.signal {
            life.heard.insert(id.clone());
            life.mail.push((name.clone(), payload.clone()));
        }
        self.lives.insert(it.run.clone(), life);
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
        let heard = self.lives.get(run).filter(|life| life.heard.contains(id));
        if let Some(life) = heard {
            return Reply::Changed(life.status());
        }
        let Some(mut life) = self.take(run) else {
            return self.not_live(run);
        };
        life.heard.insert(id.clone());
        let waits = life.waits.iter().find(|(_, (signal, _))| signal == name);
        if let Some(intent) = waits.map(|(intent, _)| *intent) {
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
        let highest = it.workflows.iter().max_by_key(|(_, version)| *version);
        if let Some((name, version)) = highest {
            self.current.entry(name.clone()).or_insert(*version);
        }
        for version in &it.workflows {
            let queue = it.queue.clone();
            self.queues.entry(version.clone()).or_insert(queue);
        }
        for life in self.lives.values_mut().filter(|life| life.ended.is_none()) {
            life.deaths.retain(|process| *process != it.process);
        }
        let warnings = Vec::new();
        Reply::Attached { session, warnings }
    }

    pub(super) fn advance(&mut self, it: &Advance) -> Reply {
        let stale = Reply::Rejected(Rejected::StaleFence(it.fence));
        let Some(life) = self.lives.get(&it.run) else {
            return self.not_live(&it.run);
        };
        if life.newest_fence != Some(it.fence) {
            return stale;
        }
        let last = life
            .answered
            .as_ref()
            .filter(|(fence, _)| *fence == it.fence);
        if let Some((_, first)) = last.filter(|(_, first)| first.number == it.number) {
            let mut again = first.clone();
            again.grants.retain(|grant| {
                let job = life.steps.get(&grant.intent);
                life.ended.is_none() && job.is_some_and(|job| job.tries.is_under(grant.fence))
            });
            return Reply::Advanced(again);
        }
        let next = last.map_or(1, |(_, first)| first.number.0 + 1);
        let interrupted = last.is_some_and(|(_, it)| it.outcome == AdvanceOutcome::Interrupted);
        let Some(mut life) = self.take(&it.run) else {
            return stale;
        };
        let Some(driver) = life.driver.filter(|driver| driver.fence == it.fence) else {
            return stale;
        };
        let numbers = it.intents.iter().map(|intent| intent.number.0);
        let fits = it.number.0 == next
            && it.seen.0 <= driver.told
            && numbers.eq((life.intents..).take(it.intents.len()));
        if !fits {
            return Rejected::Invalid(String::new()).into();
        }
        let advanced = self.move_on(&mut life, it, driver, interrupted);
        life.answered = Some((it.fence, advanced.clone()));
        self.settle(life);
        Reply::Advanced(advanced)
    }

    /// Results first, then what the function wants, then what becomes of its drive.
    pub(super) fn move_on(
        &mut self,
        life: &mut Life,
        it: &Advance,
        driver: Driver,
        interrupted_before: bool,
    ) -> Advanced {
        let interrupted = interrupted_before || !life.goes_on();
        let deliveries_wait = driver.told > it.seen.0;
        let mut taken = self.take_results(life, it);
        if !interrupted && !taken.foreign && it.trouble.is_none() {
            self.take_intents(life, it, deliveries_wait, &mut taken);
        }
        if !(taken.outcomes.is_empty() && taken.intents.is_empty()) {
            let (outcomes, intents) = (taken.outcomes, taken.intents);
            let fill = |row: &mut JournalRow| {
                row.seen = Some(it.seen);
                row.outcomes = outcomes;
                row.intents = intents;
            };
            self.write(life, fill, false);
        }
        if !taken.later.is_empty() {
            self.tell(life, taken.later);
        }
        if let Some(trouble) = &it.trouble {
            self.trouble(life, trouble);
        }
        let unseen = |row: &&JournalRow| row.delivery.is_some_and(|number| number > it.seen);
        let since = life.driver.map_or(life.journal.len(), |driver| driver.from);
        let rows = life.journal[since..].iter();
        let deliveries: Vec<JournalRow> = rows.filter(unseen).cloned().collect();
        let ends = taken.end.is_some();
        if let Some(end) = taken.end {
            self.begin_ending(life, end);
        }
        let idle = life.driver.is_none() || life.local_out() == 0;
        let mut outcome = AdvanceOutcome::GoesOn;
        if taken.foreign || (it.trouble.is_some() && idle) {
            self.lose_driver(life);
            outcome = AdvanceOutcome::Superseded;
        } else if interrupted || it.trouble.is_some() || (!life.goes_on() && !ends) {
            outcome = AdvanceOutcome::Interrupted;
            if life.local_out() == 0 {
                self.lose_driver(life);
                outcome = AdvanceOutcome::Finished;
            }
        } else if ends {
            outcome = AdvanceOutcome::Finished;
        } else if taken.end_waits {
            outcome = AdvanceOutcome::DeliveriesWait;
        }
        let grants = match (&outcome, life.driver) {
            (AdvanceOutcome::GoesOn | AdvanceOutcome::DeliveriesWait, Some(driver)) => {
                self.grant_local(life, driver.session, it.free_slots)
            }
            _ => Vec::new(),
        };
        if outcome == AdvanceOutcome::GoesOn && deliveries.is_empty() && !life.executes() {
            outcome = AdvanceOutcome::Suspended;
            life.driver = None;
            let open = life.steps.len() + life.timers.len() + life.waits.len();
            if open == 0 && life.deadline.is_none() {
                life.pause(Hold::System); // nothing would ever move it
            }
        }
        Advanced {
            number: it.number,
            outcome,
            grants,
            deliveries,
        }
    }

    fn take_results(&mut self, life: &mut Life, it: &Advance) -> Taken {
        let mut taken = Taken::default();
        for result in &it.results {
            let job = life.steps.get(&result.intent);
            let is_done = matches!(result.outcome, AttemptOutcome::Done(_));
            if !job.is_some_and(|job| job.tries.is_under(result.fence)) {
                taken.foreign |= is_done; // the function has run on with what does not count
            } else if let Some(outcome) = self.end_attempt(life, result.intent, &result.outcome) {
                let known = if is_done {
                    &mut taken.outcomes
                } else {
                    &mut taken.later
                };
                known.push((result.intent, outcome));
            }
        }
        taken
    }

    /// An ending must wait while deliveries do.
    fn take_intents(
        &mut self,
        life: &mut Life,
        it: &Advance,
        deliveries_wait: bool,
        taken: &mut Taken,
    ) {
        let ends = |intent: &Intent| {
            let kind = &intent.kind;
            matches!(kind, IntentKind::Complete(_) | IntentKind::Fail { .. })
        };
        taken.end_waits = deliveries_wait && it.intents.last().is_some_and(ends);
        for intent in &it.intents {
            if !life.goes_on() || (deliveries_wait && ends(intent)) {
                break;
            }
            life.intents += 1;
            taken.intents.push(intent.clone());
            self.open(life, intent, &mut taken.later, &mut taken.end);
        }
    }

    fn trouble(&mut self, life: &mut Life, trouble: &Trouble) {
        match trouble {
            Trouble::Diverged { .. } => {
                self.write(life, |row| row.note = Some(String::new()), false);
                life.quarantine();
            }
            Trouble::Panicked(_) => {
                life.panics += 1;
                if life.panics >= 3 {
                    life.quarantine();
                }
            }
        }
    }

    pub(super) fn open(
        &mut self,
        life: &mut Life,
        intent: &Intent,
        later: &mut Vec<(IntentNo, Outcome)>,
        end: &mut Option<End>,
    ) {
        let number = intent.number;
        match &intent.kind {
            IntentKind::Step(spec) => {
                let job = Job {
                    spec: spec.clone(),
                    asks_probe: false,
                    has_place: false,
                    tries: Tries::new(),
                };
                life.steps.insert(number, job);
                if !spec.limits.is_empty() {
                    self.schedule(life, number);
                }
            }
            IntentKind::Timer(when) => {
                let due = match when {
                    TimerSpec::After(span) => self.now.after(*span),
                    TimerSpec::At(at) => *at,
                };
                if due > self.now {
                    life.timers.insert(number, due);
                } else {
                    later.push((number, Outcome::Fired));
                }
            }
            IntentKind::Wait {
                signal, timeout, ..
            } => {
                if let Some(nth) = life.mail.iter().position(|(name, _)| name == signal) {
                    let (_, payload) = life.mail.remove(nth);
                    later.push((number, Outcome::Done(payload)));
                } else {
                    let due = timeout.map(|span| self.now.after(span));
                    life.waits.insert(number, (signal.clone(), due));
                }
            }
            IntentKind::Record(_) | IntentKind::Publish { .. } => {}
            IntentKind::Complete(output) => *end = Some(End::Completed(output.clone())),
            IntentKind::Fail { code, message } => {
                let (code, message) = (code.clone(), message.clone());
                *end = Some(End::Failed { code, message });
            }
        }
    }

    pub(super) fn report(&mut self, it: &Report) -> Reply {
        let StepResult {
            intent,
            fence,
            outcome,
        } = &it.result;
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
        let stale = Reply::Rejected(Rejected::StaleFence(it.fence));
        let Some(mut life) = self.take(&it.run) else {
            return stale;
        };
        let progress = Some(it.progress.clone());
        match life.under(it.intent, it.fence) {
            None => return stale,
            Some(Under::Step) => life.steps.get_mut(&it.intent).unwrap().tries.progress = progress,
            Some(Under::Debt) => {
                let debt = life.debts.get_mut(&it.intent).unwrap();
                debt.tries.as_mut().unwrap().progress = progress;
            }
        }
        self.lives.insert(it.run.clone(), life);
        Reply::Done
    }

    pub(super) fn give_back(&mut self, it: &Return) -> Reply {
        let mut count = 0;
        for (run, fence) in &it.runs {
            let life = self.take(run);
            let driven = |life: &Life| life.driver.is_some_and(|driver| driver.fence == *fence);
            if let Some(mut life) = life.filter(driven) {
                self.lose_driver(&mut life);
                self.settle(life);
                count += 1;
            }
        }
        for (run, intent, fence) in &it.steps {
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
