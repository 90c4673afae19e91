//! Nodes and workers around the leader's thinking: clocks that run apart, beats, streams, proposals that get lost.
//!
//! Not here: what must hold of it (`leads`).

use std::collections::BTreeMap;

use holdfast_scheduler::{
    entry::Duty,
    ids::{Epoch, Name, NodeId, ProcessId, RunId, SessionId},
    lead::Came,
    reply::Reply,
    time::{Millis, Timestamp},
};

use super::{
    Tape,
    dice::Dice,
    leads::{self, Act},
};

/// Duties taken into one entry.
const DUTIES_AT_ONCE: usize = 4;

/// Who leads, whose clock runs how, and what workers told.
#[derive(Debug)]
pub struct Leaders {
    clocks: Vec<Clock>,
    leader: usize,
    /// Workers that are silent for good.
    silent: Vec<SessionId>,
    open: BTreeMap<SessionId, u64>,
    beats: u64,
    /// A leader of before that does not know it yet.
    deposed: Option<(usize, Epoch)>,
    begun: bool,
    /// No worker falls silent any more, and the leader hears its quorum.
    calm: bool,
}

#[derive(Debug)]
struct Clock {
    mono: u64,
    /// Milliseconds of its own in a thousand of the others'.
    rate: u64,
}

/// A duty that is proposed: by which node, under which number.
pub type Proposed = (usize, u64);

impl Leaders {
    /// Three nodes with clocks of their own.
    pub fn new(dice: &mut Dice) -> Self {
        let clock = |dice: &mut Dice| Clock {
            mono: dice.below(1_000_000),
            rate: 970 + dice.below(61),
        };
        Self {
            clocks: (0..3).map(|_| clock(dice)).collect(),
            leader: 0,
            silent: Vec::new(),
            open: BTreeMap::new(),
            beats: 0,
            deposed: None,
            begun: false,
            calm: false,
        }
    }

    /// What must happen before anything else.
    pub fn begin(&mut self) -> Vec<Act> {
        if std::mem::replace(&mut self.begun, true) {
            return Vec::new();
        }
        let mut acts = vec![Act::Nodes(3)];
        acts.extend(self.times());
        acts
    }

