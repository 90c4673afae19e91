//! Faults on the network: rules at the gates.
//!
//! Invariant: a cut counts once bytes have met it: something wanted to pass and did not. Everything set here is lifted here. Not
//! here: how bytes are held (`proxy`).

use std::sync::Arc;
use std::time::Duration;

use super::process::{follow, some_follower, some_leader};
use crate::clock::monotonic_ns;
use crate::dice::Dice;
use crate::proxy::{CLIENTS, Rule};
use crate::records::FaultStatus::{Healed, Indeterminate, Installed, Skipped};
use crate::run::{Field, Leader, Member};

/// Cuts last from a part of an election to beyond a session's term, in milliseconds.
const CUTS_MS: [u64; 5] = [300, 1000, 2500, 5000, 8000];
/// Heartbeats and pulses pass at least twice a second: a cut that nothing meets for so long cuts nothing.
const MET_WITHIN: Duration = Duration::from_millis(1500);
const LOOK_EVERY: Duration = Duration::from_millis(10);
const FLAP_FOR: Duration = Duration::from_secs(5);
/// A line of a bad day: slow, but nothing is lost.
const SLOW: (u64, u64) = (20, 200);
const SLOW_BYTES_PER_S: [u64; 3] = [25_000, 250_000, 2_500_000];

type Links = Vec<(String, String)>;

fn link(from: &str, to: &str) -> (String, String) {
    (from.to_string(), to.to_string())
}

/// From this node to all others, in one or both directions.
fn around(field: &Field, member: &Member, both: bool) -> Links {
    let mut links = Vec::new();
    for other in field.members() {
        if other.id != member.id {
            links.push(link(&member.name, &other.name));
            if both {
                links.push(link(&other.name, &member.name));
            }
        }
    }
    links
}

/// A leader in most cases, for that is where cuts hurt; and who leads what.
async fn target(field: &Arc<Field>, dice: &mut Dice) -> Option<(Arc<Member>, Option<Leader>)> {
    if dice.chance(65) {
        let leader = some_leader(field, dice).await?;
        return Some((Arc::clone(&leader.member), Some(leader)));
    }
    Some((some_follower(field, dice).await?, None))
}

