//! Commands and their answers: one id one run, once per signal, repeats, duties of a leader that leads no more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use holdfast_scheduler::{
    entry::{Advance, Ask, AttemptOutcome, Change, Command, IfEnded, Start, StepResult},
    ids::{Digest, Fence, Generation, Name, RequestId, RunId},
    reply::{Advanced, Rejected, Reply, Reported},
};

use super::{
    super::broken::{Broken, must},
    Life, Right, Seen, Watch,
};

impl Watch {
    /// Each command with its answer, in order.
    pub(super) fn asked(&mut self, it: &Seen<'_>) -> Result<(), Broken> {
        let body_epoch = match &it.entry.body {
            holdfast_scheduler::entry::Body::Batch { epoch, .. } => *epoch,
            holdfast_scheduler::entry::Body::BecomeLeader(_) => return Ok(()),
        };
        let commands = it.commands();
        for (nth, (command, reply)) in commands.iter().zip(&it.applied.replies).enumerate() {
            let alone = nth == 0;
            match command {
                Command::Duty(duty) => {
                    let void = body_epoch != self.epoch;
                    must!(
                        void == matches!(reply, Reply::Void),
                        "S19",
                        "a duty under epoch {body_epoch} is answered {reply:?}, the epoch is {}: {duty:?}",
                        self.epoch
                    );
                }
                Command::Ask(ask) => self.ask(ask, reply, it, alone)?,
            }
        }
        Ok(())
    }

