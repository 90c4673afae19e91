//! The invariants that the log and the rows can decide, each after each entry, from what was seen so far.
//!
//! Invariant: nothing here asks the core what it thinks; commands, replies and changed rows are enough. What a batch leaves
//! open (which of its commands came before which change) is judged in the asker's favour. Not here: the reference engine
//! (`compare`), invariants of the leader's memory (`leaders`).

mod asked;
mod changed;
mod journal;
mod limits;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use holdfast_scheduler::{
    apply::Applied,
    entry::{Ask, Body, Collect, Command, Duty, Entry, Start, StepSpec},
    ids::{Digest, Epoch, Fence, Generation, IntentNo, LimitName, Name, RequestId, RunId, StepKey},
    reply::{Advanced, Reply, Status},
    rows::{Key, Row},
    time::Timestamp,
};

use super::{
    broken::{Broken, must},
    tripwire::Write,
};

/// One entry, what was answered, and what it wrote.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Its log index.
    pub at: u64,
    /// It.
    pub entry: &'a Entry,
    /// What it came to.
    pub applied: &'a Applied,
    /// Rows in the order in which they were written.
    pub writes: &'a [Write],
    /// Its only command was made to break.
    pub planted: bool,
}

impl Seen<'_> {
    fn commands(&self) -> &[Command] {
        match &self.entry.body {
            Body::Batch { commands, .. } => commands,
            Body::BecomeLeader(_) => &[],
        }
    }

    fn asks(&self) -> impl Iterator<Item = (&Ask, &Reply)> {
        let told = self.commands().iter().zip(&self.applied.replies);
        told.filter_map(|(command, reply)| match command {
            Command::Ask(ask) => Some((ask, reply)),
            Command::Duty(_) => None,
        })
    }

    /// Whether an id is remembered no longer from this entry on: what comes under it is a new run.
    fn forgets(&self, write: &Write) -> bool {
        let (Key::Finished(id), Some(Row::Finished(done)), None) =
            (&write.key, &write.before, &write.after)
        else {
            return false;
        };
        let mut begun = self.asks().filter_map(|(ask, reply)| match (ask, reply) {
            (
                Ask::Start(start),
                Reply::Started {
                    generation,
                    created: true,
                    ..
                },
            ) if start.run == *id => Some(generation.0),
            _ => None,
        });
        let goes_on = begun.next().is_some_and(|generation| generation > 1);
        done.forgotten && !goes_on && self.collects(|it| done.ended < it.ids)
    }

    /// Whether all but the end of a run went with this entry.
    fn lets_go_of(&self, id: &RunId) -> bool {
        let forgotten = |row: &Row| matches!(row, Row::Finished(done) if done.forgotten);
        let of_run = |write: &&Write| matches!(&write.key, Key::Finished(of) if of == id);
        let mut ends = self.writes.iter().filter(of_run);
        ends.any(|write| write.after.as_ref().is_some_and(forgotten))
    }

    /// Whether a start began the first life of an id that was remembered until this entry.
    fn begins_a_forgotten_id(&self, start: &Start, reply: &Reply) -> bool {
        let first = matches!(
            reply,
            Reply::Started {
                generation: Generation(1),
                created: true,
                ..
            }
        );
        let forgotten = |write: &Write| {
            matches!(&write.key, Key::Finished(id) if *id == start.run) && self.forgets(write)
        };
        first && self.writes.iter().any(forgotten)
    }

    /// Whether a duty of this entry collects by such bounds.
    fn collects(&self, such: impl Fn(&Collect) -> bool) -> bool {
        self.commands().iter().any(|command| match command {
            Command::Duty(Duty::Collect(it)) => such(it),
            Command::Duty(_) | Command::Ask(_) => false,
        })
    }
}

/// All that was seen of one group.
#[derive(Debug, Default)]
pub struct Watch {
    epoch: Epoch,
    now: Timestamp,
    /// The largest fence of any earlier entry.
    newest: Fence,
    /// Fences of this entry.
    began: BTreeSet<Fence>,
    /// Live when the entry began, or begun in it.
    live: BTreeMap<Fence, Right>,
    /// Ended in this entry.
    ended: BTreeSet<Fence>,
    /// Reported in this entry, so that its attempt was no loss.
    reported: BTreeSet<Fence>,
    /// The same, and those of which it was said that they were stopped.
    said: BTreeSet<Fence>,
    lives: BTreeMap<RunId, Life>,
    limits: BTreeMap<LimitName, limits::Gate>,
}

/// What a lease was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Right {
    Drive,
    Body(IntentNo),
    Probe(IntentNo),
    Undo(IntentNo),
}

/// The newest life of a run id.
#[derive(Debug)]
struct Life {
    generation: Generation,
    digest: Digest,
    workflow: Name,
    ended: Option<Status>,
    /// A cancel was answered, by an earlier entry.
    cancelled: bool,
    /// Requests that were answered with what they changed.
    requests: BTreeSet<RequestId>,
    answered: Option<(Fence, Advanced)>,
    next_seq: u32,
    next_intent: u32,
    keys: BTreeSet<StepKey>,
    intents: BTreeMap<IntentNo, Asked>,
    /// The last delivery under the drive that began last.
    delivery: u32,
    drive: Option<Fence>,
    /// Where its ending was accepted.
    ending: Option<(u64, u32)>,
    heard: BTreeSet<RequestId>,
    mail: BTreeMap<Name, VecDeque<Bytes>>,
    /// The entry in which a person let it go on.
    forgiven: u64,
}

