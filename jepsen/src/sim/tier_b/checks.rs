//! What must be true at every moment, whatever fails: judged from outside, after each tick.
//!
//! Invariant: nothing here changes the cluster. S1 acknowledged is never lost; S15 replicas agree at every index; S19 an entry
//! that is applied is durable on a quorum, its id never changes, one leader per leader id, nothing falls that must not.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast_node::machine::{Engine, SnapshotRows};
use holdfast_raft::host::sim::{self, Seen};
use holdfast_raft::{GroupId, Hint, LogId, Replica, Verdict};
use holdfast_scheduler::invariants;
use holdfast_scheduler::orders::Orders;

use super::node::Node;

/// One violation is followed by many; the first ones tell.
const VIOLATIONS_MAX: usize = 20;

/// What is known of an entry once anybody has applied it.
#[derive(Debug, Clone, Copy)]
struct Known {
    id: LogId,
    hash: Option<u32>,
    digest: u128,
}

/// What a process may not take back.
#[derive(Debug, Clone, Copy, Default)]
struct Marks {
    boot: u64,
    applied: Option<u64>,
}

/// The judge.
#[derive(Default)]
pub struct Checks {
    pub violations: Vec<String>,
    pub applied: u64,
    pub installed: u64,
    known: BTreeMap<(u32, u64), Known>,
    leaders: BTreeMap<(u32, u64), u64>,
    votes: BTreeMap<(u32, u64), (u64, u64)>,
    told: BTreeMap<(u32, u64), Option<(Hint, Option<u64>)>>,
    marks: BTreeMap<(u32, u64), Marks>,
    looks: u64,
    /// Whether the voters never change, so that a quorum can be counted.
    fixed_voters: bool,
}

impl Checks {
    pub fn new(fixed_voters: bool) -> Self {
        Self {
            fixed_voters,
            ..Self::default()
        }
    }

