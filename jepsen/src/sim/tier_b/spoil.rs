//! What becomes of disks besides slow and failing syncs: names that a loss of power takes, values that go bad, no space left.
//!
//! Invariant: all of it is drawn from a stream of its own, so that a seed which has none of it is what it was before there was any.
//! Rot strikes one node of a seed; once that has met it, it is out for good, as one that waits to be replaced.

use holdfast_raft::host::sim::disk::{self, End};
use holdfast_raft::host::sim::{self, Rng};

use super::node::Node;

/// Parts this stream from the one of all other faults.
const STREAM: u64 = 0x7370_6f69_6c65_6402;
/// Below the soft mark, below the hard one, nothing left.
const FREE_PERCENT: [u64; 4] = [10, 3, 0, 0];

/// Which of it a seed has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spoil {
    /// A loss of power takes names that were not synced; power is lost while the cluster forms.
    pub names: bool,
    /// Values in the log of one node go bad.
    pub rot: bool,
    /// Disks fill up.
    pub full: bool,
    /// Between two strikes, in ms, on average.
    pub every_ms: u64,
    /// What the strikes are drawn from.
    seed: u64,
}

impl Spoil {
    /// Rot takes a node away for good, which the others must be able to bear.
    pub fn draw(seed: u64, bears_a_loss: bool) -> Self {
        let mut rng = Rng::new(seed ^ STREAM);
        let any = rng.percent(40);
        let (names, rot, full) = (rng.percent(50), rng.percent(50), rng.percent(50));
        Self {
            names: any && names,
            rot: any && rot && bears_a_loss,
            full: any && full,
            every_ms: rng.within(600, 4_000),
            seed: rng.draw(),
        }
    }
}

/// Whoever does it.
pub struct Spoiler {
    rng: Rng,
    next_at_ms: u64,
    /// Disks that have space again later.
    later: Vec<(u64, u64)>,
    /// Whose values go bad.
    struck: Option<u64>,
    /// Nodes that have met what went bad.
    pub out: u64,
}

impl Spoiler {
    pub fn new(plan: Spoil) -> Self {
        let mut rng = Rng::new(plan.seed);
        if plan.names {
            disk::lose_names(rng.draw());
        }
        Self {
            rng,
            next_at_ms: 0,
            later: Vec::new(),
            struck: None,
            out: 0,
        }
    }

    /// Before a tick of the storm. How many processes it ended.
    pub fn step(&mut self, nodes: &mut [Node], plan: Spoil) -> u64 {
        let now = sim::now_ms();
        for (_, id) in self.later.extract_if(.., |(at, _)| *at <= now) {
            set_free(nodes, id, 100);
        }
        if !(plan.rot || plan.full) || now < self.next_at_ms {
            return 0;
        }
        let every = plan.every_ms;
        self.next_at_ms = now + self.rng.within(every / 2, every + every / 2);
        if plan.rot && (!plan.full || self.rng.percent(50)) {
            return self.rot(nodes);
        }
        self.fill(nodes);
        0
    }

    fn any(&mut self, nodes: &[Node]) -> usize {
        usize::try_from(self.rng.below(nodes.len() as u64)).unwrap_or(0)
    }

    fn rot(&mut self, nodes: &mut [Node]) -> u64 {
        let at = self.any(nodes);
        let struck = *self.struck.get_or_insert(nodes[at].id);
        let node = nodes.iter_mut().find(|it| it.id == struck);
        let Some(node) = node.filter(|it| !it.is_out) else {
            return 0;
        };
        for _ in 0..self.rng.within(1, 3) {
            disk::rot_log(&node.folder, &mut self.rng);
        }
        // Most of it is in memory as well, and is read from the disk by the next process alone.
        if node.process.is_none() || !self.rng.percent(70) {
            return 0;
        }
        node.end(End::Killed, &mut self.rng);
        node.back_at_ms = Some(sim::now_ms() + self.rng.within(1, 1_000));
        1
    }

    fn fill(&mut self, nodes: &[Node]) {
        let percent = FREE_PERCENT[usize::try_from(self.rng.below(4)).unwrap_or(0)];
        let one = self.any(nodes);
        let all = self.rng.percent(20);
        for (at, node) in nodes.iter().enumerate() {
            if all || at == one {
                disk::set_free_percent(&node.folder, percent);
                let until = sim::now_ms() + self.rng.within(500, 6_000);
                self.later.push((until, node.id));
            }
        }
    }

    /// Power is lost on some while they form a cluster: names are new then. How many processes it ended.
    pub fn cut(&mut self, nodes: &mut [Node]) -> u64 {
        let mut ends = 0;
        for node in nodes {
            if node.process.is_some() && self.rng.percent(60) {
                ends += 1;
                node.end(End::PowerLost, &mut self.rng);
                node.back_at_ms = Some(sim::now_ms() + self.rng.within(1, 300));
            }
        }
        ends
    }

    /// Whether power is lost once more while the cluster forms.
    pub fn cuts_again(&mut self) -> bool {
        self.rng.percent(60)
    }

    /// For how long nobody strikes, in ms.
    pub fn wait_ms(&mut self) -> u64 {
        self.rng.within(1, 80)
    }

    /// How a process ends that dies at a sync.
    pub fn end_at_sync(&mut self, plan: Spoil) -> End {
        if plan.names && self.rng.percent(50) {
            End::PowerLost
        } else {
            End::Killed
        }
    }

    /// A process has ended or does not start: whether it has met what went bad, so that it comes back no more.
    pub fn take_out(&mut self, node: &mut Node) -> bool {
        if self.struck == Some(node.id) && !node.is_out && disk::is_rot_seen(&node.folder) {
            sim::trace(&format!("n{} is out: its disk is damaged", node.id));
            node.is_out = true;
            node.back_at_ms = None;
            self.out += 1;
        }
        node.is_out
    }

    /// Every disk has space again.
    pub fn heal(&mut self, nodes: &[Node]) {
        for (_, id) in self.later.drain(..) {
            set_free(nodes, id, 100);
        }
    }

    /// Whose disk nobody should trust any more, whether it has noticed or not.
    pub fn struck(&self) -> Option<u64> {
        self.struck
    }
}

fn set_free(nodes: &[Node], id: u64, percent: u64) {
    if let Some(node) = nodes.iter().find(|it| it.id == id) {
        disk::set_free_percent(&node.folder, percent);
    }
}

/// Whether a start failed for what was done to the disk here. Damage has to be called so.
pub fn explains(cause: &str, plan: Spoil, is_rot_seen: bool) -> bool {
    let full = plan.full && cause.contains("No space left on device");
    let damage = ["is damaged", "Corruption", "checksum"];
    full || (is_rot_seen && damage.iter().any(|it| cause.contains(it)))
}
