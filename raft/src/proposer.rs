//! Gathers commands into entries: while fewer than four entries are in flight, whatever waits goes out. No timer.
//!
//! Invariant: every command gets exactly one answer; commands enter the log in the order in which they were given; what
//! waits is bounded by bytes, and beyond that refused with a time to retry.
//! Not here: what a command says.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use metrics::Histogram;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::adapter::core::{Core, Hint, Outcome};
use crate::adapter::stages;
use crate::error::ProposeError;
use crate::failpoints;
use crate::machine::{Encoded, Machine};
use crate::seams::Stamp;
use crate::types::{GroupId, NodeId, Position};

/// Commands in an entry: with 128 grants each they fill the 16 bits of a fence's slot.
const COMMANDS_PER_ENTRY_MAX: usize = 512;
/// Bytes of an entry of more than one command: small enough that one entry never holds up the next for long.
const ENTRY_BYTES_MAX: usize = 256 * 1024;
/// Bytes of one command, which then has an entry of its own.
const COMMAND_BYTES_MAX: usize = 1024 * 1024;
/// Four entries cover one sync and one round trip at full speed; more would only add latency when a follower is slow.
const ENTRIES_IN_FLIGHT_MAX: usize = 4;
/// What may wait, in bytes: some hundred milliseconds of a disk's work.
const QUEUED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long a full queue takes to have room again.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// What is in flight when leadership is lost is settled by the next leader's log. Whoever is taken out of the group before is sent
/// none of it: after this nobody knows what became of it.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

/// Called once with the answer, on whatever thread it was made: it must not block.
pub(crate) type Done<M> =
    Box<dyn FnOnce(Result<(<M as Machine>::Reply, Position), ProposeError>) + Send>;

struct Queued<M: Machine> {
    command: Encoded,
    since: Instant,
    done: Done<M>,
}

struct Waiting<M: Machine> {
    commands: VecDeque<Queued<M>>,
    bytes: usize,
    in_flight: BTreeMap<u64, InFlight<M>>,
    entries: u64,
    stopped: bool,
}

/// An entry that was given to the log.
struct InFlight<M: Machine> {
    dones: Vec<Done<M>>,
    began: Instant,
}

/// The proposer of one group.
pub(crate) struct Proposer<M: Machine> {
    group: GroupId,
    this: NodeId,
    core: Arc<Core>,
    stamp: Arc<dyn Stamp>,
    hints: watch::Receiver<Hint>,
    waiting: Mutex<Waiting<M>>,
    work: Notify,
    /// How long an entry's first command has waited.
    queued: Histogram,
    /// Commands of an entry.
    sizes: Histogram,
    /// From an entry to its replies.
    commits: Histogram,
}

impl<M: Machine> Proposer<M> {
    pub(crate) fn new(
        group: GroupId,
        core: Arc<Core>,
        stamp: Arc<dyn Stamp>,
        hints: watch::Receiver<Hint>,
    ) -> Arc<Self> {
        let waiting = Waiting {
            commands: VecDeque::new(),
            bytes: 0,
            in_flight: BTreeMap::new(),
            entries: 0,
            stopped: false,
        };
        Arc::new(Self {
            group,
            this: core.this,
            core,
            stamp,
            hints,
            waiting: Mutex::new(waiting),
            work: Notify::new(),
            queued: stages::histogram(group, "queued"),
            sizes: metrics::histogram!("holdfast_raft_entry_commands", "group" => group.0.to_string()),
            commits: metrics::histogram!("holdfast_raft_commit_duration_seconds", "group" => group.0.to_string()),
        })
    }