    fn ask(&mut self, ask: &Ask, reply: &Reply, it: &Seen<'_>, alone: bool) -> Result<(), Broken> {
        match (ask, reply) {
            (Ask::Start(start), _) => {
                if it.begins_a_forgotten_id(start, reply) {
                    self.lives.remove(&start.run);
                }
                self.started(start, reply, alone)?;
            }
            (Ask::Signal(signal), Reply::Changed(_)) => {
                let (name, id) = (&signal.name, &signal.id);
                self.heard(&signal.run, name, id, &signal.payload);
            }
            (
                Ask::Cancel(change) | Ask::Terminate(change) | Ask::Pause(change),
                Reply::Rejected(Rejected::RunEnded { status, .. }),
            ) if alone => self.too_late(change, *status)?,
            (Ask::Resume(change), Reply::Changed(_)) => self.forgive(&change.run, it.at),
            (Ask::Retry(retry), Reply::Changed(_)) => self.forgive(&retry.run, it.at),
            (Ask::Advance(advance), Reply::Advanced(advanced)) => {
                self.advanced(advance, advanced)?;
            }
            (Ask::Report(report), Reply::Reported(Reported::Accepted)) => {
                self.accepted(&report.run, &report.result)?;
            }
            (Ask::Progress(progress), Reply::Done) => {
                must!(
                    self.live.contains_key(&progress.fence),
                    "S6",
                    "progress under {} was taken, that lease is over",
                    progress.fence
                );
            }
            (Ask::SetLimit(set), Reply::LimitSet { .. }) => {
                self.limit_declared(&set.name, set.spec, it.commands().len() > 1);
            }
            (Ask::Attach(attach), Reply::Attached { session, .. }) => {
                if attach.session.is_none() {
                    let fence = Fence::from_wire(session.0);
                    must!(
                        fence > self.newest,
                        "S7",
                        "session {session} is no newer than {}",
                        self.newest
                    );
                    self.began.insert(fence);
                }
                for (name, spec) in &attach.limits {
                    self.limit_declared_by_worker(name, *spec, it.commands().len() > 1);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn forgive(&mut self, run: &RunId, at: u64) {
        if let Some(life) = self.lives.get_mut(run) {
            life.forgiven = at;
            for asked in life.intents.values_mut() {
                asked.lost &= asked.asks_a_probe();
            }
        }
    }

    fn too_late(
        &self,
        change: &Change,
        status: holdfast_scheduler::reply::Status,
    ) -> Result<(), Broken> {
        let ended = self.lives.get(&change.run).and_then(|life| life.ended);
        must!(
            ended == Some(status),
            "S2",
            "the loser at run {} was told that {status:?} won, it was {ended:?}",
            change.run
        );
        Ok(())
    }

    /// One id, one run; another input never joins it; a new life only after the end of the last.
    fn started(&mut self, start: &Start, reply: &Reply, alone: bool) -> Result<(), Broken> {
        let id = &start.run;
        let known = self.lives.get(id);
        let before = known.map_or(Generation(0), |life| life.generation);
        let same =
            known.is_none_or(|life| life.digest == start.digest && life.workflow == start.workflow);
        let ended = known.is_none_or(|life| life.ended.is_some());
        let Reply::Started {
            generation,
            created,
            ..
        } = reply
        else {
            return Ok(());
        };
        if !created {
            must!(same, "S3", "a start with another input joined run {id}");
            must!(
                *generation == before,
                "S3",
                "run {id} is in life {before}, {generation} was answered"
            );
            if let Some((name, signal, payload)) = &start.signal {
                self.heard(id, name, signal, payload);
            }
            return Ok(());
        }
        must!(
            generation.0 == before.0 + 1,
            "S3",
            "life {generation} of run {id} follows {before}"
        );
        must!(
            before.0 == 0 || start.if_ended == IfEnded::NewGeneration,
            "S3",
            "run {id} began anew, nobody asked for that"
        );
        must!(
            ended || !alone,
            "S3",
            "run {id} began anew while it was live"
        );
        self.lives.insert(id.clone(), Life::new(start, *generation));
        if let Some((name, signal, payload)) = &start.signal {
            self.heard(id, name, signal, payload);
        }
        Ok(())
    }

    fn heard(&mut self, run: &RunId, name: &Name, id: &RequestId, payload: &bytes::Bytes) {
        if let Some(life) = self.lives.get_mut(run)
            && life.heard.insert(id.clone())
        {
            let of_name = life.mail.entry(name.clone()).or_default();
            of_name.push_back(payload.clone());
        }
    }

    /// The first answer counts; a repeat gets it again, with each grant only while its lease lives.
    fn advanced(&mut self, it: &Advance, answer: &Advanced) -> Result<(), Broken> {
        for grant in &answer.grants {
            let fence = grant.fence;
            must!(
                self.lives(fence),
                "S9",
                "a grant under {fence} was answered, that lease is over"
            );
        }
        let under = self.lives(it.fence);
        let Some(life) = self.lives.get_mut(&it.run) else {
            return Ok(());
        };
        let known = life.answered.as_ref();
        let first = known.filter(|(fence, first)| *fence == it.fence && first.number == it.number);
        if let Some((_, first)) = first {
            let same = first.outcome == answer.outcome && first.deliveries == answer.deliveries;
            let fewer = answer
                .grants
                .iter()
                .all(|grant| first.grants.contains(grant));
            must!(
                same && fewer,
                "S9",
                "the repeat of Advance {} of run {} is answered {answer:?}, the first one {first:?}",
                it.number,
                it.run
            );
            return Ok(());
        }
        must!(
            under,
            "S6",
            "an Advance under {} was taken, that drive is over",
            it.fence
        );
        life.answered = Some((it.fence, answer.clone()));
        for result in &it.results {
            if self.lives(result.fence) {
                self.reported_by(&it.run, result);
            }
        }
        Ok(())
    }

    /// Whether a lease was live at any moment of this entry.
    fn lives(&self, fence: Fence) -> bool {
        self.live.contains_key(&fence) || self.began.contains(&fence)
    }

    fn accepted(&mut self, run: &RunId, result: &StepResult) -> Result<(), Broken> {
        let fence = result.fence;
        must!(
            self.lives(fence),
            "S6",
            "a report under {fence} was taken, that lease is over"
        );
        self.reported_by(run, result);
        Ok(())
    }

    /// Somebody said what became of an attempt.
    fn reported_by(&mut self, run: &RunId, result: &StepResult) {
        let StepResult {
            intent,
            fence,
            outcome,
        } = result;
        self.said.insert(*fence);
        if !matches!(outcome, AttemptOutcome::Stopped) {
            self.reported.insert(*fence);
        }
        let right = self.live.get(fence).copied();
        let Some(asked) = self
            .lives
            .get_mut(run)
            .and_then(|life| life.intents.get_mut(intent))
        else {
            return;
        };
        match (right, outcome) {
            (Some(Right::Probe(_)), AttemptOutcome::Absent) => {
                (asked.lost, asked.owed) = (false, false);
            }
            (Some(Right::Undo(_)), AttemptOutcome::Done(_)) => asked.owed = false,
            _ => {}
        }
    }
}

impl Life {
    fn new(start: &Start, generation: Generation) -> Self {
        Self {
            generation,
            digest: Digest(start.digest.0),
            workflow: start.workflow.clone(),
            ended: None,
            cancelled: false,
            requests: BTreeSet::new(),
            answered: None,
            next_seq: 0,
            next_intent: 0,
            keys: BTreeSet::new(),
            intents: BTreeMap::new(),
            delivery: 0,
            drive: None,
            ending: None,
            heard: BTreeSet::new(),
            mail: BTreeMap::<Name, VecDeque<_>>::new(),
            forgiven: 0,
        }
    }
}
