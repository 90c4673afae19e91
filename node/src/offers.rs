//! What a worker is sent when a lease is granted or offered again: `Drive`, `Execute`, `News`, made from rows.
//!
//! Invariant: nothing is sent under a fence that is not live in the rows it was made from; a `Drive` has every delivery
//! made under its fence so far, so `News` that came before it may be dropped by the worker.
//! Not here: who gets what (`scheduler::lead`), sending (`streams`).

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use holdfast_proto::{
    domain::wire::{self, KeyOf},
    v1,
};
use holdfast_scheduler::{
    commands::advance::input_of,
    entry::Work,
    ids::{DeliveryNo, Fence, Generation, IntentNo, RunId, Seq, SessionId},
    reply::{JournalRow, Outcome, StepGrant},
    rows::{Alike, Fault, Key, ReadRows, Row, Stretch, TypedRows},
    time::Timestamp,
    values::{
        run::Run,
        step::{Owed, Phase, Step, Tries},
    },
};

use crate::streams::{Held, Out};

/// Bytes of journal rows in one message: well below the 4 MiB that a message may have.
const ROWS_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Makes offers of one partition.
pub struct Offers<'a, R: ?Sized> {
    /// As of one moment.
    pub rows: &'a R,
    /// The partition.
    pub group: u32,
    /// Of idempotency keys.
    pub namespace: &'a str,
    /// The group clock.
    pub now: Timestamp,
}

