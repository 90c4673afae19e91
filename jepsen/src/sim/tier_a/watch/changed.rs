//! Run rows: leases begin and end, steps take places at limits.

use std::sync::Arc;

use holdfast_scheduler::{
    entry::{Certainty, Work},
    ids::{Fence, IntentNo, RunId},
    reply::End,
    rows::Row,
    values::{
        run::{Back, Run},
        step::{Phase, Tries},
    },
};

use super::{
    super::{
        broken::{Broken, must},
        tripwire::Write,
    },
    Asked, Life, Right, Seen, Watch, What,
};

fn run_of(row: Option<&Row>) -> Option<&Arc<Run>> {
    match row {
        Some(Row::Run(run)) => Some(run),
        _ => None,
    }
}

fn leases(run: Option<&Arc<Run>>) -> Vec<(Work, Fence)> {
    let leases = run.map(|run| run.leases()).unwrap_or_default();
    leases
        .into_iter()
        .map(|(work, lease)| (work, lease.fence))
        .collect()
}

/// Fences of leases that this write begins.
pub(super) fn begun(write: &Write) -> Vec<Fence> {
    let Some(after) = run_of(write.after.as_ref()) else {
        return Vec::new();
    };
    let before = leases(run_of(write.before.as_ref()));
    let after = leases(Some(after)).into_iter();
    after
        .filter(|it| !before.contains(it))
        .map(|(_, fence)| fence)
        .collect()
}

impl Watch {
    pub(super) fn run_changed(
        &mut self,
        id: &RunId,
        write: &Write,
        it: &Seen<'_>,
    ) -> Result<(), Broken> {
        let (before, after) = (run_of(write.before.as_ref()), run_of(write.after.as_ref()));
        let Some(generation) = after.or(before).map(|run| run.generation) else {
            return Ok(());
        };
        let (were, are) = (leases(before), leases(after));
        if self.life(id, generation).is_none() {
            // A later command of this entry has begun its next life.
            self.ended.extend(were.iter().map(|(_, fence)| *fence));
            return self.places_changed(before.map(|it| &**it), after.map(|it| &**it), it);
        }
        for (work, fence) in were.iter().filter(|it| !are.contains(it)) {
            self.lease_ended(id, work, *fence, it);
        }
        for (work, fence) in are.iter().filter(|it| !were.contains(it)) {
            if let Some(run) = after {
                self.lease_began(run, work, *fence)?;
            }
        }
        self.places_changed(before.map(|it| &**it), after.map(|it| &**it), it)
    }

    fn lease_ended(&mut self, id: &RunId, work: &Work, fence: Fence, it: &Seen<'_>) {
        self.ended.insert(fence);
        let right = self.live.get(&fence).copied();
        let lost = !self.reported.contains(&fence);
        let Some(life) = self.lives.get_mut(id) else {
            return;
        };
        match work {
            Work::Run(_) => life.drive = None,
            Work::Step(_, intent) => {
                if let Some(asked) = life.intents.get_mut(intent) {
                    asked.live = None;
                    let body = matches!(right, Some(Right::Body(_)));
                    asked.lost |= lost && body && (life.forgiven != it.at || asked.asks_a_probe());
                }
            }
            Work::Undo(..) => {}
        }
    }

    fn lease_began(&mut self, run: &Run, work: &Work, fence: Fence) -> Result<(), Broken> {
        must!(
            fence > self.newest,
            "S7",
            "{work:?} is granted under {fence}, {} was before",
            self.newest
        );
        let taken = self.live.contains_key(&fence);
        must!(!taken, "S7", "two leases are under fence {fence}");
        let Some(life) = self.lives.get_mut(work.run()) else {
            return Ok(());
        };
        let right = match work {
            Work::Run(_) => {
                must!(life.drive.is_none(), "S6", "run {} has two drivers", run.id);
                must!(
                    !life.cancelled,
                    "S17",
                    "run {} is driven after its cancel was answered",
                    run.id
                );
                (life.drive, life.delivery) = (Some(fence), 0);
                Right::Drive
            }
            Work::Step(_, intent) => step_began(life, run, *intent, fence)?,
            Work::Undo(_, intent) => undo_began(life, run, *intent)?,
        };
        self.live.insert(fence, right);
        Ok(())
    }
}