    fn times(&self) -> impl Iterator<Item = Act> + '_ {
        let clocks = self.clocks.iter().enumerate();
        clocks.map(|(node, clock)| Act::Time {
            node,
            mono: clock.mono,
        })
    }

    /// Who takes over, with the median of the wall clocks; the leader of before may not hear of it at once.
    pub fn candidate(&mut self, dice: &mut Dice, now: Timestamp) -> (NodeId, Timestamp) {
        self.open.clear();
        // Often the same one again: what it believed of before must do no harm.
        if dice.chance(60) {
            self.leader = usize::try_from(dice.below(3)).unwrap_or(0);
        }
        let skew = Millis(dice.below(2_000));
        let anchor = if dice.chance(50) {
            now.after(skew)
        } else {
            Timestamp(now.0.saturating_sub(skew.0))
        };
        (NodeId(self.leader as u64 + 1), anchor)
    }

    /// Before another takes over: whether the leader of now applies nothing for a while.
    pub fn depose(&mut self, tape: &Tape, dice: &mut Dice) -> Vec<Act> {
        let epoch = tape.leads.node(self.leader).and_then(leads::Node::epoch);
        match epoch {
            Some(epoch) if self.deposed.is_none() && dice.chance(40) => {
                self.deposed = Some((self.leader, epoch));
                vec![Act::Lag { node: self.leader }]
            }
            _ => Vec::new(),
        }
    }

    /// What a leader of before still wants, under its own epoch; then it hears that it leads no more.
    pub fn late(&mut self, tape: &Tape, dice: &mut Dice) -> Option<(Epoch, Vec<Duty>, Vec<Act>)> {
        if !dice.chance(20) {
            return None;
        }
        let (node, epoch) = self.deposed.take()?;
        let pending = &tape.leads.node(node)?.pending;
        let duties = pending.values().take(DUTIES_AT_ONCE).cloned().collect();
        Some((epoch, duties, vec![Act::CatchUp { node }]))
    }

    /// Whoever applied nothing for a while does so again, and workers stay.
    pub fn heal(&mut self) -> Vec<Act> {
        self.calm = true;
        let deposed = self.deposed.take();
        let acts = deposed.map(|(node, _)| Act::CatchUp { node });
        acts.into_iter().collect()
    }

    /// So much time passes: clocks run, workers beat and open streams, the leader looks up.
    pub fn pass(
        &mut self,
        span: Millis,
        sessions: &[(SessionId, ProcessId)],
        dice: &mut Dice,
    ) -> Vec<Act> {
        let span = span.0.min(12_000);
        let mut acts = Vec::new();
        // A beat a second, so that a long while is no silence.
        let parts = 1 + span / 2_000;
        for _ in 0..parts {
            for clock in &mut self.clocks {
                clock.mono += 1 + span / parts * clock.rate / 1_000;
            }
            acts.extend(self.times());
            for (session, _) in sessions {
                self.worker(*session, dice, &mut acts);
            }
            acts.push(Act::Tick { node: self.leader });
        }
        if let Some((node, _)) = self.deposed {
            acts.push(Act::Tick { node });
        }
        acts
    }

    fn worker(&mut self, session: SessionId, dice: &mut Dice, acts: &mut Vec<Act>) {
        let node = self.leader;
        if self.silent.contains(&session) {
            return;
        }
        if !self.calm && dice.rarely(4) {
            self.silent.push(session);
            return;
        }
        let Some(total) = self.open.get_mut(&session) else {
            if dice.chance(70) {
                self.open.insert(session, 4);
                acts.push(Act::Opened { node, session });
                let total = 4;
                acts.push(Act::Credit {
                    node,
                    session,
                    total,
                });
            }
            return;
        };
        *total += 2;
        let total = *total;
        if dice.rarely(20) {
            self.open.remove(&session);
            acts.push(Act::Closed { node, session });
            return;
        }
        self.beats += 1;
        let number = self.beats;
        let ages = [0, 50, 150, 399, 400, 3_000];
        let ack_age_ms = if self.calm { ages[1] } else { dice.one(ages) };
        // A worker on the wrong side of a cut beats to whoever led before.
        let node = match self.deposed {
            Some((deposed, _)) if dice.chance(10) => deposed,
            _ => node,
        };
        acts.push(Act::Beat {
            node,
            session,
            number,
            ack_age_ms,
        });
        acts.push(Act::Credit {
            node,
            session,
            total,
        });
    }

    /// The leader hears that this run's start is on its way.
    pub fn starting(&self, run: RunId, workflow: Name) -> Act {
        let node = self.leader;
        Act::Starting {
            node,
            run,
            workflow,
        }
    }

    /// Duties that reach the log now, by whom, and answers to those that were lost on the way.
    pub fn proposals(&mut self, tape: &Tape, dice: &mut Dice) -> (Vec<(Proposed, Duty)>, Vec<Act>) {
        let (node, mut taken, mut acts) = (self.leader, Vec::new(), Vec::new());
        let Some(leader) = tape.leads.node(node) else {
            return (taken, acts);
        };
        for (id, duty) in &leader.pending {
            if taken.len() == DUTIES_AT_ONCE {
                break;
            }
            match dice.below(20) {
                0 => acts.push(answer((node, *id), None)),
                1..4 => {} // on its way
                _ => taken.push(((node, *id), duty.clone())),
            }
        }
        (taken, acts)
    }
}

/// How the shell answers a duty; none: nobody knows what became of it.
pub fn answer((node, id): Proposed, reply: Option<&Reply>) -> Act {
    let came = match reply {
        None => Came::Unknown,
        Some(Reply::Void) => Came::Refused,
        Some(Reply::Did { more: true, .. }) => Came::More,
        Some(Reply::Moot) => Came::Moot,
        Some(_) => Came::Done,
    };
    Act::Done { node, id, came }
}