    /// Takes a command, or answers at once why not.
    pub(crate) fn propose(&self, command: M::Command, done: Done<M>) {
        let hint = *self.hints.borrow();
        if !hint.is_self {
            return done(Err(ProposeError::NotLeader {
                group: self.group,
                leader: hint.leader,
            }));
        }
        let command = M::encode(&command);
        let bytes = command.len();
        if bytes > COMMAND_BYTES_MAX {
            return done(Err(ProposeError::TooLarge {
                bytes,
                bytes_max: COMMAND_BYTES_MAX,
            }));
        }
        let mut waiting = self.waiting.lock();
        if waiting.stopped {
            drop(waiting);
            return done(Err(ProposeError::Stopped));
        }
        if waiting.bytes + bytes > QUEUED_BYTES_MAX {
            let queued_bytes = waiting.bytes;
            drop(waiting);
            let (group, retry_after) = (self.group, RETRY_AFTER);
            return done(Err(ProposeError::Overloaded {
                group,
                queued_bytes,
                retry_after,
            }));
        }
        waiting.bytes += bytes;
        waiting.commands.push_back(Queued {
            command,
            since: Instant::now(),
            done,
        });
        let must_wake = waiting.in_flight.len() < ENTRIES_IN_FLIGHT_MAX;
        drop(waiting);
        if must_wake {
            self.work.notify_one();
        }
    }

    /// Commands that wait to be cut into entries.
    pub(crate) fn pending(&self) -> usize {
        self.waiting.lock().commands.len()
    }