    pub fn violated(&mut self, what: String) {
        sim::trace(&format!("VIOLATED {what}"));
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations
                .push(format!("at {} ms: {what}", sim::now_ms()));
        }
    }

    /// How many terms had a leader.
    pub fn leaders(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// After a tick.
    pub fn look(&mut self, nodes: &[Node]) {
        for seen in sim::seen() {
            self.applied(&seen, nodes);
        }
        for node in nodes {
            self.hints(node);
        }
    }

    fn applied(&mut self, seen: &Seen, nodes: &[Node]) {
        let at = (seen.group, seen.id.index);
        match seen.hash {
            Some(_) => self.applied += 1,
            None => self.installed += 1,
        }
        let boot = nodes
            .iter()
            .find(|it| it.id == seen.node)
            .map_or(0, |it| it.boots);
        let marks = self.marks.entry((seen.group, seen.node)).or_default();
        if marks.boot != boot {
            *marks = Marks {
                boot,
                ..Marks::default()
            };
        }
        let before = marks.applied.replace(seen.id.index);
        if before >= Some(seen.id.index) {
            self.violated(format!(
                "S19: n{} g{} applied {} after {before:?}",
                seen.node, seen.group, seen.id.index
            ));
        }
        let Some(known) = self.known.get(&at).copied() else {
            self.known.insert(
                at,
                Known {
                    id: seen.id,
                    hash: seen.hash,
                    digest: seen.digest,
                },
            );
            self.durable(seen, nodes);
            return;
        };
        let same_bytes = known.hash.is_none() || seen.hash.is_none() || known.hash == seen.hash;
        if known.id != seen.id || !same_bytes {
            self.violated(format!(
                "S19: g{} entry {} was {:?} and is {:?} on n{}",
                seen.group, seen.id.index, known.id, seen.id, seen.node
            ));
        }
        if known.digest != seen.digest {
            self.violated(format!(
                "S15: g{} entry {} led to other rows on n{}",
                seen.group, seen.id.index, seen.node
            ));
        }
        if known.hash.is_none()
            && let Some(known) = self.known.get_mut(&at)
        {
            known.hash = seen.hash;
        }
    }

    /// Applied for the first time by anybody: it has to survive the loss of any minority.
    fn durable(&mut self, seen: &Seen, nodes: &[Node]) {
        if !self.fixed_voters {
            return;
        }
        let on = nodes
            .iter()
            .filter(|it| sim::is_durable(&it.folder, seen.group, seen.id))
            .count();
        if on * 2 <= nodes.len() {
            self.violated(format!(
                "S19: g{} entry {} is applied on n{} and durable on {on} of {} nodes",
                seen.group,
                seen.id.index,
                seen.node,
                nodes.len()
            ));
        }
    }

    /// Who leads as the node sees it, and under which epoch it acts, into the trace as it changes.
    fn tell(&mut self, node: &Node, group: u32, hint: Hint) {
        let all = node.process.as_ref().map(|it| it.door.partitions.all());
        let all = all.unwrap_or_default();
        let partition = all.iter().find(|it| it.group == group);
        let epoch = partition.and_then(|it| it.clock.epoch());
        let now = Some((hint, epoch));
        let before = self.told.entry((group, node.id)).or_default();
        if *before != now {
            *before = now;
            let (term, leader) = (hint.term, hint.leader.map_or(0, |it| it.0));
            let is_self = hint.is_self;
            sim::trace(&format!(
                "n{} g{group} hint t{term} leader n{leader} self {is_self} epoch {epoch:?}",
                node.id
            ));
        }
    }

    fn hints(&mut self, node: &Node) {
        let Some(groups) = node.groups() else { return };
        for replica in groups.replicas().borrow().iter() {
            let group = replica.group().0;
            let hint = *replica.watch_leader().borrow();
            self.tell(node, group, hint);
            if let Some(leader) = hint.leader {
                let first = !self.leaders.contains_key(&(group, hint.term));
                if first {
                    sim::trace(&format!("g{group} t{} led by n{}", hint.term, leader.0));
                    self.leaders.insert((group, hint.term), leader.0);
                }
            }
            let verdict = replica.verdict();
            if verdict != Verdict::InStep {
                self.violated(format!("S15: n{} g{group} finds {verdict:?}", node.id));
            }
            // A leader's name is its term and its node: who has accepted one accepts none before it, not even after a restart.
            let vote = (hint.term, hint.leader.map_or(0, |it| it.0));
            let before = self.votes.entry((group, node.id)).or_default();
            if vote.0 < before.0 || (vote.0 == before.0 && vote.1 != 0 && vote.1 < before.1) {
                let before = *before;
                self.violated(format!(
                    "S19: n{} g{group} went from {before:?} (term, leader) back to {vote:?}",
                    node.id
                ));
            } else if vote > *before {
                *before = vote;
            }
        }
    }

    /// A slower look: whole-state truths of the engine hold; on one replica each time, since all have the same rows.
    pub fn look_closely(&mut self, nodes: &[Node]) {
        self.looks += 1;
        let turn = usize::try_from(self.looks).unwrap_or(0) % nodes.len();
        let node = &nodes[turn];
        let Some(groups) = node.groups() else { return };
        for replica in groups.replicas().borrow().iter() {
            self.rows(node, replica);
        }
    }

    fn rows(&mut self, node: &Node, replica: &Replica<Engine>) {
        let group = replica.group().0;
        let broken = replica.look(|rows| {
            let rows = SnapshotRows(rows);
            Orders::rebuild(&rows).and_then(|orders| invariants::check(&rows, &orders))
        });
        match broken {
            Ok(broken) => {
                for line in broken {
                    self.violated(format!("n{} g{group}: {line}", node.id));
                }
            }
            Err(fault) => self.violated(format!("n{} g{group}: {fault:?}", node.id)),
        }
    }

    /// At the end: all members of a group stand at the same entry and say the same.
    pub fn agree(nodes: &[Node]) -> Result<(), String> {
        let mut of_group: BTreeMap<u32, (u64, u64, u128)> = BTreeMap::new();
        for node in nodes.iter().filter(|it| !it.is_out) {
            let groups = node.groups().ok_or(format!("n{} is not open", node.id))?;
            let replicas = groups.replicas().borrow().clone();
            for replica in replicas {
                let members = members(nodes, replica.group());
                if members.is_empty() {
                    return Err(format!("g{} has no leader", replica.group().0));
                }
                if !members.contains(&node.id) {
                    continue;
                }
                let group = replica.group().0;
                let (index, digest) = replica.digest();
                let last = replica.status().last_log.unwrap_or(0);
                if index != last {
                    return Err(format!("n{} g{group} applied {index} of {last}", node.id));
                }
                let theirs = *of_group.entry(group).or_insert((node.id, index, digest));
                if (theirs.1, theirs.2) != (index, digest) {
                    return Err(format!(
                        "g{group}: n{} stands at {index} ({digest:032x}), n{} at {} ({:032x})",
                        node.id, theirs.0, theirs.1, theirs.2
                    ));
                }
            }
        }
        if of_group.is_empty() {
            return Err("no node has a group".to_owned());
        }
        Ok(())
    }

    /// At the end, after [`Checks::agree`]: replicas that stand at one entry have the same rows, not only the same running digest.
    pub fn same_rows(nodes: &[Node]) -> Vec<String> {
        let mut known: BTreeMap<(u32, u64), (u64, Vec<(Bytes, Bytes)>)> = BTreeMap::new();
        let mut lines = Vec::new();
        for node in nodes {
            let Some(groups) = node.groups() else {
                continue;
            };
            for replica in groups.replicas().borrow().iter() {
                let group = replica.group().0;
                let rows = replica.look(|rows| {
                    rows.scan(&[], &[0xff; 64], usize::MAX)
                        .map(|found| (rows.applied(), found))
                });
                let (index, rows) = match rows {
                    Ok(found) => found,
                    Err(fault) => {
                        lines.push(format!("n{} g{group}: {fault}", node.id));
                        continue;
                    }
                };
                match known.get(&(group, index)) {
                    None => drop(known.insert((group, index), (node.id, rows))),
                    Some((other, theirs)) if *theirs != rows => lines.push(format!(
                        "S20: g{group} n{} and n{other} stand at entry {index} with other rows",
                        node.id
                    )),
                    Some(_) => {}
                }
            }
        }
        lines
    }
}

/// Whether each group has a leader who acts already: one that was elected just now still refuses what it is asked.
pub fn all_act(nodes: &[Node], partitions: u32) -> bool {
    let acts = |node: &Node, group: u32| {
        let process = node.process.as_ref();
        let partitions = process.map(|it| it.door.partitions.all());
        let mut ours = partitions.into_iter().flatten();
        ours.any(|it| {
            let leads = it.replica.watch_leader().borrow().is_self;
            it.group == group && leads && it.clock.epoch().is_some()
        })
    };
    (1..=partitions).all(|group| nodes.iter().any(|node| acts(node, group)))
}

/// The voters of a group, by its leader's account; none while nobody leads.
pub fn members(nodes: &[Node], group: GroupId) -> BTreeSet<u64> {
    for node in nodes {
        let Some(groups) = node.groups() else {
            continue;
        };
        for replica in groups.replicas().borrow().iter() {
            if replica.group() == group && replica.watch_leader().borrow().is_self {
                let voters = replica.status().voters;
                return voters.iter().flatten().map(|id| id.0).collect();
            }
        }
    }
    BTreeSet::new()
}
