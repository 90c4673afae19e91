//! Directed scenarios: corners that random search misses, by the number that the catalogue of real bugs gives them.
//!
//! Invariant: a scenario says what must come out, and is a violation if its own fault did not take effect.

use holdfast_raft::host::sim::disk::{self, End};
use holdfast_raft::host::sim::net::{self, Link};
use holdfast_raft::host::sim::{self, Habits};
use holdfast_raft::{Keep, NodeId};

use super::faults;
use super::node::Node;
use super::plan::Plan;
use super::world::World;

/// All of them.
pub const NAMES: &[&str] = &[
    "calm",
    "commit-needs-a-quorum",
    "bridge-of-five",
    "completions-late-on-one-node",
    "install-during-membership-change",
    "apply-stalls",
    "leader-back-in-its-own-term",
    "leader-removes-itself",
    "a-node-comes-back",
    "a-disk-fills",
    "space-again-while-nobody-takes-over",
    "asked-then-taken-out",
];

/// One scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario(&'static str);

/// The one of this name.
pub fn of(name: &str) -> Result<Scenario, String> {
    let found = NAMES.iter().find(|it| **it == name);
    found
        .map(|it| Scenario(it))
        .ok_or_else(|| format!("no scenario {name:?}; there are: {}", NAMES.join(", ")))
}

const CUT: Link = Link {
    is_cut: true,
    ..Link::GOOD
};

impl Scenario {
    pub fn plan(self) -> Plan {
        let mut plan = Plan::calm();
        match self.0 {
            "bridge-of-five" => plan.voters = 5,
            "completions-late-on-one-node" => plan.voters = 1,
            "install-during-membership-change" => {
                plan.keep = Keep {
                    snapshot_entries: 5,
                    entries: 0,
                };
                plan.faults.membership = true; // the voters change
            }
            "leader-removes-itself" | "asked-then-taken-out" => plan.faults.membership = true,
            "a-disk-fills" | "space-again-while-nobody-takes-over" => plan.spoil.full = true,
            _ => {}
        }
        plan
    }

    pub fn play(self, world: &mut World) {
        world.run_for(2_000);
        match self.0 {
            "commit-needs-a-quorum" => commit_needs_a_quorum(world),
            "bridge-of-five" => bridge_of_five(world),
            "completions-late-on-one-node" => completions_late(world),
            "install-during-membership-change" => install_during_membership_change(world),
            "apply-stalls" => apply_stalls(world),
            "leader-back-in-its-own-term" => leader_back_in_its_own_term(world),
            "leader-removes-itself" => leader_removes_itself(world),
            "a-node-comes-back" => a_node_comes_back(world),
            "a-disk-fills" => a_disk_fills(world),
            "space-again-while-nobody-takes-over" => space_again(world),
            "asked-then-taken-out" => asked_then_taken_out(world),
            _ => world.run_for(5_000),
        }
    }
}

fn fails(world: &mut World, what: &str) {
    world.checks.violated(format!("the scenario: {what}"));
}

fn all_links_of(world: &World, at: usize, link: Option<Link>) {
    let alone = world.nodes[at].id;
    for other in world.nodes.iter().map(|it| it.id).filter(|id| *id != alone) {
        net::set_link(alone, other, link);
        net::set_link(other, alone, link);
    }
}

fn down(world: &mut World, at: usize, how: End, for_ms: u64) {
    world.nodes[at].end(how, &mut world.rng);
    world.nodes[at].back_at_ms = Some(sim::now_ms() + for_ms);
    world.nemesis.ends += 1;
}

/// 1: a leader that hears nobody commits nothing; whoever takes over loses nothing that was committed.
fn commit_needs_a_quorum(world: &mut World) {
    for round in 0..8 {
        let Some(old) = world.leader() else {
            return fails(world, "nobody leads");
        };
        all_links_of(world, old, Some(CUT));
        world.run_for(300 + round * 200);
        let to = NodeId(world.nodes[(old + 1) % world.nodes.len()].id);
        faults::transfer(&world.nodes, to);
        world.run_for(1_500);
        all_links_of(world, old, None);
        world.run_for(2_000);
    }
}

/// 3: of five, one still hears the old leader and the rest; the others elect all the same.
fn bridge_of_five(world: &mut World) {
    let Some(old) = world.leader() else {
        return fails(world, "nobody leads");
    };
    let count = world.nodes.len();
    let bridge = (old + 1) % count;
    for at in (0..count).filter(|at| *at != old && *at != bridge) {
        let (from, to) = (world.nodes[old].id, world.nodes[at].id);
        net::set_link(from, to, Some(CUT));
        net::set_link(to, from, Some(CUT));
    }
    let before = world.clients.acknowledged;
    if !world.run_until(8_000, |it| it.clients.acknowledged > before + 50) {
        fails(world, "L1: a connected quorum acknowledges nothing for 8 s");
    }
}

