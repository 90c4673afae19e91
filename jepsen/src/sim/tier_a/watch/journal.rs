//! Journal rows and ends: written once, in order; each intent once, each outcome once; signals in order; nothing early.

use std::collections::BTreeSet;

use holdfast_scheduler::{
    entry::{Ask, Body, Command, Duty, Intent, IntentKind, TimerSpec},
    ids::{Generation, IntentNo, RunId},
    reply::{End, JournalRow, Outcome, Reply},
    rows::{Key, Row},
    time::Timestamp,
    values::run::Run,
};

use super::{
    super::{
        broken::{Broken, must},
        tripwire::Write,
    },
    Asked, Life, Seen, Watch, What,
};

impl Watch {
    pub(super) fn journal_changed(
        &mut self,
        (id, generation): (&RunId, Generation),
        write: &Write,
        it: &Seen<'_>,
    ) -> Result<(), Broken> {
        let Some(Row::Journal(row)) = &write.after else {
            // Rows of a life go together with all that is left of it; the next one may begin in the same entry.
            let ended = |life: &Life| life.ended.is_some() || life.generation > generation;
            let goes = self.lives.get(id).is_none_or(ended) || it.lets_go_of(id);
            must!(goes, "S16", "{:?} of a living run was deleted", write.key);
            return Ok(());
        };
        must!(
            write.before.is_none(),
            "S16",
            "{:?} is written over",
            write.key
        );
        let now = self.now;
        let Some(life) = self.life(id, generation) else {
            return Ok(());
        };
        must!(
            life.ended.is_none(),
            "S2",
            "the journal of {id} grows after its end"
        );
        must!(
            row.seq.0 == life.next_seq,
            "S16",
            "row {} of the journal of {id} comes after {}",
            row.seq,
            life.next_seq
        );
        life.next_seq += 1;
        must!(
            row.at == now,
            "S26",
            "row {} of {id} says {}, the group clock is {now}",
            row.seq,
            row.at
        );
        deliveries(life, id, row)?;
        for (intent, outcome) in &row.outcomes {
            came_of(life, id, *intent, outcome, row)?;
        }
        for intent in &row.intents {
            accepted(life, id, intent, row)?;
        }
        Ok(())
    }

    pub(super) fn finished_changed(
        &mut self,
        id: &RunId,
        write: &Write,
        it: &Seen<'_>,
    ) -> Result<(), Broken> {
        let Some(Row::Finished(done)) = &write.after else {
            if it.forgets(write) {
                return Ok(());
            }
            let anew = it.asks().any(|(ask, reply)| {
                let created = matches!(reply, Reply::Started { created: true, .. });
                created && matches!(ask, Ask::Start(start) if start.run == *id)
            });
            must!(anew, "S2", "the end of run {id} was forgotten");
            return Ok(());
        };
        if let Some(Row::Finished(before)) = &write.before {
            let over = match before.end {
                End::Completed(_) => it.collects(|collect| before.ended < collect.completed),
                _ => it.collects(|collect| before.ended < collect.failed),
            };
            let same = before.end.status() == done.end.status()
                && (before.generation, before.digest) == (done.generation, done.digest)
                && before.ended == done.ended;
            must!(
                over && !before.forgotten && done.forgotten && same,
                "S2",
                "the end of run {id} was written over"
            );
            return Ok(());
        }
        let status = done.end.status();
        let in_flight = self.in_flight(id, it);
        let Some(life) = self.life(id, done.generation) else {
            return Ok(());
        };
        must!(
            life.ended.is_none(),
            "S2",
            "run {id} ended twice, as {:?} and {status:?}",
            life.ended
        );
        life.ended = Some(status);
        if matches!(done.end, End::Terminated { .. }) {
            return Ok(());
        }
        must!(
            !in_flight,
            "S2",
            "run {id} ended as {status:?} with a step in flight"
        );
        let completed = matches!(done.end, End::Completed(_));
        let ending = life.ending;
        let owes = |asked: &Asked| asked.owed && (!completed || asked.was_withdrawn(ending));
        let owed = life.intents.iter().find(|(_, asked)| owes(asked));
        if let Some((intent, _)) = owed {
            must!(
                false,
                "S23",
                "run {id} ended as {status:?}, entry {intent} is not undone"
            );
        }
        Ok(())
    }

    /// Whether a step's lease ended by the run's end alone: nobody reported it, and nothing expired.
    fn in_flight(&self, id: &RunId, it: &Seen<'_>) -> bool {
        let [command] = it.commands() else {
            return false;
        };
        let by_itself = match command {
            Command::Ask(Ask::Advance(_) | Ask::Report(_)) => true,
            Command::Duty(Duty::FireDue { .. }) => true,
            Command::Ask(_) | Command::Duty(_) => false,
        };
        let body = matches!(it.entry.body, Body::Batch { .. });
        let lost = self.ended.iter().filter(|fence| !self.said.contains(fence));
        let life = self.lives.get(id);
        let steps = lost.filter(|fence| {
            life.is_some_and(|life| life.intents.values().any(|asked| asked.newest == **fence))
        });
        by_itself && body && steps.count() > 0
    }

