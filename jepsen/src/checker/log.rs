//! The log as the taps have it: one line per index, and the life of each run in log order.
//!
//! Invariant: a line is the first that any node wrote of its index, with the earliest time at which any did; where the taps
//! disagree `replicas` says so. An index that no tap has is a hole: then nothing may be said to be absent.
//! Not here: judging.

use std::collections::{BTreeMap, BTreeSet};

use crate::checker::store::Store;
use crate::records::{Applied, AppliedCommand, Position, TapEvent, TapResult, Work};

/// One index of a group's log.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// As the first node that applied it wrote it.
    pub line: &'a Applied,
    /// When the first node did.
    pub first: u64,
}

/// All groups' logs.
#[derive(Debug, Default)]
pub struct Log<'a> {
    /// By group and index.
    pub groups: BTreeMap<u32, BTreeMap<u64, Seen<'a>>>,
    /// What no tap has: group, first index, last index.
    pub holes: Vec<(u32, u64, u64)>,
    /// Who began to lead each group, in log order.
    pub leaders: BTreeMap<u32, Vec<Leader>>,
}

/// The beginning of an epoch.
#[derive(Debug, Clone, Copy)]
pub struct Leader {
    /// When the first node applied it.
    pub t: u64,
    /// The number of the node; 0 where the tap does not say.
    pub node: u64,
    /// The log index, which is the epoch.
    pub index: u64,
}

impl<'a> Log<'a> {
    /// Merges all taps.
    pub fn of(store: &'a Store) -> Self {
        let mut groups: BTreeMap<u32, BTreeMap<u64, Seen<'a>>> = BTreeMap::new();
        for line in store.taps.values().flatten() {
            let seen = groups.entry(line.group).or_default();
            let seen = seen.entry(line.index).or_insert(Seen {
                line,
                first: line.t,
            });
            if line.t < seen.first {
                *seen = Seen {
                    line,
                    first: line.t,
                };
            }
        }
        let mut holes = Vec::new();
        let mut leaders = BTreeMap::new();
        for (group, entries) in &groups {
            let began = entries.iter().filter_map(|(index, seen)| {
                Some(Leader {
                    t: seen.first,
                    node: become_leader(seen.line)?,
                    index: *index,
                })
            });
            leaders.insert(*group, began.collect());
            let mut expected = 1;
            for index in entries.keys() {
                if *index > expected {
                    holes.push((*group, expected, index - 1));
                }
                expected = index + 1;
            }
        }
        Self {
            groups,
            holes,
            leaders,
        }
    }

    /// Why nothing may be said to be absent, if so.
    pub fn incomplete(&self) -> Option<String> {
        if self.groups.is_empty() {
            return Some("there is no tap".to_owned());
        }
        let (group, from, to) = self.holes.first()?;
        Some(format!("no tap has group {group}, index {from} to {to}"))
    }

    /// All entries, group by group, in log order.
    pub fn entries(&self) -> impl Iterator<Item = &Seen<'a>> {
        self.groups.values().flat_map(BTreeMap::values)
    }

    /// All commands with their entries.
    pub fn commands(&self) -> impl Iterator<Item = (&Seen<'a>, &'a AppliedCommand)> {
        self.entries()
            .flat_map(|seen| seen.line.commands.iter().map(move |it| (seen, it)))
    }

    /// The entry at a position.
    pub fn at(&self, position: &Position) -> Option<&Seen<'a>> {
        self.groups.get(&position.group)?.get(&position.index)
    }

    /// Who led a group at a time, if anybody did.
    pub fn leader_at(&self, group: u32, t: u64) -> Option<Leader> {
        let leaders = self.leaders.get(&group)?;
        let before = leaders.partition_point(|it| it.t <= t);
        before.checked_sub(1).map(|nth| leaders[nth])
    }

    /// Who led next after a time.
    pub fn leader_after(&self, group: u32, t: u64) -> Option<Leader> {
        let leaders = self.leaders.get(&group)?;
        let before = leaders.partition_point(|it| it.t <= t);
        leaders.get(before).copied()
    }
}

/// The number of the node that an entry makes the leader; 0 where the tap does not say.
pub fn become_leader(line: &Applied) -> Option<u64> {
    let command = line.commands.iter().find(|it| it.kind == "become-leader")?;
    Some(command.number.unwrap_or(0))
}

/// Something that happened to a run, in log order.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// The entry.
    pub entry: Seen<'a>,
    /// What happened.
    pub what: What<'a>,
}

impl Moment<'_> {
    /// The log index.
    pub fn index(&self) -> u64 {
        self.entry.line.index
    }
}

