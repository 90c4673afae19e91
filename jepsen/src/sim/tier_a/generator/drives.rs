//! What workers do under their leases: advance a run, report a step.

use holdfast_scheduler::{
    entry::{
        Advance, AttemptOutcome, Certainty, GiveUp, Intent, IntentKind, Report, RetryPolicy,
        StepResult, StepSpec, TimerSpec, Trouble,
    },
    ids::{AdvanceNo, Digest, IntentNo},
    time::Millis,
    values::{run::Run, step::Tries},
};

use super::{LIMITS, World, key, limit_name, name, text};

impl World {
    pub(super) fn advance(&mut self) -> Option<Advance> {
        if self.dice.chance(8) && self.last_advance.is_some() {
            return self.last_advance.clone(); // a repeat, or a late one
        }
        let runs = self.runs();
        let driven: Vec<_> = runs.iter().filter(|run| run.drive.is_some()).collect();
        let run = self.dice.pick(&driven)?;
        let it = self.advance_of(run)?;
        self.last_advance = Some(it.clone());
        Some(it)
    }

    fn advance_of(&mut self, run: &Run) -> Option<Advance> {
        let drive = run.drive?;
        let number = next_number(run)?;
        let seen = if self.dice.chance(80) {
            drive.delivery
        } else {
            drive.seen
        };
        let mut results = Vec::new();
        for (intent, step) in run.steps().filter(|(_, step)| step.is_local()) {
            if let Some(lease) = step.tries.lease()
                && self.dice.chance(60)
            {
                let fence = lease.fence;
                let outcome = self.outcome();
                results.push(StepResult {
                    intent,
                    fence,
                    outcome,
                });
            }
        }
        let count = self.dice.below(self.swarm.intents);
        let mut intents: Vec<IntentKind> = (0..count).map(|_| self.intent()).collect();
        if self.dice.chance(self.swarm.endings) {
            intents.push(self.ending());
        }
        let trouble = self.dice.chance(2).then(|| self.trouble());
        Some(Advance {
            run: run.id.clone(),
            fence: drive.fence,
            number,
            seen,
            results,
            intents: numbered(run, intents),
            free_slots: self.dice.count(4),
            trouble,
        })
    }

    fn trouble(&mut self) -> Trouble {
        if self.dice.chance(80) {
            return Trouble::Panicked("oh".into());
        }
        let (expected, got) = ("a".to_owned(), "b".to_owned());
        Trouble::Diverged {
            key: key(0),
            expected,
            got,
        }
    }

    fn intent(&mut self) -> IntentKind {
        match self.dice.below(20) {
            0..12 => IntentKind::Step(self.spec()),
            12..14 => IntentKind::Timer(TimerSpec::After(Millis(self.dice.below(2_000)))),
            14 => {
                let ahead = self.now.after(Millis(self.dice.below(2_000)));
                IntentKind::Timer(TimerSpec::At(ahead))
            }
            15..18 => IntentKind::Wait {
                signal: self.signal_name(),
                timeout: self.dice.chance(50).then_some(Millis(1_000)),
                ask: None,
            },
            18 => IntentKind::Record(text("7")),
            _ => IntentKind::Publish {
                view: name("v"),
                value: text("8"),
            },
        }
    }

    fn ending(&mut self) -> IntentKind {
        if self.dice.chance(60) {
            return IntentKind::Complete(text("done"));
        }
        let (code, message) = ("NO".to_owned(), "no".to_owned());
        IntentKind::Fail { code, message }
    }

    pub(super) fn spec(&mut self) -> StepSpec {
        let retry = RetryPolicy {
            max_attempts: self.dice.chance(40).then_some(2),
            give_up: self
                .dice
                .one([GiveUp::Pause, GiveUp::Fail, GiveUp::Compensate]),
            give_up_after: Millis(if self.dice.chance(20) {
                1_000
            } else {
                86_400_000
            }),
            ..RetryPolicy::default()
        };
        let mut limits = Vec::new();
        for known in LIMITS {
            if self.dice.chance(self.swarm.limited) {
                limits.push(limit_name(known));
            }
        }
        let certainty = if !self.dice.chance(self.swarm.uncertain) {
            Certainty::AtLeastOnce
        } else if self.dice.chance(50) {
            Certainty::AtMostOnce
        } else {
            Certainty::Reconcile(name("find"))
        };
        StepSpec {
            step: name("charge"),
            queue: self.dice.chance(self.swarm.queued).then(|| name("q")),
            input: text("{}"),
            retry,
            timeout: self.dice.chance(20).then_some(Millis(3_000)),
            heartbeat: self.dice.chance(10).then_some(Millis(1_000)),
            limits,
            certainty,
            undo: self.dice.chance(self.swarm.undone).then(|| name("refund")),
            inline: false,
        }
    }

    pub(super) fn outcome(&mut self) -> AttemptOutcome {
        let message = "oh".to_owned();
        match self.dice.below(20) {
            0..11 => AttemptOutcome::Done(text("ok")),
            11..14 => AttemptOutcome::Retryable {
                message,
                after: self.dice.chance(50).then_some(Millis(50)),
            },
            14 => AttemptOutcome::Terminal {
                code: "NO".into(),
                message,
            },
            15 => AttemptOutcome::Throttled {
                limit: limit_name(self.dice.one(LIMITS)),
                after: Millis(300),
                message,
            },
            16 => AttemptOutcome::Panicked(message),
            17 => AttemptOutcome::Stopped,
            18 => AttemptOutcome::Absent,
            _ => AttemptOutcome::Unsure(message),
        }
    }

    pub(super) fn report(&mut self) -> Option<Report> {
        let mut open = Vec::new();
        for run in self.runs() {
            for (intent, step) in run.steps().filter(|(_, step)| !step.is_local()) {
                let lease = step.tries.lease();
                open.extend(lease.map(|lease| (run.id.clone(), intent, lease.fence)));
            }
            for owed in &run.undos {
                let lease = owed.tries.as_ref().and_then(Tries::lease);
                open.extend(lease.map(|lease| (run.id.clone(), owed.intent, lease.fence)));
            }
        }
        let (run, intent, fence) = self.dice.pick(&open)?;
        let outcome = self.outcome();
        Some(Report {
            run,
            result: StepResult {
                intent,
                fence,
                outcome,
            },
        })
    }
}

/// The number of the Advance that its driver may send next.
pub(in crate::sim::tier_a) fn next_number(run: &Run) -> Option<AdvanceNo> {
    let fence = run.drive?.fence;
    let last = run.last.as_ref().filter(|last| last.fence == fence);
    Some(AdvanceNo(last.map_or(1, |last| last.number.0 + 1)))
}

/// Intents under the numbers that come next.
pub(in crate::sim::tier_a) fn numbered(run: &Run, kinds: Vec<IntentKind>) -> Vec<Intent> {
    let numbers = run.next_intent.0..;
    let intents = numbers.zip(kinds).map(|(n, kind)| Intent {
        number: IntentNo(n),
        key: key(n),
        digest: Digest(0),
        kind,
    });
    intents.collect()
}
