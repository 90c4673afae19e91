//! `apply`: the only door into replicated state. One match, one line and one savepoint per command. No rules.

use crate::{
    commands::{
        admit, advance, attach, become_leader, change, collect, deploy, expire, fire, grant,
        progress, repair, report, retry, returned, set_limit, signal, start,
    },
    effect::Effect,
    entry::{Ask, Body, Command, Duty, Entry},
    ids::{FeatureLevel, LogIndex, Slot},
    orders::Orders,
    reply::Reply,
    rows::{Fault, Key, Row, Rows, TypedRows},
    seeded::{self, Bug},
    turn::Turn,
};

/// The newest replicated behaviour that this code knows.
pub const LEVEL_MAX: FeatureLevel = FeatureLevel(1);

/// What an entry came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// One per command, in order.
    pub replies: Vec<Reply>,
    /// What the leader might now do, in order.
    pub effects: Vec<Effect>,
}

/// The same rows and the same entry give the same rows, replies and effects on every replica.
///
/// # Errors
/// `Fault`: an undecodable row or an unknown level; this replica alone stops. A refusal is not an error: it is a reply.
pub fn apply<R: Rows>(
    rows: &mut R,
    orders: &mut Orders,
    at: LogIndex,
    entry: &Entry,
) -> Result<Applied, Fault> {
    if entry.level > LEVEL_MAX {
        let (level, known) = (entry.level, LEVEL_MAX);
        return Err(Fault(format!(
            "entry {at} needs feature level {level}, this is {known}"
        )));
    }
    let mut group = rows.group()?.unwrap_or_default();
    match &entry.body {
        Body::BecomeLeader(it) => Ok(become_leader::apply(rows, group, at, it)),
        Body::Batch {
            epoch,
            proposed_at,
            commands,
        } => {
            let under_epoch = epoch.0 == group.epoch;
            let goes_back = seeded::armed(Bug::ClockGoesBack) && *proposed_at < group.clock;
            if *proposed_at > group.clock || goes_back {
                group.clock = *proposed_at;
                rows.put(Key::Group, Row::Group(group.clone()));
            }
            let mut turn = Turn::open(rows, orders, at, group.clock, group.incarnation);
            let mut replies = Vec::with_capacity(commands.len());
            for (slot, command) in (0..).zip(commands) {
                turn.slot = Slot(slot);
                replies.push(one(&mut turn, under_epoch, command)?);
            }
            Ok(Applied {
                replies,
                effects: turn.close(),
            })
        }
    }
}

fn one<R: Rows>(
    turn: &mut Turn<'_, R>,
    under_epoch: bool,
    command: &Command,
) -> Result<Reply, Fault> {
    match command {
        // This one only: asks beside it count.
        Command::Duty(_) if !under_epoch && !seeded::armed(Bug::NoEpochCheck) => Ok(Reply::Void),
        Command::Duty(duty) => self::duty(turn, duty),
        Command::Ask(ask) => self::ask(turn, ask),
    }
}

fn ask<R: Rows>(turn: &mut Turn<'_, R>, ask: &Ask) -> Result<Reply, Fault> {
    match ask {
        Ask::Start(it) => turn.guarded(&it.run, |turn| start::apply(turn, it)),
        Ask::Signal(it) => turn.guarded(&it.run, |turn| signal::apply(turn, it)),
        Ask::Cancel(it) => turn.guarded(&it.run, |turn| change::cancel(turn, it)),
        Ask::Terminate(it) => turn.guarded(&it.run, |turn| change::terminate(turn, it)),
        Ask::Pause(it) => turn.guarded(&it.run, |turn| change::pause(turn, it)),
        Ask::Resume(it) => turn.guarded(&it.run, |turn| change::resume(turn, it)),
        Ask::Retry(it) => turn.guarded(&it.run, |turn| retry::apply(turn, it)),
        Ask::Attach(it) => turn.attempt(|turn| attach::apply(turn, it)),
        Ask::Advance(it) => turn.guarded(&it.run, |turn| advance::apply(turn, it)),
        Ask::Report(it) => turn.guarded(&it.run, |turn| report::apply(turn, it)),
        Ask::Progress(it) => turn.guarded(&it.run, |turn| progress::apply(turn, it)),
        Ask::Return(it) => returned::apply(turn, it),
        Ask::Detach(session) => expire::detach(turn, *session),
        Ask::Deploy(it) => turn.attempt(|turn| deploy::apply(turn, it)),
        Ask::SetLimit(it) => turn.attempt(|turn| set_limit::apply(turn, it)),
        Ask::Noop(_) => Ok(Reply::Done),
    }
}

fn duty<R: Rows>(turn: &mut Turn<'_, R>, duty: &Duty) -> Result<Reply, Fault> {
    match duty {
        Duty::Grant(it) => turn.guarded(it.work.run(), |turn| grant::apply(turn, it)),
        Duty::Admit(it) => admit::apply(turn, it),
        Duty::Expire(it) => expire::apply(turn, it),
        Duty::FireDue { up_to, at_most } => fire::apply(turn, *up_to, *at_most),
        Duty::Collect(it) => collect::apply(turn, it),
        Duty::Repair(run) => turn.guarded(run, |turn| repair::apply(turn, run)),
    }
}
