//! An Advance, told slowly: results first, then what the function wants, then what becomes of its drive.

use std::sync::Arc;

use holdfast_scheduler::{
    bounds,
    entry::{Advance, AttemptOutcome, Intent, IntentKind, TimerSpec, Trouble},
    ids::IntentNo,
    reply::{AdvanceOutcome, Advanced, End, JournalRow, Outcome, Rejected, Reply},
};

use super::{
    Driver, Engine, Hold, Job, Life, Tries,
    asks::{done_large, large},
    invalid, too_large,
};

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
        let seen_so_far = driver.seen..=driver.told;
        if it.number.0 != next || !seen_so_far.contains(&it.seen.0) {
            return invalid();
        }
        if let Some(refusal) = refuses(&life, it) {
            return refusal;
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
        if let Some(driver) = &mut life.driver {
            driver.seen = it.seen.0;
        }
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
        let rows = life.journal[since..].iter().map(|row| &**row);
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
        } else if ends && life.local_out() > 0 {
            outcome = AdvanceOutcome::Interrupted;
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
                    spec: Arc::new(spec.clone()),
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
}

fn ends(intent: &Intent) -> bool {
    let kind = &intent.kind;
    matches!(kind, IntentKind::Complete(_) | IntentKind::Fail { .. })
}

/// What an Advance in turn may still be refused for, in the order in which the contract is read.
fn refuses(life: &Life, it: &Advance) -> Option<Reply> {
    let opens = |intent: &&Intent| {
        let kind = &intent.kind;
        matches!(
            kind,
            IntentKind::Step(_) | IntentKind::Timer(_) | IntentKind::Wait { .. }
        )
    };
    let opening = it.intents.iter().filter(opens).count();
    let open = life.steps.len() + life.timers.len() + life.waits.len();
    let open = open.saturating_sub(it.results.len()) + opening;
    if it.intents.len() > bounds::INTENTS_PER_ADVANCE_MAX
        || (opening > 0 && open > bounds::OPEN_INTENTS_MAX)
        || it.results.iter().any(|result| done_large(&result.outcome))
    {
        return Some(too_large());
    }
    for (nth, intent) in (life.intents..).zip(&it.intents) {
        if intent.number.0 != nth {
            return Some(invalid());
        }
        let is_large = match &intent.kind {
            IntentKind::Step(spec) => {
                spec.limits.len() > bounds::LIMITS_PER_STEP_MAX || large(&spec.input)
            }
            IntentKind::Record(bytes) | IntentKind::Publish { value: bytes, .. } => large(bytes),
            IntentKind::Complete(output) => large(output),
            IntentKind::Timer(_) | IntentKind::Wait { .. } | IntentKind::Fail { .. } => false,
        };
        if is_large {
            return Some(too_large());
        }
    }
    let mut after_the_ending = it.intents.iter().skip_while(|intent| !ends(intent));
    after_the_ending.any(|intent| !ends(intent)).then(invalid)
}
