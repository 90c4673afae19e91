//! Faults at random times: which strike is the plan's, when and whom the seed's.
//!
//! Invariant: every fault ends by itself or in the heal phase; a fault strikes only what is there to be struck.

use holdfast_raft::host::sim::disk::End;
use holdfast_raft::host::sim::net::{self, Link};
use holdfast_raft::host::sim::{self, Habits, Rng};
use holdfast_raft::{GroupId, NodeId};

use super::checks::members;
use super::node::{Node, peer_address};
use super::plan::Plan;

/// Something that ends later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Later {
    Mend(u64, u64),
    Calm(u64),
}

/// The nemesis of one seed.
pub struct Nemesis {
    rng: Rng,
    next_at_ms: u64,
    later: Vec<(u64, Later)>,
    pub ends: u64,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Kill,
    Power,
    Outage,
    AllAtOnce,
    Cut,
    OneWay,
    Flap,
    SlowLink,
    SlowDisk,
    Transfer,
    Membership,
    Pause,
    Clock,
}

/// How far a wall clock jumps, in ms: what daylight saving, a wrong zone and a wrong day do.
const JUMPS_MS: [i64; 4] = [200, 3_600_000, 86_400_000, 1_000_000_000];

impl Nemesis {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            next_at_ms: 0,
            later: Vec::new(),
            ends: 0,
        }
    }

    /// Before a tick.
    pub fn step(&mut self, nodes: &mut [Node], plan: &Plan) {
        self.end_what_is_over(nodes, plan);
        if sim::now_ms() < self.next_at_ms {
            return;
        }
        let every = plan.fault_every_ms;
        self.next_at_ms = sim::now_ms() + self.rng.within(every / 2, every + every / 2);
        let kinds = on(plan);
        if kinds.is_empty() {
            return;
        }
        let kind = kinds[usize::try_from(self.rng.below(kinds.len() as u64)).unwrap_or(0)];
        sim::trace(&format!("nemesis {kind:?}"));
        self.strike(kind, nodes, plan);
    }

    fn end_what_is_over(&mut self, nodes: &mut [Node], plan: &Plan) {
        let now = sim::now_ms();
        let all = std::mem::take(&mut self.later);
        let (over, later): (Vec<_>, Vec<_>) = all.into_iter().partition(|(at, _)| *at <= now);
        self.later = later;
        for (_, what) in over {
            match what {
                Later::Mend(from, to) => net::set_link(from, to, None),
                Later::Calm(node) => {
                    let node = nodes.iter().find(|it| it.id == node);
                    if let Some(process) = node.and_then(|it| it.process.as_ref()) {
                        process.host.set_habits(plan.habits);
                    }
                }
            }
        }
    }

    fn any(&mut self, nodes: &[Node]) -> usize {
        usize::try_from(self.rng.below(nodes.len() as u64)).unwrap_or(0)
    }

    fn down(&mut self, node: &mut Node, how: End, for_ms: u64) {
        if node.process.is_some() {
            self.ends += 1;
            node.end(how, &mut self.rng);
            node.back_at_ms = Some(sim::now_ms() + for_ms);
        }
    }

    fn strike(&mut self, kind: Kind, nodes: &mut [Node], plan: &Plan) {
        let at = self.any(nodes);
        match kind {
            Kind::Kill => {
                let back = self.rng.within(1, 1_500);
                self.down(&mut nodes[at], End::Killed, back);
            }
            Kind::Power => {
                let back = self.rng.within(100, 3_000);
                self.down(&mut nodes[at], End::PowerLost, back);
            }
            Kind::Outage => {
                let back = self.rng.within(6_000, 16_000); // the log that it lacks may be purged meanwhile
                self.down(&mut nodes[at], End::Killed, back);
            }
            Kind::AllAtOnce => {
                let how = if self.rng.percent(50) {
                    End::PowerLost
                } else {
                    End::Killed
                };
                for node in nodes {
                    let back = self.rng.within(1, 1_000);
                    self.down(node, how, back);
                }
            }
            Kind::Cut => {
                let until = sim::now_ms() + self.rng.within(200, 5_000);
                let alone = nodes[at].id;
                for other in nodes.iter().map(|it| it.id).filter(|id| *id != alone) {
                    self.cut(alone, other, until);
                    self.cut(other, alone, until);
                }
            }
            Kind::OneWay => {
                let until = sim::now_ms() + self.rng.within(200, 5_000);
                let to = self.any(nodes);
                let (from, to) = (nodes[at].id, nodes[to].id);
                self.cut(from, to, until);
            }
            Kind::Flap => {
                let alone = nodes[at].id;
                let others: Vec<u64> = nodes.iter().map(|it| it.id).collect();
                for other in others.into_iter().filter(|id| *id != alone) {
                    let until = sim::now_ms() + self.rng.within(20, 400);
                    self.cut(alone, other, until);
                    self.cut(other, alone, until);
                }
                self.next_at_ms = sim::now_ms() + self.rng.within(50, 600);
            }
            Kind::SlowLink => {
                let until = sim::now_ms() + self.rng.within(500, 5_000);
                let to = self.any(nodes);
                let (from, to) = (nodes[at].id, nodes[to].id);
                let slow = Link {
                    delay_ms_max: self.rng.within(20, 400),
                    lost_permille: self.rng.below(100),
                    ..plan.link
                };
                net::set_link(from, to, Some(slow));
                self.later.push((until, Later::Mend(from, to)));
            }
            Kind::SlowDisk => {
                let slow = Habits {
                    sync_ms_max: self.rng.within(50, 600),
                    ..plan.habits
                };
                if let Some(process) = &nodes[at].process {
                    process.host.set_habits(slow);
                    let until = sim::now_ms() + self.rng.within(500, 4_000);
                    self.later.push((until, Later::Calm(nodes[at].id)));
                }
            }
            Kind::Transfer => {
                let to = self.any(nodes);
                transfer(nodes, NodeId(nodes[to].id));
            }
            Kind::Membership => self.change_members(nodes, at),
            Kind::Pause => {
                let span = self.rng.within(100, 6_000);
                nodes[at].pause(span);
            }
            Kind::Clock => {
                let far = JUMPS_MS[usize::try_from(self.rng.below(4)).unwrap_or(0)];
                let jump = if self.rng.percent(50) { far } else { -far };
                nodes[at].set_skew(if self.rng.percent(25) { 0 } else { jump });
            }
        }
    }

    fn cut(&mut self, from: u64, to: u64, until: u64) {
        if from == to {
            return;
        }
        let cut = Link {
            is_cut: true,
            ..Link::GOOD
        };
        net::set_link(from, to, Some(cut));
        self.later.push((until, Later::Mend(from, to)));
    }

    /// Takes a follower out, or brings one in again that is out.
    pub fn change_members(&self, nodes: &[Node], at: usize) {
        let target = nodes[at].id;
        for node in nodes {
            let Some(process) = node.process.as_ref() else {
                continue;
            };
            let Some(groups) = node.groups() else {
                continue;
            };
            for replica in groups.replicas().borrow().iter() {
                if !replica.watch_leader().borrow().is_self || node.id == target {
                    continue;
                }
                let voters = replica.status().voters;
                let is_in = voters.iter().flatten().any(|id| id.0 == target);
                let (group, groups) = (replica.group(), std::sync::Arc::clone(&groups));
                process.runtime.spawn(async move {
                    let done = if is_in {
                        groups.remove(group, NodeId(target)).await.map(drop)
                    } else {
                        let address = peer_address(target);
                        groups.add(group, &address, None, None).await.map(drop)
                    };
                    sim::trace(&format!("membership g{} n{target}: {done:?}", group.0));
                });
            }
        }
    }

    /// Brings everybody in again who is out.
    pub fn bring_back(&self, nodes: &[Node]) {
        for (at, node) in nodes.iter().enumerate() {
            let Some(groups) = nodes.iter().find_map(Node::groups) else {
                return;
            };
            let first = groups
                .replicas()
                .borrow()
                .first()
                .map(holdfast_raft::Replica::group);
            let Some(group) = first else { return };
            let members = members(nodes, group);
            if !members.is_empty() && !members.contains(&node.id) {
                self.change_members(nodes, at);
            }
        }
    }

    /// Everything is as it was meant to be, and everybody comes back.
    pub fn heal(&mut self, nodes: &mut [Node]) {
        self.later.clear();
        for from in nodes.iter().map(|it| it.id) {
            for to in nodes.iter().map(|it| it.id) {
                net::set_link(from, to, None);
            }
        }
        net::set_usual(Link::GOOD);
        for node in nodes {
            node.resume();
            match &node.process {
                Some(process) => process.host.set_habits(Habits::GOOD),
                None if node.is_out => {}
                None => node.back_at_ms = Some(sim::now_ms()),
            }
        }
    }
}

