//! Tier A: random histories of the pure core, judged after each entry. A seed is a history; a failure is made small.
//!
//! Walk: `swarm` draws what a seed does, `generator` what happens next, `group` applies and judges (`compare` against the
//! `reference`, `watch` by what was seen), `leaders` and `leads` run the leader's thinking beside it; `shrink` and `tell`
//! make a failure readable, `campaign` runs many, `seeds` keeps those that once failed.
//! Invariant: everything follows from the seed.

mod broken;
mod campaign;
mod compare;
mod coverage;
mod dice;
mod end;
mod generator;
mod group;
#[cfg(feature = "seeded-bugs")]
mod hunt;
mod leaders;
mod leads;
mod reference;
mod seeds;
mod shrink;
mod swarm;
mod tell;
#[cfg(test)]
mod tests;
mod tripwire;
mod watch;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use holdfast_scheduler::{
    apply::Applied,
    entry::{Body, Entry},
    ids::LogIndex,
};

pub use broken::Broken;
pub use campaign::{Campaign, Outcome, run};
pub use coverage::{Coverage, NAMES};
pub use dice::Dice;
#[cfg(feature = "seeded-bugs")]
pub use hunt::{Caught, hunt, planted};
pub use seeds::{filed, seeds_file};
pub use shrink::shrink;
pub use swarm::Swarm;
pub use tell::{story, trace};

use generator::World;
use group::{Group, Judges};
use leads::Leads;

/// One thing that happens.
#[derive(Debug, Clone)]
pub enum Act {
    /// An entry is applied; with a number, its command is made to break at a read that the number chooses.
    Apply {
        /// Its log index: it stays, whatever is left out before it.
        at: LogIndex,
        /// It.
        entry: Arc<Entry>,
        /// Chooses the read.
        breaks: Option<u64>,
    },
    /// The process starts anew from a snapshot.
    Restart,
    /// Something reaches a leader's thinking beside what is applied.
    Lead(leads::Act),
}

/// What happened, and the group it happened to.
#[derive(Debug)]
pub struct Tape {
    group: Group,
    leads: Leads,
    acts: Vec<Act>,
}

impl Tape {
    fn new(group: Group) -> Self {
        Self {
            group,
            leads: Leads::default(),
            acts: Vec::new(),
        }
    }

    /// Something happens; the answers of an entry.
    fn act(&mut self, act: Act) -> Result<Arc<Applied>, Broken> {
        self.acts.push(act.clone());
        match act {
            Act::Apply { at, entry, breaks } => {
                let applied = self.group.apply(at, entry, breaks)?;
                let group = &mut self.group;
                let (rows, orders) = (group.rows.rows(), &group.orders);
                let leads = self
                    .leads
                    .applied(&applied.effects, rows, orders, &mut group.coverage);
                leads.map_err(|broken| Broken { at: at.0, ..broken })?;
                Ok(applied)
            }
            Act::Restart => {
                self.group.restart()?;
                let group = &mut self.group;
                let (rows, orders) = (group.rows.rows(), &group.orders);
                self.leads.rebuild(rows, orders, &mut group.coverage)?;
                Ok(nothing())
            }
            Act::Lead(act) => {
                let at = self.group.next().0.saturating_sub(1);
                let group = &mut self.group;
                let (rows, orders) = (group.rows.rows(), &group.orders);
                let told = self.leads.act(&act, rows, orders, &mut group.coverage);
                told.map_err(|broken| Broken { at, ..broken })?;
                Ok(nothing())
            }
        }
    }
}

fn nothing() -> Arc<Applied> {
    Arc::new(Applied {
        replies: Vec::new(),
        effects: Vec::new(),
    })
}

/// A history with its verdict.
#[derive(Debug)]
pub struct Judged {
    /// What did not hold.
    pub broken: Option<Broken>,
    /// What happened up to there.
    pub acts: Vec<Act>,
    /// Commands applied.
    pub commands: u64,
    /// What was reached.
    pub coverage: Coverage,
    /// How it is played again: with which restarts at the end.
    pub replay_every: usize,
}

