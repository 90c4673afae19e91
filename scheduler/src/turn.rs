//! `Turn`: one entry being applied. Rows, clock, savepoint, next fence and effects; no decisions.
//!
//! Invariant: what a command writes is held back until it counts (`keep`), and dropped as a whole when it breaks a rule
//! of ours. Orders, index rows and counters follow from the row changes that count, so no command can forget a wake
//! source, and one that panicked has moved nothing.

use std::{
    collections::BTreeMap,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crate::{
    effect::Effect,
    ids::{Fence, IntentNo, LimitName, LogIndex, RunId, Slot},
    index,
    orders::Orders,
    reply::{End, JournalRow, Outcome, Reply},
    rows::{Alike, Fault, Key, ReadRows, Row, Rows, Stretch, TypedRows},
    seeded::{self, Bug},
    time::Timestamp,
    values::{
        limit::Limit,
        run::{Finished, Run},
    },
};

/// One entry being applied.
pub struct Turn<'a, R: Rows> {
    rows: &'a mut R,
    orders: &'a mut Orders,
    /// The entry's log index.
    pub at: LogIndex,
    /// The number of the command within the entry.
    pub slot: Slot,
    /// The group clock.
    pub now: Timestamp,
    incarnation: u8,
    grants: u32,
    tickets: u32,
    pending: BTreeMap<Key, Option<Row>>,
    staged: Vec<Effect>,
    effects: Vec<Effect>,
}