/// Asks whoever leads to hand over.
pub fn transfer(nodes: &[Node], to: NodeId) {
    for node in nodes {
        let Some(process) = node.process.as_ref() else {
            continue;
        };
        let Some(groups) = node.groups() else {
            continue;
        };
        for replica in groups.replicas().borrow().iter() {
            if replica.watch_leader().borrow().is_self {
                let (group, groups): (GroupId, _) =
                    (replica.group(), std::sync::Arc::clone(&groups));
                process.runtime.spawn(async move {
                    let done = groups.transfer(group, Some(to)).await;
                    sim::trace(&format!("transfer g{} to n{}: {done:?}", group.0, to.0));
                });
            }
        }
    }
}

fn on(plan: &Plan) -> Vec<Kind> {
    let it = plan.faults;
    let all = [
        (it.kill, Kind::Kill),
        (it.power, Kind::Power),
        (it.long_outage, Kind::Outage),
        (it.all_at_once, Kind::AllAtOnce),
        (it.cut, Kind::Cut),
        (it.one_way, Kind::OneWay),
        (it.flap, Kind::Flap),
        (it.slow_link, Kind::SlowLink),
        (it.slow_disk, Kind::SlowDisk),
        (it.transfer, Kind::Transfer),
        (it.membership, Kind::Membership),
        (it.pause, Kind::Pause),
        (it.clock, Kind::Clock),
    ];
    let on = all.iter().filter(|(on, _)| *on);
    on.map(|(_, kind)| *kind).collect()
}
