//! One group under test: the core, the reference beside it, and all that must hold after each entry.
//!
//! Invariant: what happens to it is a list of acts that can be played again, so a failing history can be made smaller.
//! Not here: what happens next (`generator`), what a leader makes of it (`leaders`).

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use holdfast_proto::domain;
use holdfast_scheduler::{
    apply::{Applied, apply},
    entry::{Ask, Body, Command, Duty, Entry, Expire},
    ids::LogIndex,
    invariants,
    orders::Orders,
    reply::Reply,
    rows::{Fault, MemRows, Row},
    values::step::{Phase, Step},
};

use super::{
    broken::{Broken, must},
    compare,
    coverage::{Coverage, Reached},
    reference::Engine,
    tripwire::{Tripwire, Write},
    watch::{Seen, Watch},
};

/// Who judges, and how often what is costly.
#[derive(Debug, Clone, Copy)]
pub struct Judges {
    /// The reference engine runs beside the core.
    pub model: bool,
    /// The whole state is looked at after each so-many-th entry.
    pub whole_every: u32,
    /// Entries and rows are encoded and decoded at each so-many-th entry.
    pub recode_every: u32,
}

/// One entry and what it came to.
#[derive(Debug, Clone)]
pub struct Told {
    /// Its log index.
    pub at: LogIndex,
    /// It.
    pub entry: Arc<Entry>,
    /// What it came to.
    pub applied: Arc<Applied>,
    /// At which read its command was made to break.
    pub broke_at: Option<u32>,
}

/// The group.
#[derive(Debug)]
pub struct Group {
    pub(super) rows: Tripwire,
    pub(super) orders: Orders,
    engine: Option<Engine>,
    watch: Watch,
    judges: Judges,
    /// What was reached.
    pub coverage: Coverage,
    /// Everything that was applied, in order.
    pub log: Vec<Told>,
}

impl Group {
    /// Nothing applied yet.
    pub fn new(judges: Judges) -> Self {
        Self {
            rows: Tripwire::default(),
            orders: Orders::default(),
            engine: judges.model.then(Engine::default),
            watch: Watch::default(),
            judges,
            coverage: Coverage::default(),
            log: Vec::new(),
        }
    }

    /// The rows as they lie there.
    pub fn rows(&self) -> &MemRows {
        self.rows.rows()
    }

    /// The orders in memory.
    pub fn orders(&self) -> &Orders {
        &self.orders
    }

    /// The index of the entry to come.
    pub fn next(&self) -> LogIndex {
        LogIndex(self.log.last().map_or(1, |told| told.at.0 + 1))
    }

    /// Applies an entry and judges what came of it. With `breaks` its command is made to break, at a read that this number
    /// chooses; where it does none, it goes through.
    ///
    /// # Errors
    /// What did not hold.
    pub fn apply(
        &mut self,
        at: LogIndex,
        entry: Arc<Entry>,
        breaks: Option<u64>,
    ) -> Result<Arc<Applied>, Broken> {
        let broke_at = breaks.and_then(|chance| self.breakable(at, &entry, chance));
        let applied = play(&mut self.rows, &mut self.orders, (at, &entry), broke_at)
            .map_err(|broken| Broken { at: at.0, ..broken })?;
        let applied = Arc::new(applied);
        self.log.push(Told {
            at,
            entry: entry.clone(),
            applied: applied.clone(),
            broke_at,
        });
        let judged = self.judge(at, &entry, &applied, broke_at);
        judged.map_err(|broken| Broken { at: at.0, ..broken })?;
        Ok(applied)
    }

    /// At which read a command on one run may break, if it does any that lies within its savepoint.
    fn breakable(&self, at: LogIndex, entry: &Entry, chance: u64) -> Option<u32> {
        let Body::Batch { commands, .. } = &entry.body else {
            return None;
        };
        let [command] = commands.as_slice() else {
            return None;
        };
        if !is_breakable(command) {
            return None;
        }
        let (mut rows, mut orders) = (self.rows.clone(), self.orders.clone());
        play(&mut rows, &mut orders, (at, entry), None).ok()?;
        let reads = u64::from(rows.breakable());
        (reads > 0).then(|| u32::try_from(chance % reads).unwrap_or(0))
    }