/// What happened to a run.
#[derive(Debug, Clone, Copy)]
pub enum What<'a> {
    /// A command about it was applied.
    Command(&'a AppliedCommand),
    /// An attempt ended with a result that counted.
    Result(&'a TapResult),
    /// A lease or its status changed.
    Event(&'a TapEvent),
}

/// One life of one run id.
#[derive(Debug, Default)]
pub struct Life<'a> {
    /// Of which group.
    pub group: u32,
    /// In log order; within an entry commands, then results, then events.
    pub moments: Vec<Moment<'a>>,
}

/// Which life: run id and generation.
pub type LifeKey = (String, u32);

/// The life of every run, from the log.
pub fn lives<'a>(log: &Log<'a>) -> BTreeMap<LifeKey, Life<'a>> {
    let mut lives: BTreeMap<LifeKey, Life<'a>> = BTreeMap::new();
    let mut current: BTreeMap<&'a str, u32> = BTreeMap::new();
    for entry in log.entries() {
        let line = entry.line;
        let mut add = |run: &'a str, generation: u32, what: What<'a>| {
            let life = lives.entry((run.to_owned(), generation)).or_default();
            life.group = line.group;
            life.moments.push(Moment {
                entry: *entry,
                what,
            });
        };
        for command in &line.commands {
            let Some(run) = command.run.as_deref() else {
                continue;
            };
            if let Some(generation) = command.generation {
                let newest = current.entry(run).or_insert(generation);
                *newest = (*newest).max(generation);
            }
            let generation = command.generation.or_else(|| current.get(run).copied());
            add(run, generation.unwrap_or(1), What::Command(command));
        }
        let now = |run: &str| current.get(run).copied().unwrap_or(1);
        for result in line.commands.iter().flat_map(|it| &it.results) {
            let run = run_of(&result.work);
            add(run, now(run), What::Result(result));
        }
        for event in &line.events {
            if let Some(run) = event_run(event) {
                add(run, now(run), What::Event(event));
            }
        }
    }
    lives
}

/// The run of a piece of work.
pub fn run_of(work: &Work) -> &str {
    match work {
        Work::Drive { run } | Work::Step { run, .. } | Work::Undo { run, .. } => run,
    }
}

/// The run that an event is about.
pub fn event_run(event: &TapEvent) -> Option<&str> {
    match event {
        TapEvent::LeaseBegan { work, .. } | TapEvent::LeaseEnded { work, .. } => Some(run_of(work)),
        TapEvent::Run { run, .. } => Some(run),
        TapEvent::SessionAttached { .. } | TapEvent::SessionEnded { .. } => None,
    }
}

/// Whether nothing can change any more in this status.
pub fn is_final(status: &str) -> bool {
    matches!(
        status,
        "COMPLETED" | "FAILED" | "CANCELLED" | "TERMINATED" | "TIMED_OUT"
    )
}

/// A right to work, from its grant to its end.
#[derive(Debug, Clone)]
pub struct Lease<'a> {
    /// What.
    pub work: &'a Work,
    /// Of which life of its run.
    pub generation: u32,
    /// Whose.
    pub session: u64,
    /// Its number.
    pub fence: u64,
    /// Which attempt, of a step or an undo.
    pub attempt: Option<u32>,
    /// The entry that granted it.
    pub began: Seen<'a>,
    /// The entry that ended it.
    pub ended: Option<Seen<'a>>,
    /// What its holder reported, if that counted.
    pub outcome: Option<&'a str>,
}

/// Every lease of every run, by run and fence.
pub fn leases<'a>(lives: &BTreeMap<LifeKey, Life<'a>>) -> BTreeMap<(&'a str, u64), Lease<'a>> {
    let mut leases: BTreeMap<(&'a str, u64), Lease<'a>> = BTreeMap::new();
    for ((_, generation), life) in lives {
        for moment in &life.moments {
            match moment.what {
                What::Event(TapEvent::LeaseBegan {
                    work,
                    session,
                    fence,
                    attempt,
                }) => {
                    let lease = Lease {
                        work,
                        generation: *generation,
                        session: *session,
                        fence: *fence,
                        attempt: *attempt,
                        began: moment.entry,
                        ended: None,
                        outcome: None,
                    };
                    leases.entry((run_of(work), *fence)).or_insert(lease);
                }
                What::Event(TapEvent::LeaseEnded { work, fence, .. }) => {
                    if let Some(lease) = leases.get_mut(&(run_of(work), *fence)) {
                        lease.ended.get_or_insert(moment.entry);
                    }
                }
                What::Result(result) => {
                    if let Some(lease) = leases.get_mut(&(run_of(&result.work), result.fence)) {
                        lease.outcome.get_or_insert(&result.outcome);
                    }
                }
                What::Event(_) | What::Command(_) => {}
            }
        }
    }
    leases
}

/// When each piece of work was done: the entry whose result counted as `done`, by run, generation and work.
pub fn dones<'a>(
    lives: &BTreeMap<LifeKey, Life<'a>>,
) -> BTreeMap<(&'a Work, u32), (Seen<'a>, u64)> {
    let mut dones = BTreeMap::new();
    for ((_, generation), life) in lives {
        for moment in &life.moments {
            if let What::Result(result) = moment.what
                && result.outcome == "done"
            {
                dones
                    .entry((&result.work, *generation))
                    .or_insert((moment.entry, result.fence));
            }
        }
    }
    dones
}

/// Runs that the log knows.
pub fn runs<'a>(lives: &'a BTreeMap<LifeKey, Life<'_>>) -> BTreeSet<&'a str> {
    lives.keys().map(|(run, _)| run.as_str()).collect()
}