    /// Signals that were acknowledged and not taken lie there, no more and no less.
    pub(super) fn mail_adds_up(&self, it: &Seen<'_>) -> Result<(), Broken> {
        let mut looked_at = BTreeSet::new();
        for write in it.writes.iter().rev() {
            if let Key::Run(id) = &write.key
                && looked_at.insert(id)
                && let Some(Row::Run(run)) = &write.after
            {
                self.mail_of(run)?;
            }
        }
        Ok(())
    }

    fn mail_of(&self, run: &Run) -> Result<(), Broken> {
        let life = self.lives.get(&run.id);
        let Some(life) = life.filter(|life| life.generation == run.generation) else {
            return Ok(());
        };
        let waiting: usize = life
            .mail
            .values()
            .map(std::collections::VecDeque::len)
            .sum();
        let counted = run.buffered.0 as usize;
        must!(
            waiting == counted,
            "S12",
            "{waiting} acknowledged signals wait for run {}, its row counts {counted}",
            run.id
        );
        Ok(())
    }
}

/// Outside facts are numbered without gap in each drive; an ending beside one that was not seen is refused.
fn deliveries(life: &mut Life, id: &RunId, row: &JournalRow) -> Result<(), Broken> {
    if let Some(number) = row.delivery {
        let last = life.delivery;
        must!(
            number.0 == last + 1,
            "S24",
            "delivery {number} of run {id} follows {last}"
        );
        life.delivery = number.0;
    }
    let ends = |it: &&Intent| matches!(it.kind, IntentKind::Complete(_) | IntentKind::Fail { .. });
    if let (Some(seen), Some(_)) = (row.seen, row.intents.iter().find(ends)) {
        must!(
            life.delivery <= seen.0,
            "S24",
            "run {id} ends, its function saw delivery {seen} of {}",
            life.delivery
        );
        life.ending = Some(row.position);
    }
    Ok(())
}

fn came_of(
    life: &mut Life,
    id: &RunId,
    intent: IntentNo,
    outcome: &Outcome,
    row: &JournalRow,
) -> Result<(), Broken> {
    let Some(asked) = life.intents.get_mut(&intent) else {
        must!(
            false,
            "S4",
            "something came of entry {intent} of run {id}, which nobody asked for"
        );
        return Ok(());
    };
    must!(
        asked.outcome.is_none(),
        "S5a",
        "something came of entry {intent} of run {id} twice"
    );
    asked.outcome = Some(row.position);
    asked.done |= matches!(outcome, Outcome::Done(_));
    let early = |due: Timestamp| row.at < due;
    match (&asked.what, outcome) {
        (What::Timer(due), Outcome::Fired) => {
            must!(
                !early(*due),
                "S13",
                "timer {intent} of run {id} fires at {}, it is due at {due}",
                row.at
            );
        }
        (What::Wait(_, Some(due)), Outcome::TimedOut) => {
            must!(
                !early(*due),
                "S13",
                "wait {intent} of run {id} times out at {}, it is due at {due}",
                row.at
            );
        }
        (What::Wait(name, _), Outcome::Done(payload)) => {
            let first = life
                .mail
                .get_mut(name)
                .and_then(std::collections::VecDeque::pop_front);
            must!(
                first.as_ref() == Some(payload),
                "S12",
                "run {id} takes another signal {name} than the one that came first"
            );
        }
        (What::Step(_) | What::Wait(..), _) => {}
        (What::Timer(_) | What::Other, other) => {
            must!(false, "S4", "entry {intent} of run {id} came to {other:?}");
        }
    }
    Ok(())
}

/// An intent is taken once, under the next number and a key of its own.
fn accepted(life: &mut Life, id: &RunId, it: &Intent, row: &JournalRow) -> Result<(), Broken> {
    must!(
        it.number.0 == life.next_intent,
        "S25",
        "intent {} of run {id} comes after {}",
        it.number,
        life.next_intent
    );
    life.next_intent += 1;
    must!(
        life.keys.insert(it.key.clone()),
        "S25",
        "key {} of run {id} means two things",
        it.key
    );
    let due = |spec: &TimerSpec| match spec {
        TimerSpec::After(span) => row.at.after(*span),
        TimerSpec::At(at) => *at,
    };
    let what = match &it.kind {
        IntentKind::Step(spec) => What::Step(Box::new(spec.clone())),
        IntentKind::Timer(spec) => What::Timer(due(spec)),
        IntentKind::Wait {
            signal, timeout, ..
        } => What::Wait(signal.clone(), timeout.map(|span| row.at.after(span))),
        IntentKind::Record(_)
        | IntentKind::Publish { .. }
        | IntentKind::Complete(_)
        | IntentKind::Fail { .. } => What::Other,
    };
    let asked = life.intents.entry(it.number);
    asked.or_insert_with(|| Asked::new(What::Other)).told(what);
    Ok(())
}