    fn judge(
        &mut self,
        at: LogIndex,
        entry: &Entry,
        applied: &Applied,
        broke_at: Option<u32>,
    ) -> Result<(), Broken> {
        let broke = broke_at.is_some();
        self.coverage
            .entry(entry, &applied.replies, &applied.effects);
        if broke {
            self.coverage.reach(Reached::Planted);
        }
        let quarantined = applied.replies.contains(&Reply::Quarantined);
        must!(
            !quarantined || broke,
            "savepoint",
            "a command broke a rule of the core: {:?}",
            entry.body
        );
        let single = !fires(entry);
        let seen = Seen {
            at: at.0,
            entry,
            applied,
            writes: self.rows.writes(),
            planted: broke && single,
        };
        self.watch.see(&seen)?;
        for write in self.rows.writes() {
            let Some(Row::Run(run)) = &write.after else {
                continue;
            };
            let probes = |step: &Step| step.phase == Phase::Probe && step.tries.lease().is_some();
            if run.steps().any(|(_, step)| probes(step)) {
                self.coverage.reach(Reached::ProbeBegan);
            }
            match run.wake_source() {
                Some(source) => self.coverage.woken_by(source),
                None => must!(
                    false,
                    "W1",
                    "nothing will ever move run {} ({:?})",
                    run.id,
                    run.status()
                ),
            }
        }
        let nth = u32::try_from(self.log.len()).unwrap_or(u32::MAX);
        if nth.is_multiple_of(self.judges.recode_every) {
            self.coverage.reach(Reached::Recoded);
            recode(entry, self.rows.writes())?;
        }
        if nth.is_multiple_of(self.judges.whole_every) {
            self.whole()?;
        }
        self.compare(at, entry, applied, broke)
    }

    fn compare(
        &mut self,
        at: LogIndex,
        entry: &Entry,
        applied: &Applied,
        broke: bool,
    ) -> Result<(), Broken> {
        let Some(engine) = &mut self.engine else {
            return Ok(());
        };
        let reference = engine.apply(at, &entry.body, broke);
        if let Some(odd) = compare::replies(&applied.replies, &reference) {
            return Err(Broken::new("model", odd));
        }
        match compare::states(self.rows.rows(), engine) {
            Ok(None) => Ok(()),
            Ok(Some(odd)) => Err(Broken::new("model", odd)),
            Err(Fault(text)) => Err(Broken::new("fault", text)),
        }
    }

    /// Everything that must be true between two entries.
    ///
    /// # Errors
    /// What did not hold.
    pub fn whole(&self) -> Result<(), Broken> {
        let broken = invariants::check(self.rows.rows(), &self.orders);
        let broken = broken.map_err(|Fault(text)| Broken::new("fault", text))?;
        let Some(first) = broken.first() else {
            return Ok(());
        };
        let invariant = if first.contains("wake source") {
            "W1"
        } else if first.contains("rebuild") {
            "S20"
        } else {
            "whole"
        };
        Err(Broken::new(invariant, broken.join("; ")))
    }

    /// The process starts anew: rows as a snapshot carries them, orders made from them.
    ///
    /// # Errors
    /// The orders made from rows are not those that were fed.
    pub fn restart(&mut self) -> Result<(), Broken> {
        self.coverage.reach(Reached::Restarted);
        self.rows.restart();
        let rebuilt = rebuilt(self.rows.rows())?;
        must!(
            rebuilt == self.orders,
            "S20",
            "orders made from rows differ from those that row changes fed"
        );
        self.orders = rebuilt;
        Ok(())
    }