/// As `judge`, and whatever the seed says every run is brought to its end.
#[cfg(test)]
fn judge_to_the_end(seed: u64) -> Judged {
    play(seed, true, |swarm| swarm.to_the_end = true)
}

/// Plays the history of a seed. Without `model` the invariants stand alone, without the reference engine.
pub fn judge(seed: u64, model: bool) -> Judged {
    play(seed, model, |_| {})
}

fn play(seed: u64, model: bool, change: impl FnOnce(&mut Swarm)) -> Judged {
    let mut dice = Dice::new(seed);
    let mut swarm = Swarm::draw(&mut dice);
    change(&mut swarm);
    let judges = Judges {
        model,
        whole_every: swarm.whole_every,
        recode_every: swarm.recode_every,
    };
    let replay_every = swarm.replay_every;
    let mut world = World::new(dice, swarm, Group::new(judges));
    let played = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    let broken = verdict(played);
    let group = &world.tape.group;
    Judged {
        broken,
        commands: commands(group),
        coverage: group.coverage.clone(),
        acts: world.tape.acts,
        replay_every,
    }
}

fn verdict(played: std::thread::Result<Result<(), Broken>>) -> Option<Broken> {
    match played {
        Ok(Ok(())) => None,
        Ok(Err(broken)) => Some(broken),
        Err(panic) => Some(Broken::new("harness", group::words(&*panic))),
    }
}

fn live(world: &mut World) -> Result<(), Broken> {
    world.begin()?;
    for _ in 0..world.swarm.entries {
        world.go_on()?;
    }
    if world.swarm.to_the_end {
        world.bring_to_an_end()?;
    }
    at_the_end(&world.tape.group, world.swarm.replay_every)
}

fn at_the_end(group: &Group, replay_every: usize) -> Result<(), Broken> {
    group.whole()?;
    if replay_every > 0 {
        group.again(replay_every)?;
    }
    Ok(())
}

fn commands(group: &Group) -> u64 {
    let count = |body: &Body| match body {
        Body::Batch { commands, .. } => commands.len() as u64,
        Body::BecomeLeader(_) => 1,
    };
    group.log.iter().map(|told| count(&told.entry.body)).sum()
}

/// Plays acts once more, all judges awake; what breaks.
fn play_again(acts: &[Act], model: bool, replay_every: usize) -> (Option<Broken>, Tape) {
    let judges = Judges {
        model,
        whole_every: 1,
        recode_every: 1,
    };
    let mut tape = Tape::new(Group::new(judges));
    let played = catch_unwind(AssertUnwindSafe(|| {
        for act in acts {
            tape.act(act.clone())?;
        }
        at_the_end(&tape.group, replay_every)
    }));
    (verdict(played), tape)
}

/// The same log gives the same rows, replies and effects, with a restart at each `every`-th entry. For tests: each seed,
/// whatever its swarm says.
///
/// # Errors
/// What differs.
pub fn replays_alike(seed: u64, every: &[usize]) -> Result<(), Broken> {
    let (broken, tape) = tape_of(seed);
    if let Some(broken) = broken {
        return Err(broken);
    }
    every.iter().try_for_each(|every| tape.group.again(*every))
}

fn tape_of(seed: u64) -> (Option<Broken>, Tape) {
    let mut dice = Dice::new(seed);
    let swarm = Swarm::draw(&mut dice);
    let judges = Judges {
        model: false,
        whole_every: u32::MAX,
        recode_every: u32::MAX,
    };
    let mut world = World::new(dice, swarm, Group::new(judges));
    let played = catch_unwind(AssertUnwindSafe(|| {
        world.begin()?;
        (0..world.swarm.entries).try_for_each(|_| world.go_on())
    }));
    (verdict(played), world.tape)
}