/// Something that its function asked for.
#[derive(Debug)]
struct Asked {
    what: What,
    outcome: Option<(u64, u32)>,
    done: bool,
    live: Option<Fence>,
    attempts: u32,
    newest: Fence,
    /// A lease was lost after its body may have begun, and nobody said since what became of it.
    lost: bool,
    owed: bool,
    undo_attempts: u32,
}

#[derive(Debug)]
enum What {
    Step(Box<StepSpec>),
    Timer(Timestamp),
    Wait(Name, Option<Timestamp>),
    Other,
}

impl Watch {
    /// Judges one entry.
    ///
    /// # Errors
    /// What did not hold.
    pub fn see(&mut self, it: &Seen<'_>) -> Result<(), Broken> {
        self.clock(it)?;
        self.began = it.writes.iter().flat_map(changed::begun).collect();
        self.asked(it)?;
        if it.planted {
            savepoint(it)?;
        }
        for write in it.writes.iter().filter(|write| it.forgets(write)) {
            // Unless its next one began in the same entry already.
            if let Key::Finished(id) = &write.key
                && self.lives.get(id).is_some_and(|life| life.ended.is_some())
            {
                self.lives.remove(id);
            }
        }
        for write in it.writes {
            match &write.key {
                Key::Run(id) => self.run_changed(id, write, it)?,
                Key::Journal(id, generation, _) => {
                    self.journal_changed((id, *generation), write, it)?;
                }
                Key::Limit(name) => self.limit_changed(name, write),
                _ => {}
            }
        }
        // Rows come in the order of their keys: what a command ended a run with stands behind its end.
        for write in it.writes {
            if let Key::Finished(id) = &write.key {
                self.finished_changed(id, write, it)?;
            }
        }
        self.mail_adds_up(it)?;
        self.close(it);
        Ok(())
    }

    /// The group clock never falls, and is the anchor's or the proposer's where that is later.
    fn clock(&mut self, it: &Seen<'_>) -> Result<(), Broken> {
        let told = match &it.entry.body {
            Body::BecomeLeader(leader) => leader.anchor,
            Body::Batch { proposed_at, .. } => *proposed_at,
        };
        let expected = self.now.max(told);
        let mut clock = self.now;
        for write in it.writes {
            if let (Key::Group, Some(Row::Group(group))) = (&write.key, &write.after) {
                must!(
                    group.clock >= clock,
                    "S26",
                    "the group clock fell from {clock} to {}",
                    group.clock
                );
                clock = group.clock;
            }
        }
        must!(
            clock == expected,
            "S26",
            "the group clock is {clock}, it should be {expected}"
        );
        self.now = clock;
        Ok(())
    }

    /// What the entry ended is over from here on.
    fn close(&mut self, it: &Seen<'_>) {
        if matches!(it.entry.body, Body::BecomeLeader(_)) {
            self.epoch = Epoch(it.at);
        }
        for fence in std::mem::take(&mut self.ended) {
            self.live.remove(&fence);
        }
        let newest = self.began.last().copied().unwrap_or_default();
        self.newest = self.newest.max(newest);
        self.changes_answered(it);
        self.reported.clear();
        self.said.clear();
    }

    /// From the next entry on a cancelled run gets nothing new.
    fn changes_answered(&mut self, it: &Seen<'_>) {
        let begun: BTreeSet<&RunId> = it
            .asks()
            .filter_map(|(ask, reply)| match (ask, reply) {
                (Ask::Start(start), Reply::Started { created: true, .. }) => Some(&start.run),
                _ => None,
            })
            .collect();
        for (ask, reply) in it.asks() {
            let (run, request) = match ask {
                Ask::Cancel(it) | Ask::Terminate(it) | Ask::Pause(it) | Ask::Resume(it) => {
                    (&it.run, &it.request)
                }
                Ask::Retry(it) => (&it.run, &it.request),
                _ => continue,
            };
            // Beside a start in one entry nobody can tell here which life it is about, but its repeat is known for one.
            if matches!(reply, Reply::Changed(_))
                && let Some(life) = self.lives.get_mut(run)
                && life.requests.insert(request.clone())
            {
                life.cancelled |= matches!(ask, Ask::Cancel(_)) && !begun.contains(run);
            }
        }
    }

    fn life(&mut self, id: &RunId, generation: Generation) -> Option<&mut Life> {
        let life = self.lives.get_mut(id);
        life.filter(|life| life.generation == generation)
    }
}

/// A command that broke has left the mark on its run, and what follows from that run's status.
fn savepoint(it: &Seen<'_>) -> Result<(), Broken> {
    for write in it.writes {
        match (&write.key, &write.before, &write.after) {
            (Key::Run(_), Some(Row::Run(before)), Some(Row::Run(after))) => {
                let mut expected = (**before).clone();
                expected.mode = after.mode.clone();
                expected.drive = None;
                must!(
                    expected == **after && after.status() == Status::Quarantined,
                    "savepoint",
                    "a broken command changed more of run {} than its mark",
                    after.id
                );
            }
            (Key::Group | Key::Version(..) | Key::ByClass(..), _, _) => {}
            (Key::Limit(_), before, after) => {
                must!(
                    taken(before.as_ref()) == taken(after.as_ref()),
                    "savepoint",
                    "a broken command changed {:?}",
                    write.key
                );
            }
            _ => must!(false, "savepoint", "a broken command wrote {:?}", write.key),
        }
    }
    Ok(())
}

/// What a limit's row says but for who waits: a run that is held still leaves the line, and an undeclared limit that nobody
/// waits for is forgotten.
fn taken(row: Option<&Row>) -> Option<(u64, u32, Option<Timestamp>)> {
    match row {
        Some(Row::Limit(limit)) if limit.spec.is_some() || limit.held > 0 => {
            Some((limit.tokens_milli, limit.held, limit.closed_until))
        }
        _ => None,
    }
}