/// Sets a rule and waits until something has met it.
async fn install(field: &Arc<Field>, fault: &str, targets: &[&str], links: &Links, rule: Rule) {
    field.net.set(links, rule);
    let until = tokio::time::Instant::now() + MET_WITHIN;
    while tokio::time::Instant::now() < until {
        if field.net.met(links) > 0 {
            field.record(fault, targets, Installed, &said(links));
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    field.record(fault, targets, Indeterminate, "nothing met it");
}

fn said(links: &Links) -> String {
    let names: Vec<String> = links
        .iter()
        .map(|(from, to)| format!("{from}->{to}"))
        .collect();
    names.join(" ")
}

fn heal(field: &Arc<Field>, fault: &str, targets: &[&str], links: &Links) {
    field.net.lift(links);
    let status = if field.net.is_ruled(links) {
        Indeterminate
    } else {
        Healed
    };
    field.record(fault, targets, status, "");
}

/// The whole life of a rule.
async fn ruled(
    field: &Arc<Field>,
    fault: &str,
    targets: &[&str],
    (links, rule): (Links, Rule),
    time: Duration,
) {
    install(field, fault, targets, &links, rule).await;
    field.hold(time).await;
    heal(field, fault, targets, &links);
}

fn cut_time(dice: &mut Dice) -> Duration {
    Duration::from_millis(*dice.pick(&CUTS_MS))
}

pub(super) async fn partition(field: &Arc<Field>, dice: &mut Dice) {
    isolate(field, dice, "partition", true).await;
}

pub(super) async fn one_way(field: &Arc<Field>, dice: &mut Dice) {
    isolate(field, dice, "one-way", false).await;
}

async fn isolate(field: &Arc<Field>, dice: &mut Dice, fault: &str, both: bool) {
    let time = cut_time(dice);
    let Some((member, leader)) = target(field, dice).await else {
        field.record(fault, &[], Skipped, "nobody leads");
        return;
    };
    let Some(_taken) = field.take(&[member.id]) else {
        field.record(fault, &[&member.name], Skipped, "too few others are whole");
        return;
    };
    let links = around(field, &member, both);
    let t = monotonic_ns();
    if let Some(leader) = leader.filter(|_| time >= Duration::from_millis(2500)) {
        follow(field, t, fault, &leader);
    }
    ruled(field, fault, &[&member.name], (links, Rule::Cut), time).await;
}

pub(super) async fn ring(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "ring";
    let time = cut_time(dice);
    let members = field.members();
    if members.len() < 3 {
        field.record(FAULT, &[], Skipped, "needs three nodes");
        return;
    }
    let first = Arc::clone(dice.pick(&members));
    let others: Vec<_> = members.into_iter().filter(|it| it.id != first.id).collect();
    let second = Arc::clone(dice.pick(&others));
    // Each hears a majority, so nobody is broken by itself; but only one such cut at a time.
    let Some(_taken) = field.take(&[first.id]) else {
        field.record(FAULT, &[&first.name], Skipped, "too few others are whole");
        return;
    };
    let (a, b) = (first.name.as_str(), second.name.as_str());
    let links = vec![link(a, b), link(b, a)];
    ruled(field, FAULT, &[a, b], (links, Rule::Cut), time).await;
}

pub(super) async fn flap(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "flap";
    let Some((member, _)) = target(field, dice).await else {
        field.record(FAULT, &[], Skipped, "nobody leads");
        return;
    };
    let Some(_taken) = field.take(&[member.id]) else {
        field.record(FAULT, &[&member.name], Skipped, "too few others are whole");
        return;
    };
    let links = around(field, &member, true);
    install(field, FAULT, &[&member.name], &links, Rule::Cut).await;
    let until = tokio::time::Instant::now() + FLAP_FOR;
    while tokio::time::Instant::now() < until && field.faults_go_on() {
        field
            .hold(Duration::from_millis(dice.between(50, 500)))
            .await;
        field.net.lift(&links);
        field
            .hold(Duration::from_millis(dice.between(50, 500)))
            .await;
        field.net.set(&links, Rule::Cut);
    }
    heal(field, FAULT, &[&member.name], &links);
}

pub(super) async fn cut_clients(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "cut-clients";
    let Some((member, _)) = target(field, dice).await else {
        field.record(FAULT, &[], Skipped, "nobody leads");
        return;
    };
    let name = member.name.as_str();
    let links = vec![link(CLIENTS, name), link(name, CLIENTS)];
    ruled(
        field,
        FAULT,
        &[CLIENTS, name],
        (links, Rule::Cut),
        cut_time(dice),
    )
    .await;
}

pub(super) async fn cut_workers(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "cut-workers";
    let Some(leader) = some_leader(field, dice).await else {
        field.record(FAULT, &[], Skipped, "nobody leads");
        return;
    };
    let name = leader.member.name.as_str();
    let mut links = Vec::new();
    for worker in field.workers() {
        links.push(link(worker.name(), name));
        links.push(link(name, worker.name()));
    }
    ruled(
        field,
        FAULT,
        &["workers", name],
        (links, Rule::Cut),
        cut_time(dice),
    )
    .await;
}

pub(super) async fn slow(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "slow-net";
    let Some((member, _)) = target(field, dice).await else {
        field.record(FAULT, &[], Skipped, "nobody leads");
        return;
    };
    let Some(_taken) = field.take(&[member.id]) else {
        field.record(FAULT, &[&member.name], Skipped, "too few others are whole");
        return;
    };
    let rule = Rule::Slow {
        delay_ms: dice.between(SLOW.0, SLOW.1),
        bytes_per_s: *dice.pick(&SLOW_BYTES_PER_S),
    };
    let links = around(field, &member, true);
    ruled(field, FAULT, &[&member.name], (links, rule), cut_time(dice)).await;
}

pub(super) async fn reset(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "reset";
    let Some((member, _)) = target(field, dice).await else {
        field.record(FAULT, &[], Skipped, "nobody leads");
        return;
    };
    let before = field.net.reset_count();
    field.net.reset(&member.name);
    tokio::time::sleep(LOOK_EVERY).await;
    let count = field.net.reset_count() - before;
    let status = if count > 0 { Installed } else { Indeterminate };
    let note = format!("{count} connections broken");
    field.record(FAULT, &[&member.name], status, &note);
    // It is over as it happens: new connections are welcome.
    field.record(FAULT, &[&member.name], Healed, "");
}

pub(super) async fn truncate(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "truncate";
    let Some((member, _)) = target(field, dice).await else {
        field.record(FAULT, &[], Skipped, "nobody leads");
        return;
    };
    let Some(_taken) = field.take(&[member.id]) else {
        field.record(FAULT, &[&member.name], Skipped, "too few others are whole");
        return;
    };
    let mut links = around(field, &member, true);
    links.push(link(CLIENTS, &member.name));
    let bytes = dice.between(1, 20_000);
    let time = Duration::from_millis(dice.between(500, 3000));
    let rule = Rule::BreakAfter { bytes };
    ruled(field, FAULT, &[&member.name], (links, rule), time).await;
}