    /// The same log, applied to an empty replica that restarts at each `every`-th entry, comes to the same.
    ///
    /// # Errors
    /// What differs.
    pub fn again(&self, every: usize) -> Result<(), Broken> {
        let (mut rows, mut orders) = (Tripwire::default(), Orders::default());
        for (n, told) in self.log.iter().enumerate() {
            if n % every == 0 {
                rows.restart();
                orders = rebuilt(rows.rows())?;
            }
            let at = told.at.0;
            let applied = play(
                &mut rows,
                &mut orders,
                (told.at, &told.entry),
                told.broke_at,
            )?;
            if applied != *told.applied {
                let what = format!(
                    "a replica that restarts every {every} entries answers {applied:?}, this one {:?}",
                    told.applied
                );
                return Err(Broken {
                    at,
                    ..Broken::new("S15", what)
                });
            }
        }
        must!(
            rows.rows() == self.rows.rows(),
            "S15",
            "a replica that restarts every {every} entries has other rows"
        );
        must!(
            orders == self.orders,
            "S20",
            "a replica that restarts every {every} entries has other orders"
        );
        Ok(())
    }
}

fn rebuilt(rows: &MemRows) -> Result<Orders, Broken> {
    Orders::rebuild(rows).map_err(|Fault(text)| Broken::new("fault", text))
}

/// Applies one entry; what unwinds out of `apply` itself is a break of its own.
fn play(
    rows: &mut Tripwire,
    orders: &mut Orders,
    (at, entry): (LogIndex, &Entry),
    broke_at: Option<u32>,
) -> Result<Applied, Broken> {
    rows.begin();
    if let Some(read) = broke_at {
        rows.plant(read);
    }
    let applied = catch_unwind(AssertUnwindSafe(|| apply(rows, orders, at, entry)));
    match applied {
        Ok(Ok(applied)) => Ok(applied),
        Ok(Err(Fault(text))) => Err(Broken::new("fault", text)),
        Err(panic) => Err(Broken::new(
            "fault",
            format!("apply panicked: {}", words(&*panic)),
        )),
    }
}

/// What a panic said.
pub fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "without words".to_owned())
}

/// Commands with one savepoint that is entered before anything is read.
fn is_breakable(command: &Command) -> bool {
    match command {
        Command::Ask(Ask::Return(it)) => it.runs.len() + it.steps.len() == 1,
        Command::Ask(Ask::Attach(_) | Ask::Detach(_) | Ask::Deploy(_) | Ask::SetLimit(_)) => false,
        Command::Ask(_) => true,
        Command::Duty(Duty::Admit(_) | Duty::Expire(Expire::Session { .. }) | Duty::Collect(_)) => {
            false
        }
        Command::Duty(_) => true,
    }
}

/// Whether its only command has a savepoint for each of several runs.
fn fires(entry: &Entry) -> bool {
    match &entry.body {
        Body::Batch { commands, .. } => {
            matches!(commands.as_slice(), [Command::Duty(Duty::FireDue { .. })])
        }
        Body::BecomeLeader(_) => false,
    }
}

/// What lies on disk and in the log says the same once it is read again.
fn recode(entry: &Entry, writes: &[Write]) -> Result<(), Broken> {
    let read = domain::log::decode(domain::log::encode(entry));
    must!(
        read.as_ref() == Ok(entry),
        "codec",
        "an entry is read as {read:?}, it was {entry:?}"
    );
    for Write { key, after, .. } in writes {
        let read = domain::keys::decode(&domain::keys::encode(key));
        must!(
            read.as_ref() == Ok(key),
            "codec",
            "a key is read as {read:?}, it was {key:?}"
        );
        if let Some(row) = after {
            let read = domain::rows::decode(key, &domain::rows::encode(row));
            must!(
                read.as_ref() == Ok(row),
                "codec",
                "a row is read as {read:?}, it was {row:?}"
            );
        }
    }
    Ok(())
}
