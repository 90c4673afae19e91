//! Swarm configuration: each seed switches kinds of operations and faults off and draws sizes, so that rare corners meet.

use super::{dice::Dice, generator::COMMANDS_MAX};

/// What the generator may do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Grant,
    Advance,
    Report,
    Fire,
    Admit,
    Repair,
    Collect,
    ExpireLease,
    ExpireSession,
    Start,
    Signal,
    Cancel,
    Terminate,
    Pause,
    Resume,
    Retry,
    Attach,
    Return,
    Detach,
    Deploy,
    SetLimit,
    Progress,
    Noop,
    Repeat,
    OldFence,
    Odd,
}

/// Each kind with its usual weight, and whether a seed may go without it.
const KINDS: [(Kind, u64, bool); 26] = [
    (Kind::Grant, 330, false),
    (Kind::Advance, 280, false),
    (Kind::Report, 90, false),
    (Kind::Fire, 50, true),
    (Kind::Admit, 40, false),
    (Kind::Repair, 5, true),
    (Kind::Collect, 8, true),
    (Kind::ExpireLease, 14, true),
    (Kind::ExpireSession, 10, true),
    (Kind::Start, 50, false),
    (Kind::Signal, 30, true),
    (Kind::Cancel, 10, true),
    (Kind::Terminate, 5, true),
    (Kind::Pause, 15, true),
    (Kind::Resume, 30, false),
    (Kind::Retry, 14, true),
    (Kind::Attach, 12, false),
    (Kind::Return, 6, true),
    (Kind::Detach, 5, true),
    (Kind::Deploy, 5, true),
    (Kind::SetLimit, 8, true),
    (Kind::Progress, 8, true),
    (Kind::Noop, 2, true),
    (Kind::Repeat, 25, true),
    (Kind::OldFence, 14, true),
    (Kind::Odd, 12, true),
];

/// What one seed does.
#[derive(Debug, Clone)]
pub struct Swarm {
    /// Entries of its history.
    pub entries: u32,
    /// Most commands of one entry.
    pub most_commands: u32,
    /// Run ids in use.
    pub ids: u64,
    /// Most intents of one Advance.
    pub intents: u64,
    /// The longest usual step of the group clock, in milliseconds.
    pub step_ms: u64,
    /// Of a hundred steps so many go to a queue.
    pub queued: u64,
    /// Of a hundred steps so many name each limit.
    pub limited: u64,
    /// Of a hundred steps so many have an undo.
    pub undone: u64,
    /// Of a hundred steps so many may not simply be repeated.
    pub uncertain: u64,
    /// Of a hundred Advances so many end their run.
    pub endings: u64,
    /// Of a thousand entries so many are another leader's beginning.
    pub failovers: u64,
    /// Of a thousand entries so many are proposed under another epoch.
    pub wrong_epochs: u64,
    /// Of a thousand entries so many are preceded by a restart.
    pub restarts: u64,
    /// Of a thousand entries so many are made to break.
    pub breaks: u64,
    /// The whole state is checked after each so-many-th entry.
    pub whole_every: u32,
    /// Entries and rows are encoded and decoded at each so-many-th entry.
    pub recode_every: u32,
    /// The leader's duties come from the leader's thinking.
    pub led: bool,
    /// The history is replayed with a restart at each so-many-th entry; 0: not.
    pub replay_every: usize,
    /// At the end every run must come to its end.
    pub to_the_end: bool,
    /// Callers send a run more than it may keep.
    pub flood: bool,
    weights: Vec<(Kind, u64)>,
    total: u64,
}

impl Swarm {
    /// The configuration of a seed.
    pub fn draw(dice: &mut Dice) -> Self {
        let mut weights: Vec<(Kind, u64)> = KINDS.iter().map(|kind| weight(dice, *kind)).collect();
        let flood = dice.rarely(10);
        if flood {
            weights.push((Kind::Odd, 400));
        }
        let total = weights.iter().map(|(_, weight)| weight).sum();
        let large = dice.rarely(15);
        let now_and_then = |dice: &mut Dice, percent: u64, per_mille: [u64; 3]| {
            if dice.chance(percent) {
                dice.one(per_mille)
            } else {
                0
            }
        };
        let led = dice.chance(20);
        Self {
            entries: if large { 12 } else { 20 + dice.count(110) },
            most_commands: if large {
                COMMANDS_MAX
            } else {
                dice.one([1, 1, 2, 3, 3, 6, 12])
            },
            ids: dice.one([1, 2, 3, 5, 5, 8]),
            intents: dice.one([2, 4, 4, 6]),
            step_ms: dice.one([100, 700, 700, 3_000]),
            queued: dice.one([0, 30, 30, 70]),
            limited: dice.one([0, 25, 25, 60]),
            undone: dice.one([0, 40, 40, 80]),
            uncertain: dice.one([0, 40, 40, 90]),
            endings: dice.one([4, 12, 12, 30]),
            failovers: now_and_then(dice, 60, [10, 20, 60]),
            wrong_epochs: now_and_then(dice, 50, [10, 20, 80]),
            restarts: now_and_then(dice, 50, [20, 50, 200]),
            breaks: now_and_then(dice, 30, [20, 40, 100]),
            whole_every: dice.one([1, 8, 16, 32]),
            recode_every: if dice.chance(6) { 1 } else { 64 },
            led,
            replay_every: if dice.chance(20) {
                dice.one([1, 2, 7, 64])
            } else {
                0
            },
            to_the_end: dice.chance(if led { 30 } else { 10 }),
            flood,
            weights,
            total,
        }
    }

    /// What to do next.
    pub fn kind(&self, dice: &mut Dice) -> Kind {
        let mut rolled = dice.below(self.total);
        for (kind, weight) in &self.weights {
            if rolled < *weight {
                return *kind;
            }
            rolled -= weight;
        }
        Kind::Noop
    }
}

fn weight(dice: &mut Dice, (kind, usual, may_go): (Kind, u64, bool)) -> (Kind, u64) {
    let drawn = match dice.below(20) {
        0..5 if may_go => 0,
        5..8 => usual * 4,
        _ => usual,
    };
    (kind, drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_is_off_is_never_drawn_and_all_others_are() {
        let mut dice = Dice::new(7);
        let swarm = Swarm::draw(&mut dice);
        for (kind, weight) in &swarm.weights {
            let drawn = (0..50_000).any(|_| swarm.kind(&mut dice) == *kind);
            assert_eq!(drawn, *weight > 0, "{kind:?}");
        }
    }
}
