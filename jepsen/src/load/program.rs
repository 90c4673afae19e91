//! Programs: what a run of the load does, as data in its input.
//!
//! Invariant: a program ends by itself: each wait has a timeout, each step's failures are counted, timers are short. Every step
//! carries a serial of its own. Not here: doing it (`worker`).

use serde::{Deserialize, Serialize};

use super::Workload;
use crate::dice::Dice;

/// The names of signals that programs wait for.
pub const SIGNALS: [&str; 3] = ["s0", "s1", "s2"];
/// The limit that limited steps name.
pub(crate) const LIMIT: &str = "api";
/// Parallel nodes may hold parallel nodes, so deep.
const DEPTH_MAX: u32 = 2;

/// The input of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The run's serial; comes back in its result.
    pub serial: u64,
    /// One after the other.
    pub nodes: Vec<Node>,
}

/// One thing that a program does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "node", rename_all = "kebab-case")]
pub enum Node {
    /// A step.
    Act(Act),
    /// Waits for a signal, not for ever.
    Wait {
        /// Place in [`SIGNALS`].
        signal: usize,
        /// Until it goes on without.
        timeout_ms: u64,
    },
    /// A timer.
    Sleep {
        /// How long.
        ms: u64,
    },
    /// All at the same time.
    All {
        /// What.
        parts: Vec<Node>,
    },
    /// The function fails here: what is owed is undone.
    Fail,
}

/// How certain a step must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Certain {
    /// Again after a lost attempt.
    AtLeastOnce,
    /// Never again once it may have begun.
    AtMostOnce,
    /// Asks a probe first.
    Reconcile,
}

/// What one attempt does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Go {
    /// Its effect.
    Well,
    /// Fails before its effect, to be tried again.
    FailBefore,
    /// Fails after its effect, to be tried again.
    FailAfter,
    /// Fails for good, before its effect.
    Terminal,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// Of the payload that the sink sees.
    pub serial: u64,
    /// How long it takes before the effect.
    pub takes_ms: u64,
    /// What the first attempts do; later ones go well.
    pub script: Vec<Go>,
    /// Whether it has an undo.
    pub undo: bool,
    /// What becomes of a lost attempt.
    pub certain: Certain,
    /// Whether it names the limit.
    pub limited: bool,
    /// The sink tells it so often to come back later.
    pub throttle: u32,
    /// Whether the function goes on when it fails.
    pub tolerated: bool,
}

/// Draws a program. Serials are `serial` itself and those after it; `room` of them are the caller's to give.
pub fn draw(dice: &mut Dice, workload: &Workload, serial: u64) -> Program {
    let mut drawing = Drawing {
        workload,
        next: serial,
    };
    let serial = drawing.serial();
    let count = dice.between(1, workload.programs.nodes_max);
    let mut nodes: Vec<Node> = (0..count).map(|_| drawing.node(dice, 0)).collect();
    // Undo workloads fail now and then behind what they did.
    if workload.programs.undo > 0 && dice.chance(workload.programs.fails) {
        nodes.push(Node::Fail);
    }
    Program { serial, nodes }
}

struct Drawing<'a> {
    workload: &'a Workload,
    next: u64,
}

impl Drawing<'_> {
    fn serial(&mut self) -> u64 {
        let serial = self.next;
        self.next += 1;
        serial
    }

    fn node(&mut self, dice: &mut Dice, depth: u32) -> Node {
        let programs = &self.workload.programs;
        if dice.chance(programs.wait) {
            return Node::Wait {
                signal: usize::try_from(dice.below(SIGNALS.len() as u64)).unwrap_or_default(),
                timeout_ms: dice.between(200, 4000),
            };
        }
        if dice.chance(programs.timer) {
            let ms = dice.between(1, 2500);
            return Node::Sleep { ms };
        }
        if depth < DEPTH_MAX && dice.chance(programs.parallel) {
            let count = dice.between(2, programs.parts_max);
            let parts = (0..count).map(|_| self.node(dice, depth + 1)).collect();
            return Node::All { parts };
        }
        Node::Act(self.act(dice))
    }

    fn act(&mut self, dice: &mut Dice) -> Act {
        let programs = &self.workload.programs;
        let mut script = Vec::new();
        while script.len() < 3 && dice.chance(programs.fails) {
            script.push(*dice.pick(&[Go::FailBefore, Go::FailBefore, Go::FailAfter]));
        }
        if dice.chance(programs.fails / 4) {
            script.push(Go::Terminal);
        }
        let certain = if dice.chance(programs.modes) {
            *dice.pick(&[
                Certain::AtLeastOnce,
                Certain::AtMostOnce,
                Certain::Reconcile,
            ])
        } else {
            Certain::AtLeastOnce
        };
        if certain == Certain::AtMostOnce {
            script.clear(); // its failure is for a person to decide
        }
        let limited = dice.chance(programs.limited);
        Act {
            serial: self.serial(),
            takes_ms: dice.between(0, programs.takes_ms_max),
            script,
            undo: dice.chance(programs.undo),
            certain,
            limited,
            throttle: u32::from(limited && dice.chance(10)),
            tolerated: dice.chance(30),
        }
    }
}