    /// Cuts entries until stopped.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut hints = self.hints.clone();
        let mut is_told = true;
        let mut lost_at = None;
        loop {
            let woken = self.work.notified();
            let hint = *hints.borrow_and_update();
            if hint.is_self {
                lost_at = None;
            } else {
                lost_at.get_or_insert_with(Instant::now);
                self.refuse_waiting(hint.leader);
            }
            loop {
                match self.cut() {
                    Cut::Entry(commands) => self.write(commands).await,
                    Cut::Nothing => break,
                    Cut::Stopped => return,
                }
            }
            let in_flight = !self.waiting.lock().in_flight.is_empty();
            let give_up = lost_at
                .filter(|_| in_flight)
                .map(|lost| lost + SETTLED_WITHIN);
            tokio::select! {
                biased;
                () = woken => {}
                changed = hints.changed(), if is_told => is_told = changed.is_ok(),
                () = sleep_until(give_up.unwrap_or_else(Instant::now)), if give_up.is_some() => self.give_up(),
            }
        }
    }

    /// What waits was never appended, and is not to wait for what was.
    fn refuse_waiting(&self, leader: Option<NodeId>) {
        let mut waiting = self.waiting.lock();
        let left = std::mem::take(&mut waiting.commands);
        waiting.bytes = 0;
        drop(waiting);
        let group = self.group;
        let dones = left.into_iter().map(|queued| queued.done).collect();
        refuse::<M>(dones, &ProposeError::NotLeader { group, leader });
    }

    /// Nobody here will hear what became of what is in flight.
    fn give_up(&self) {
        let left = std::mem::take(&mut self.waiting.lock().in_flight);
        for InFlight { dones, began } in left.into_values() {
            self.answer(Outcome::Unknown, dones, began);
        }
    }

    /// Takes nothing more; what waits is told so.
    pub(crate) fn stop(&self) {
        let mut waiting = self.waiting.lock();
        waiting.stopped = true;
        let left = std::mem::take(&mut waiting.commands);
        drop(waiting);
        for queued in left {
            (queued.done)(Err(ProposeError::Stopped));
        }
        self.work.notify_one();
    }

    fn cut(&self) -> Cut<M> {
        let mut waiting = self.waiting.lock();
        if waiting.stopped {
            return Cut::Stopped;
        }
        let in_flight = waiting.in_flight.len();
        if in_flight >= ENTRIES_IN_FLIGHT_MAX || waiting.commands.is_empty() {
            return Cut::Nothing;
        }
        let (mut count, mut bytes) = (0, 0);
        for Queued { command, .. } in waiting.commands.iter().take(COMMANDS_PER_ENTRY_MAX) {
            let alone = matches!(command, Encoded::Entry(_));
            if count > 0 && (alone || bytes + command.len() > ENTRY_BYTES_MAX) {
                break;
            }
            bytes += command.len();
            count += 1;
            if alone {
                break;
            }
        }
        waiting.bytes -= bytes;
        Cut::Entry(waiting.commands.drain(..count).collect())
    }

    async fn write(self: &Arc<Self>, entry: Vec<Queued<M>>) {
        if let Some(first) = entry.first() {
            self.queued.record(first.since.elapsed());
        }
        let hint = *self.hints.borrow();
        let (commands, dones): (Vec<Encoded>, Vec<Done<M>>) =
            entry.into_iter().map(|it| (it.command, it.done)).unzip();
        if !hint.is_self {
            return refuse::<M>(
                dones,
                &ProposeError::NotLeader {
                    group: self.group,
                    leader: hint.leader,
                },
            );
        }
        #[expect(clippy::cast_precision_loss, reason = "a histogram of at most 512")]
        self.sizes.record(commands.len() as f64);
        let batch = self.entry_of(commands);
        let proposer = Arc::clone(self);
        let number = self.took_off(dones);
        let done = move |outcome| proposer.landed(number, outcome);
        self.core
            .write(batch, Some((hint.term, self.this)), done)
            .await;
    }

    fn entry_of(&self, commands: Vec<Encoded>) -> Bytes {
        let mut items = Vec::with_capacity(commands.len());
        for command in commands {
            match command {
                Encoded::Item(item) => items.push(item),
                Encoded::Entry(entry) => return entry, // it was cut alone
            }
        }
        let (epoch, at_ms) = self.stamp.stamp();
        M::entry(epoch, at_ms, &items)
    }

    /// One entry more in flight; its number among them.
    fn took_off(&self, dones: Vec<Done<M>>) -> u64 {
        let mut waiting = self.waiting.lock();
        waiting.entries += 1;
        let number = waiting.entries;
        let began = Instant::now();
        waiting.in_flight.insert(number, InFlight { dones, began });
        number
    }

    /// One entry less.
    fn landed(&self, number: u64, outcome: Outcome) {
        let mut waiting = self.waiting.lock();
        let Some(InFlight { dones, began }) = waiting.in_flight.remove(&number) else {
            return; // it was given up
        };
        let more = !waiting.commands.is_empty();
        drop(waiting);
        if more {
            self.work.notify_one();
        }
        self.answer(outcome, dones, began);
    }

    fn answer(&self, outcome: Outcome, dones: Vec<Done<M>>, began: Instant) {
        let group = self.group;
        let label = group.0.to_string();
        let result = match outcome {
            Outcome::Applied { index, replies } => {
                self.commits.record(began.elapsed());
                failpoints::reach("reply::before");
                match replies.downcast::<Vec<M::Reply>>() {
                    Ok(replies) if replies.len() == dones.len() => {
                        for (slot, (reply, done)) in (0..).zip(replies.into_iter().zip(dones)) {
                            done(Ok((reply, Position { group, index, slot })));
                        }
                        failpoints::reach("reply::after");
                        "applied"
                    }
                    // A machine that answers fewer than it was asked: nothing is known of any of them.
                    Ok(_) | Err(_) => {
                        refuse::<M>(dones, &ProposeError::Unknown);
                        "unknown"
                    }
                }
            }
            Outcome::NotLeader { leader } => {
                refuse::<M>(dones, &ProposeError::NotLeader { group, leader });
                "not_leader"
            }
            Outcome::Unknown => {
                refuse::<M>(dones, &ProposeError::Unknown);
                "unknown"
            }
        };
        metrics::counter!("holdfast_raft_proposals_total", "group" => label, "result" => result)
            .increment(1);
    }
}

enum Cut<M: Machine> {
    Entry(Vec<Queued<M>>),
    Nothing,
    Stopped,
}

fn refuse<M: Machine>(dones: Vec<Done<M>>, error: &ProposeError) {
    for done in dones {
        done(Err(error.clone()));
    }
}