impl<'a, R: Rows> Turn<'a, R> {
    /// Begins an entry.
    pub fn open(
        rows: &'a mut R,
        orders: &'a mut Orders,
        at: LogIndex,
        now: Timestamp,
        incarnation: u8,
    ) -> Self {
        Self {
            rows,
            orders,
            at,
            slot: Slot(0),
            now,
            incarnation,
            grants: 0,
            tickets: 0,
            pending: BTreeMap::new(),
            staged: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// The orders as they stood after the last command that counted.
    pub fn orders(&self) -> &Orders {
        self.orders
    }

    /// Ends the entry: all effects, in order.
    pub fn close(self) -> Vec<Effect> {
        debug_assert!(
            self.pending.is_empty(),
            "an entry ended with writes that do not count"
        );
        self.effects
    }

    /// Applies one command to one run; what panics leaves nothing but the mark on its run.
    ///
    /// # Errors
    /// `Fault`: this replica cannot go on.
    pub fn guarded(
        &mut self,
        run: &RunId,
        command: impl FnOnce(&mut Self) -> Result<Reply, Fault>,
    ) -> Result<Reply, Fault> {
        let reply = self.attempt(command)?;
        if matches!(reply, Reply::Quarantined) {
            self.quarantine(run)?;
        }
        Ok(reply)
    }

    /// Applies one command that is about no single run.
    ///
    /// # Errors
    /// `Fault`: this replica cannot go on.
    pub fn attempt(
        &mut self,
        command: impl FnOnce(&mut Self) -> Result<Reply, Fault>,
    ) -> Result<Reply, Fault> {
        let (grants, tickets) = (self.grants, self.tickets);
        let result = catch_unwind(AssertUnwindSafe(|| {
            let reply = command(self)?;
            if matches!(reply, Reply::Rejected(_)) {
                assert!(
                    self.pending.is_empty(),
                    "a refused command has written something"
                );
            }
            Ok((reply, index::derive(self)?))
        }));
        match result {
            Ok(Ok((reply, changes))) => {
                self.keep(&changes);
                Ok(reply)
            }
            Ok(Err(fault)) => Err(fault),
            Err(_) => {
                if seeded::armed(Bug::PanicKeepsHalfItsRows) {
                    self.pending.retain(|key, _| !matches!(key, Key::Run(_)));
                    self.keep(&[]);
                }
                self.pending.clear();
                self.staged.clear();
                (self.grants, self.tickets) = (grants, tickets);
                Ok(Reply::Quarantined)
            }
        }
    }

    /// Writes the mark of a broken command, and nothing else. No panic text: it may differ between replicas.
    fn quarantine(&mut self, id: &RunId) -> Result<(), Fault> {
        if let Some(run) = self.run(id)? {
            let mut run = Arc::unwrap_or_clone(run);
            let (at, slot) = (self.at, self.slot);
            run.quarantine(format!(
                "command {slot} of log entry {at} broke a rule of Holdfast"
            ));
            self.store_run(run);
            let changes = index::derive(self)?;
            self.keep(&changes);
        }
        Ok(())
    }

    /// From here on the writes so far count; `changes` are the runs among them.
    fn keep(&mut self, changes: &[RunChange]) {
        for RunChange { before, after, .. } in changes {
            self.orders
                .change(before.as_deref(), after.as_deref(), &mut self.staged);
        }
        for (key, row) in std::mem::take(&mut self.pending) {
            match row {
                Some(row) => self.rows.put(key, row),
                None => self.rows.delete(key),
            }
        }
        self.effects.append(&mut self.staged);
    }

    /// Run rows changed by the current command: id, before, after.
    ///
    /// # Errors
    /// `Fault`: a row cannot be decoded.
    pub fn changed_runs(&self) -> Result<Vec<RunChange>, Fault> {
        let mut changes = Vec::new();
        for (key, row) in &self.pending {
            if let Key::Run(id) = key {
                let after = match row {
                    Some(Row::Run(run)) => Some(run.clone()),
                    _ => None,
                };
                changes.push(RunChange {
                    id: id.clone(),
                    before: self.rows.run(id)?,
                    after,
                });
            }
        }
        Ok(changes)
    }

    /// A fence larger than any before it.
    pub fn next_fence(&mut self) -> Fence {
        let slot = u16::try_from(self.grants).expect("512 commands of 128 grants fit 16 bits");
        self.grants += 1;
        let mut at = self.at;
        if seeded::armed(Bug::FenceResetOnFailover) {
            let epoch = self.rows.group().ok().flatten().map_or(0, |it| it.epoch);
            at = LogIndex(at.0 - epoch);
        }
        Fence::mint(self.incarnation, at, slot)
    }

    /// A place in a queue behind all others.
    pub fn next_ticket(&mut self) -> (u64, u32) {
        let ticket = (self.at.0, self.tickets);
        self.tickets += 1;
        ticket
    }

    /// Says what the leader might do.
    pub fn effect(&mut self, effect: Effect) {
        self.staged.push(effect);
    }

    /// Stores a row.
    pub fn put(&mut self, key: Key, row: Row) {
        self.pending.insert(key, Some(row));
    }

    /// Removes a row.
    pub fn delete(&mut self, key: Key) {
        self.pending.insert(key, None);
    }

    /// Stores a live run.
    pub fn store_run(&mut self, run: Run) {
        self.put(Key::Run(run.id.clone()), Row::Run(Arc::new(run)));
    }

    /// Stores a limit, unless nothing of it needs to be remembered.
    pub fn store_limit(&mut self, name: LimitName, limit: Limit) {
        if limit.is_forgettable(self.now) {
            self.delete(Key::Limit(name));
        } else {
            self.put(Key::Limit(name), Row::Limit(limit));
        }
    }

    /// Writes the next row of a run's journal.
    pub fn append_journal(&mut self, run: &mut Run, fill: impl FnOnce(&mut JournalRow)) {
        let mut row = JournalRow {
            seq: run.next_seq,
            at: self.now,
            position: (self.at.0, self.slot.0),
            delivery: None,
            seen: None,
            outcomes: Vec::new(),
            intents: Vec::new(),
            cancel: None,
            note: None,
        };
        fill(&mut row);
        if !seeded::armed(Bug::JournalRowOverwritten) || row.cancel.is_none() {
            run.next_seq.0 += 1;
        }
        self.put(
            Key::Journal(run.id.clone(), run.generation, row.seq),
            Row::Journal(Arc::new(row)),
        );
    }

    /// Records facts from outside at once: a living driver is told by News, else the run waits for one.
    pub fn deliver(&mut self, run: &mut Run, facts: Facts) {
        let number = run.drive.as_mut().map(|drive| {
            drive.delivery.0 += 1;
            drive.delivery
        });
        let seq = run.next_seq;
        self.append_journal(run, |row| {
            row.delivery = number;
            row.outcomes = facts.outcomes;
            row.cancel = facts.cancel;
            row.note = facts.note;
        });
        let Some(drive) = run.drive else {
            run.wake(self.now);
            return;
        };
        let key = Key::Journal(run.id.clone(), run.generation, seq);
        if let Some(Some(Row::Journal(row))) = self.pending.get(&key) {
            let effect = Effect::JournalGrew {
                run: run.id.clone(),
                session: drive.session,
                fence: drive.fence,
                delivery: drive.delivery,
                row: row.clone(),
            };
            self.staged.push(effect);
        }
    }

    /// Makes a run final. Its row goes, and with it whatever would have moved it.
    ///
    /// # Errors
    /// `Fault`: a row cannot be decoded.
    pub fn finish(&mut self, run: Run, end: End) -> Result<(), Fault> {
        assert!(
            !run.has_leased_step(),
            "run {} ends with a step in flight",
            run.id
        );
        if run.buffered.0 > 0 {
            self.drop_signals(&run.id)?;
        }
        self.delete(Key::Run(run.id.clone()));
        let finished = Finished {
            id: run.id.clone(),
            generation: run.generation,
            workflow: run.workflow,
            version: run.version,
            digest: run.digest,
            started: run.started,
            ended: self.now,
            end,
            rows: run.next_seq,
            // Granted anew since: not even its repeat is answered.
            last: run.last.filter(|last| run.newest_fence == Some(last.fence)),
            forgotten: false,
        };
        self.put(Key::Finished(run.id), Row::Finished(Arc::new(finished)));
        Ok(())
    }

    fn drop_signals(&mut self, id: &RunId) -> Result<(), Fault> {
        let from = Key::Signal(id.clone(), crate::ids::Name::from_stored(""), (0, 0));
        self.delete_all(&Stretch::from(from, Alike::One))
    }

    /// Removes the rows of a stretch.
    ///
    /// # Errors
    /// `Fault`: a row cannot be decoded.
    pub fn delete_all(&mut self, stretch: &Stretch) -> Result<(), Fault> {
        let mut keys = Vec::new();
        self.scan(stretch, &mut |key, _| {
            keys.push(key);
            true
        })?;
        for key in keys {
            self.delete(key);
        }
        Ok(())
    }
}

/// A run's row before and after a command.
#[derive(Debug)]
pub struct RunChange {
    /// Which run.
    pub id: RunId,
    /// None: it was not live.
    pub before: Option<Arc<Run>>,
    /// None: it is not live any more.
    pub after: Option<Arc<Run>>,
}

/// What one journal row of a delivery tells.
#[derive(Debug, Default)]
pub struct Facts {
    /// What came of intents.
    pub outcomes: Vec<(IntentNo, Outcome)>,
    /// Cancel was asked.
    pub cancel: Option<String>,
    /// For people.
    pub note: Option<String>,
}

impl Facts {
    /// What came of intents.
    pub fn outcomes(outcomes: Vec<(IntentNo, Outcome)>) -> Self {
        Self {
            outcomes,
            ..Self::default()
        }
    }
    /// A note for people.
    pub fn note(note: impl Into<String>) -> Self {
        Self {
            note: Some(note.into()),
            ..Self::default()
        }
    }
}

impl<R: Rows> ReadRows for Turn<'_, R> {
    fn get(&self, key: &Key) -> Result<Option<Row>, Fault> {
        match self.pending.get(key) {
            Some(row) => Ok(row.clone()),
            None => self.rows.get(key),
        }
    }

    fn scan(&self, stretch: &Stretch, each: &mut dyn FnMut(Key, Row) -> bool) -> Result<(), Fault> {
        let mut held = self
            .pending
            .range::<Key, _>((stretch.first(), Bound::Unbounded))
            .take_while(|(key, _)| stretch.reaches(key))
            .peekable();
        let mut wanted = true;
        self.rows.scan(stretch, &mut |key, row| {
            while let Some((held_key, held_row)) = held.next_if(|(held_key, _)| **held_key < key) {
                if let Some(row) = held_row {
                    wanted = each(held_key.clone(), row.clone());
                    if !wanted {
                        return false;
                    }
                }
            }
            wanted = match held.next_if(|(held_key, _)| **held_key == key) {
                Some((_, Some(row))) => each(key, row.clone()),
                Some((_, None)) => true,
                None => each(key, row),
            };
            wanted
        })?;
        for (key, row) in held {
            if !wanted {
                break;
            }
            if let Some(row) = row {
                wanted = each(key.clone(), row.clone());
            }
        }
        Ok(())
    }
}