/// 4: on a single node, completions that come late and in heaps stall nothing.
fn completions_late(world: &mut World) {
    for round in 0..20 {
        let late = Habits {
            sync_ms_max: 5 + round * 10,
            ..Habits::GOOD
        };
        if let Some(process) = &world.nodes[0].process {
            process.host.set_habits(late);
        }
        world.run_for(700);
        down(world, 0, End::PowerLost, 50);
        let before = world.clients.acknowledged;
        if !world.run_until(6_000, |it| it.clients.acknowledged > before) {
            return fails(world, "L3: a single node acknowledges nothing for 6 s");
        }
    }
}

/// 5: a follower is sent a snapshot while the membership changes, and ends with the newest of both.
fn install_during_membership_change(world: &mut World) {
    for round in 0..6 {
        let Some(leader) = world.leader() else {
            world.run_for(2_000);
            continue;
        };
        let behind = (leader + 1) % world.nodes.len();
        let other = (leader + 2) % world.nodes.len();
        down(world, behind, End::Killed, 12_000);
        world.run_for(11_500); // the log that it lacks is purged meanwhile
        let out = if round % 2 == 0 { behind } else { other };
        world.nemesis.change_members(&world.nodes, out);
        world.run_for(3_000);
        world.nemesis.bring_back(&world.nodes);
        world.run_for(4_000);
    }
    if world.checks.installed == 0 {
        fails(world, "no snapshot was installed");
    }
}

/// 17: a replica whose state does not get on holds up nobody for long, and catches up.
fn apply_stalls(world: &mut World) {
    for _ in 0..3 {
        let Some(leader) = world.leader() else {
            return fails(world, "nobody leads");
        };
        let slow = Habits {
            apply_ms_max: 600,
            ..Habits::GOOD
        };
        if let Some(process) = &world.nodes[leader].process {
            process.host.set_habits(slow);
        }
        world.run_for(4_000);
        if let Some(process) = &world.nodes[leader].process {
            process.host.set_habits(Habits::GOOD);
        }
        let before = world.clients.acknowledged;
        if !world.run_until(5_000, |it| it.clients.acknowledged > before + 20) {
            return fails(world, "L3: nothing is acknowledged 5 s after the stall");
        }
    }
}

/// 47: a leader killed and back before anybody noticed believes nothing of what it granted.
fn leader_back_in_its_own_term(world: &mut World) {
    for round in 0..30 {
        let Some(leader) = world.leader() else {
            world.run_for(1_000);
            continue;
        };
        let how = if round % 3 == 0 {
            End::PowerLost
        } else {
            End::Killed
        };
        down(world, leader, how, 1 + round * 7);
        world.run_for(1_500);
    }
}

/// 48: members go out and come back while leadership is asked to move; somebody can always be elected.
fn leader_removes_itself(world: &mut World) {
    for round in 0..6 {
        let Some(leader) = world.leader() else {
            return fails(world, "nobody leads");
        };
        let out = (leader + 1) % world.nodes.len();
        world.nemesis.change_members(&world.nodes, out);
        world.run_for(1_000);
        let to = NodeId(world.nodes[(leader + 2) % world.nodes.len()].id);
        faults::transfer(&world.nodes, to);
        world.run_for(50 * round);
        if let Some(leader) = world.leader() {
            down(world, leader, End::Killed, 300);
        }
        let before = world.clients.acknowledged;
        if !world.run_until(8_000, |it| it.clients.acknowledged > before + 10) {
            return fails(
                world,
                "L1: nobody acknowledges for 8 s with a majority alive",
            );
        }
        world.nemesis.bring_back(&world.nodes);
        world.run_for(3_000);
    }
}

/// Whoever was cut off, or heard no leader and could ask the others, changes no leader: it asks whether it could win before it
/// stands.
fn a_node_comes_back(world: &mut World) {
    for round in 0..6 {
        let Some(leader) = world.leader() else {
            return fails(world, "nobody leads");
        };
        let before = world.checks.leaders();
        let alone = (leader + 1) % world.nodes.len();
        if round % 2 == 0 {
            all_links_of(world, alone, Some(CUT));
        } else {
            let (from, to) = (world.nodes[leader].id, world.nodes[alone].id);
            net::set_link(from, to, Some(CUT));
        }
        world.run_for(3_000);
        all_links_of(world, alone, None);
        world.run_for(2_000);
        if world.leader() != Some(leader) || world.checks.leaders() != before {
            return fails(world, "L6: a node that came back changed the leader");
        }
    }
}