fn step_began(life: &mut Life, run: &Run, intent: IntentNo, fence: Fence) -> Result<Right, Broken> {
    let id = &run.id;
    must!(
        !life.cancelled,
        "S17",
        "step {intent} of run {id} is granted after a cancel was answered"
    );
    let Some(step) = run.step(intent) else {
        return Ok(Right::Body(intent));
    };
    let Some(asked) = life.intents.get_mut(&intent) else {
        // Its row of the journal follows in the same command, and says what it is.
        let mut asked = Asked::new(What::Other);
        asked.began(step.phase, fence, step.tries.attempt);
        life.intents.insert(intent, asked);
        return Ok(Right::Body(intent));
    };
    must!(
        !asked.done,
        "S5a",
        "step {intent} of run {id} is granted, it is done"
    );
    must!(
        asked.live.is_none(),
        "S6",
        "step {intent} of run {id} is granted twice"
    );
    must!(
        fence > asked.newest,
        "S7",
        "step {intent} of run {id}: {fence} after {}",
        asked.newest
    );
    let (attempt, attempts) = (step.tries.attempt, asked.attempts);
    must!(
        attempt == attempts + 1,
        "S9",
        "attempt {attempt} of step {intent} of run {id} follows {attempts}"
    );
    if step.phase == Phase::Body && asked.lost {
        let once = asked.certainty() == Some(&Certainty::AtMostOnce);
        must!(
            !once,
            "S9",
            "step {intent} of run {id} may have happened, must not be repeated, and is granted again"
        );
        must!(
            !asked.asks_a_probe(),
            "S9",
            "step {intent} of run {id} is granted again, its probe was not asked"
        );
    }
    asked.began(step.phase, fence, attempt);
    Ok(match step.phase {
        Phase::Body => Right::Body(intent),
        Phase::Probe => Right::Probe(intent),
    })
}

/// An undo begins only once its step is over, newest first.
fn undo_began(life: &mut Life, run: &Run, intent: IntentNo) -> Result<Right, Broken> {
    let id = &run.id;
    let completed = matches!(
        run.back(),
        Back::Undoing {
            end: End::Completed(_)
        }
    );
    let ending = life.ending;
    let newer = life.intents.range(intent..).skip(1);
    for (other, asked) in newer {
        let owed = asked.owed && (!completed || asked.was_withdrawn(ending));
        must!(
            !owed,
            "S23",
            "entry {intent} of run {id} is undone before {other}, which is newer"
        );
    }
    let Some(asked) = life.intents.get_mut(&intent) else {
        return Ok(Right::Undo(intent));
    };
    must!(
        asked.live.is_none(),
        "S23",
        "step {intent} of run {id} is in flight, and its undo is granted"
    );
    let tries = run.undos.iter().find(|owed| owed.intent == intent);
    let attempt = tries
        .and_then(|owed| owed.tries.as_ref())
        .map_or(0, |tries: &Tries| tries.attempt);
    let before = asked.undo_attempts;
    must!(
        attempt == before + 1,
        "S9",
        "attempt {attempt} at undoing entry {intent} of run {id} follows {before}"
    );
    asked.undo_attempts = attempt;
    Ok(Right::Undo(intent))
}

impl Asked {
    pub(super) fn new(what: What) -> Self {
        Self {
            what,
            outcome: None,
            done: false,
            live: None,
            attempts: 0,
            newest: Fence::default(),
            lost: false,
            owed: false,
            undo_attempts: 0,
        }
    }

    fn began(&mut self, phase: Phase, fence: Fence, attempt: u32) {
        (self.live, self.newest, self.attempts) = (Some(fence), fence, attempt);
        self.owed |= self.has_undo() && phase == Phase::Body;
    }

    /// It was asked for like this.
    pub(super) fn told(&mut self, what: What) {
        self.what = what;
        self.owed |= self.has_undo() && self.attempts > 0;
    }

    fn has_undo(&self) -> bool {
        matches!(&self.what, What::Step(spec) if spec.undo.is_some())
    }

    fn certainty(&self) -> Option<&Certainty> {
        match &self.what {
            What::Step(spec) => Some(&spec.certainty),
            What::Timer(_) | What::Wait(..) | What::Other => None,
        }
    }

    pub(super) fn asks_a_probe(&self) -> bool {
        matches!(self.certainty(), Some(Certainty::Reconcile(_)))
    }

    /// Whether it was open when the run's ending was accepted.
    pub(super) fn was_withdrawn(&self, ending: Option<(u64, u32)>) -> bool {
        ending.is_none_or(|ending| self.outcome.is_none_or(|outcome| outcome > ending))
    }
}