impl<R: ReadRows + ?Sized> Offers<'_, R> {
    /// A run for its driver, in as many messages as it takes; none if that lease is over. A worker that kept the function
    /// is sent what is new; should it have let go of it meanwhile, it asks for `whole`.
    pub fn drive(&self, id: &RunId, fence: Fence, whole: bool) -> Result<Vec<Out>, Fault> {
        let Some((run, session)) = self.driven(id, fence)? else {
            return Ok(Vec::new());
        };
        let shown_from = match run.drive {
            Some(drive) if !whole => drive.shown_from,
            Some(_) | None => Seq(0),
        };
        let input = match shown_from {
            Seq(0) => self.rows.input(id, run.generation)?.unwrap_or_default(),
            Seq(_) => Bytes::new(),
        };
        let first = v1::Drive {
            run: id.to_string(),
            fence: fence.number(),
            workflow: run.workflow.to_string(),
            version: run.version.0,
            generation: run.generation.0,
            input,
            first_seq: shown_from.0,
            grants: self.local_grants(&run, session),
            advance: run
                .last
                .as_ref()
                .filter(|it| it.fence == fence)
                .map_or(0, |it| it.number.0),
            delivery: run.drive.map_or(0, |drive| drive.delivery.0),
            now_unix_ms: self.now.0,
            ..v1::Drive::default()
        };
        Ok(self.in_parts(&run, first, self.journal(&run, shown_from)?))
    }

    /// Splits rows over messages: the first has input and grants, all but the last say that more follows.
    fn in_parts(&self, run: &Run, first: v1::Drive, rows: Vec<JournalRow>) -> Vec<Out> {
        let mut parts = vec![first];
        let mut bytes = parts[0].input.len();
        for row in rows {
            let row = wire::journal_row_to(self.group, &row, true);
            let size = row.encoded_len();
            let last = parts.len() - 1;
            if bytes + size > ROWS_BYTES_MAX && bytes > 0 {
                parts[last].more = true;
                let part = v1::Drive {
                    run: parts[0].run.clone(),
                    fence: parts[0].fence,
                    workflow: parts[0].workflow.clone(),
                    version: parts[0].version,
                    generation: parts[0].generation,
                    first_seq: row.seq,
                    advance: parts[0].advance,
                    delivery: parts[0].delivery,
                    now_unix_ms: parts[0].now_unix_ms,
                    ..v1::Drive::default()
                };
                parts.push(part);
                bytes = 0;
            }
            bytes += size;
            let last = parts.len() - 1;
            parts[last].rows.push(row);
        }
        parts
            .into_iter()
            .map(|part| Out::Drive(run.generation, Box::new(part)))
            .collect()
    }

    /// The run, if this is its driver's live fence.
    fn driven(&self, id: &RunId, fence: Fence) -> Result<Option<(Arc<Run>, SessionId)>, Fault> {
        let Some(run) = self.rows.run(id)? else {
            return Ok(None);
        };
        let session = run
            .drive
            .filter(|drive| drive.fence == fence)
            .map(|drive| drive.session);
        Ok(session.map(|session| (run, session)))
    }

    fn journal(&self, run: &Run, first: Seq) -> Result<Vec<JournalRow>, Fault> {
        let mut rows = Vec::new();
        if first >= run.next_seq {
            return Ok(rows);
        }
        let from = Key::Journal(run.id.clone(), run.generation, first);
        self.rows
            .scan(&Stretch::from(from, Alike::Two), &mut |_, row| {
                let Row::Journal(row) = row else { return false };
                rows.push(Arc::unwrap_or_clone(row));
                true
            })?;
        Ok(rows)
    }

    /// Local steps that this session executes now.
    fn local_grants(&self, run: &Run, session: SessionId) -> Vec<v1::Grant> {
        let local = run.steps().filter(|(_, step)| step.is_local());
        local
            .filter_map(|(intent, step)| {
                let lease = step
                    .tries
                    .lease()
                    .filter(|lease| lease.session == session)?;
                let grant = grant_of(intent, lease.fence, step);
                Some(wire::grant_to(
                    self.namespace,
                    &run.id,
                    run.generation,
                    &grant,
                ))
            })
            .collect()
    }

    /// Facts from outside, and steps that may begin, for a living driver; none if that lease is over.
    pub fn news(
        &self,
        id: &RunId,
        fence: Fence,
        rows: &[JournalRow],
        grants: &[StepGrant],
    ) -> Result<Option<Out>, Fault> {
        let Some((run, _)) = self.driven(id, fence)? else {
            return Ok(None);
        };
        let grants = grants.iter();
        let grants = grants
            .map(|it| wire::grant_to(self.namespace, id, run.generation, it))
            .collect();
        Ok(Some(self.news_of(&run, fence, rows, grants)))
    }

    fn news_of(&self, run: &Run, fence: Fence, rows: &[JournalRow], grants: Vec<v1::Grant>) -> Out {
        let deliveries = rows
            .iter()
            .map(|row| wire::journal_row_to(self.group, row, true));
        let news = v1::News {
            run: run.id.to_string(),
            fence: fence.number(),
            deliveries: deliveries.collect(),
            grants,
        };
        Out::News(run.generation, news)
    }

    /// A lease offered again to a worker that attached again, unless it holds it.
    pub fn again(&self, held: &Held, work: &Work, fence: Fence) -> Result<Vec<Out>, Fault> {
        match work {
            Work::Run(id) => match held.runs.get(id) {
                Some((theirs, seen)) if *theirs == fence => self.unseen(id, fence, *seen),
                Some(_) | None => self.drive(id, fence, false),
            },
            Work::Step(id, intent) | Work::Undo(id, intent) => {
                if held.steps.get(&(id.clone(), intent.0)) == Some(&fence) {
                    return Ok(Vec::new());
                }
                Ok(self.execute(work, fence)?.into_iter().collect())
            }
        }
    }

    /// What a driver missed while its stream was gone: deliveries, and grants whose answer may have been lost.
    fn unseen(&self, id: &RunId, fence: Fence, seen: DeliveryNo) -> Result<Vec<Out>, Fault> {
        let Some((run, session)) = self.driven(id, fence)? else {
            return Ok(Vec::new());
        };
        let from = run.drive.map_or(run.next_seq, |drive| drive.unseen_from);
        let mut rows = self.journal(&run, from)?;
        rows.retain(|row| row.delivery.is_some_and(|number| number > seen));
        Ok(vec![self.news_of(
            &run,
            fence,
            &rows,
            self.local_grants(&run, session),
        )])
    }

    /// A step of a queue, a probe or an undo; none if that lease is over, or if it goes by its driver.
    pub fn execute(&self, work: &Work, fence: Fence) -> Result<Option<Out>, Fault> {
        let Some(run) = self.rows.run(work.run())? else {
            return Ok(None);
        };
        let execute = match work {
            Work::Run(_) => None,
            Work::Step(_, intent) => match run.step(*intent) {
                Some(step) if !step.is_local() && step.tries.is_under(fence) => {
                    Some(self.execute_step(&run, *intent, step, fence)?)
                }
                Some(_) | None => None,
            },
            Work::Undo(_, intent) => {
                let owed = run.undos.iter().find(|owed| owed.intent == *intent);
                let tries = owed.and_then(|owed| Some((owed, owed.tries.as_ref()?)));
                match tries.filter(|(_, tries)| tries.is_under(fence)) {
                    Some((owed, tries)) => Some(self.execute_undo(&run, owed, tries, fence)?),
                    None => None,
                }
            }
        };
        Ok(execute.map(|it| Out::Message(v1::to_worker::Message::Execute(it))))
    }

    fn execute_step(
        &self,
        run: &Run,
        intent: IntentNo,
        step: &Step,
        fence: Fence,
    ) -> Result<v1::Execute, Fault> {
        let key = |of| wire::idempotency_key(self.namespace, &run.id, run.generation, intent, of);
        let (purpose, key_of, key_asked) = match step.phase {
            Phase::Body => (v1::Purpose::Step, KeyOf::Step, String::new()),
            Phase::Probe => (v1::Purpose::Probe, KeyOf::Probe, key(KeyOf::Step)),
        };
        Ok(v1::Execute {
            run: run.id.to_string(),
            entry: intent.0,
            step: step.executes().to_string(),
            fence: fence.number(),
            attempt: step.tries.attempt,
            idempotency_key: key(key_of),
            purpose: purpose.into(),
            input: self.input(run, step.seq, intent)?,
            key_asked,
            timeout_ms: step.timeout.map_or(0, |timeout| timeout.0),
            progress: step.tries.progress.clone().unwrap_or_default(),
            generation: run.generation.0,
            ..v1::Execute::default()
        })
    }

    fn execute_undo(
        &self,
        run: &Run,
        owed: &Owed,
        tries: &Tries,
        fence: Fence,
    ) -> Result<v1::Execute, Fault> {
        let of =
            |of| wire::idempotency_key(self.namespace, &run.id, run.generation, owed.intent, of);
        let output = match owed.output {
            Some(seq) => self.output(run, seq, owed.intent)?,
            None => None,
        };
        Ok(v1::Execute {
            run: run.id.to_string(),
            entry: owed.intent.0,
            step: owed.undo.to_string(),
            fence: fence.number(),
            attempt: tries.attempt,
            idempotency_key: of(KeyOf::Undo),
            purpose: v1::Purpose::Undo.into(),
            input: self.input(run, owed.seq, owed.intent)?,
            has_output: output.is_some(),
            output: output.unwrap_or_default(),
            key_asked: of(KeyOf::Step),
            progress: tries.progress.clone().unwrap_or_default(),
            generation: run.generation.0,
            ..v1::Execute::default()
        })
    }

    fn input(&self, run: &Run, seq: Seq, intent: IntentNo) -> Result<Bytes, Fault> {
        let row = self.rows.journal_row(&run.id, run.generation, seq)?;
        let input = row.as_ref().and_then(|row| input_of(row, intent));
        input.ok_or_else(|| {
            Fault(format!(
                "journal row {seq} of run {} has no intent {intent}",
                run.id
            ))
        })
    }

    fn output(&self, run: &Run, seq: Seq, intent: IntentNo) -> Result<Option<Bytes>, Fault> {
        let row = self.rows.journal_row(&run.id, run.generation, seq)?;
        let outcomes = row
            .into_iter()
            .flat_map(|row| Arc::unwrap_or_clone(row).outcomes);
        Ok(outcomes
            .filter(|(of, _)| *of == intent)
            .find_map(|(_, outcome)| match outcome {
                Outcome::Done(output) => Some(output),
                Outcome::Failed { .. }
                | Outcome::Fired
                | Outcome::TimedOut
                | Outcome::Cancelled(_) => None,
            }))
    }

    /// Which life of its id a live run is in.
    pub fn generation(&self, id: &RunId) -> Result<Option<Generation>, Fault> {
        Ok(self.rows.run(id)?.map(|run| run.generation))
    }
}

fn grant_of(intent: IntentNo, fence: Fence, step: &Step) -> StepGrant {
    StepGrant {
        intent,
        fence,
        attempt: step.tries.attempt,
        timeout: step.timeout,
        progress: step.tries.progress.clone(),
    }
}