/// Free space of one node, or of all.
fn has_free(world: &World, at: Option<usize>, percent: u64) {
    for (index, node) in world.nodes.iter().enumerate() {
        if at.is_none_or(|at| at == index) {
            disk::set_free_percent(&node.folder, percent);
        }
    }
}

/// Below the hard mark a leader hands over; where no node has space nothing is taken on, below the soft mark no run; one whose disk
/// is full ends, and the others go on. With space again everything goes on by itself.
fn a_disk_fills(world: &mut World) {
    let Some(old) = world.leader() else {
        return fails(world, "nobody leads");
    };
    has_free(world, Some(old), 3);
    let moved = |it: &World| it.leader().is_some_and(|leader| leader != old);
    if !world.run_until(4_000, moved) {
        return fails(world, "leadership stays on a node below its hard mark");
    }
    // Two are full, and each may hand to the other first.
    let Some(second) = world.leader() else {
        return fails(world, "nobody leads");
    };
    has_free(world, Some(second), 3);
    let third = (0..world.nodes.len()).find(|at| *at != old && *at != second);
    if !world.run_until(10_000, |it| it.leader().is_some() && it.leader() == third) {
        return fails(
            world,
            "leadership stays where no space is while a third has some",
        );
    }
    has_free(world, None, 3);
    world.run_for(6_500); // each has looked by then, and what was asked before is answered or given up
    let before = world.clients.acknowledged;
    world.run_for(2_000);
    if world.clients.acknowledged != before {
        return fails(world, "a change was taken on below the hard mark");
    }
    has_free(world, None, 10);
    world.run_for(4_500);
    let before = world.clients.started();
    world.run_for(2_000);
    if world.clients.started() != before {
        return fails(world, "a run was taken on below the soft mark");
    }
    has_free(world, None, 100);
    let before = world.clients.started();
    if !world.run_until(4_000, |it| it.clients.started() > before + 20) {
        return fails(world, "no run is taken on with space again");
    }
    let Some(full) = world.leader() else {
        return fails(world, "nobody leads");
    };
    has_free(world, Some(full), 0);
    if !world.run_until(4_000, |it| it.nodes[full].process.is_none()) {
        return fails(world, "a node whose disk is full goes on");
    }
    let before = world.clients.started();
    if !world.run_until(8_000, |it| it.clients.started() > before + 20) {
        return fails(world, "L1: two with space take on nothing");
    }
    has_free(world, None, 100);
}

/// A leader below its hard mark hands over to nodes that do not hear it. While it waits for one of them to lead, its disk has space
/// again: it notices within two looks all the same, and refuses no more.
fn space_again(world: &mut World) {
    let Some(leader) = world.leader() else {
        return fails(world, "nobody leads");
    };
    all_links_of(world, leader, Some(CUT));
    has_free(world, Some(leader), 3);
    if !world.run_until(2_000, |it| refuses_changes(&it.nodes[leader])) {
        return fails(world, "a node below its hard mark refuses nothing");
    }
    world.run_for(50); // it has asked somebody to take over
    has_free(world, Some(leader), 100);
    if !world.run_until(2_000, |it| !refuses_changes(&it.nodes[leader])) {
        return fails(
            world,
            "L3: a node does not notice that it has space again while nobody takes over from it",
        );
    }
    all_links_of(world, leader, None);
    world.run_for(3_000);
}

/// Whether a node refuses changes for want of space.
fn refuses_changes(node: &Node) -> bool {
    let disk = node.process.as_ref().and_then(|it| it.door.disk.as_ref());
    disk.is_some_and(|disk| disk.verify_proposals().is_err())
}

/// A leader that is cut off has much in flight, and is taken out before its successor has told it a word: each ask is answered all the
/// same. What waits behind them was never appended, and is sent to the other leader.
fn asked_then_taken_out(world: &mut World) {
    let Some(old) = world.leader() else {
        return fails(world, "nobody leads");
    };
    all_links_of(world, old, Some(CUT));
    world.run_for(400);
    let led = |it: &World| {
        let others = (0..it.nodes.len()).filter(|at| *at != old);
        others.map(|at| &it.nodes[at]).any(leads_by_its_hint)
    };
    if !world.run_until(8_000, led) {
        return fails(world, "L1: two of three elect nobody");
    }
    world.run_for(500);
    world.nemesis.change_members(&world.nodes, old);
    world.run_for(3_000);
    all_links_of(world, old, None);
    world.run_for(12_000);
}

fn leads_by_its_hint(node: &Node) -> bool {
    let groups = node.groups();
    groups.is_some_and(|it| {
        let replicas = it.replicas().borrow().clone();
        replicas.iter().any(|it| it.watch_leader().borrow().is_self)
    })
}
