//! Faults on the network: what becomes of links.
//!
//! Invariant: a cut counts once something has met it: it wanted to pass and did not; and where calls across it can be made, once they
//! hear what they must. Everything set here is lifted here. Faults name links, never the means. Not here: the means (`network`),
//! faults that only packets can have (`packets`).

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::aim::{MOSTLY_LEADERS, find_leader, find_node, take, take_node};
use super::process::follow;
use crate::clock::monotonic_ns;
use crate::dice::Dice;
use crate::network::{Answer, CLIENTS, Link, Trouble};
use crate::records::FaultStatus::{Healed, Indeterminate, Installed, Skipped};
use crate::run::{Field, Leader, Member, SUSPECTED};

/// Cuts last from a part of an election to beyond a session's term, in milliseconds.
const CUTS_MS: [u64; 5] = [300, 1000, 2500, 5000, 8000];
/// A cut of so long costs a leader its place.
const NOTICED_MS: u64 = 2500;
/// Heartbeats and pulses pass at least twice a second: a cut that nothing meets for so long cuts nothing.
const MET_WITHIN: Duration = Duration::from_millis(1500);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A call over a line that is whole may lose its first packet to a busy machine.
const CALLS_AFTER: usize = 4;
/// An election that a heal brings about is over by then.
const TOLD_AFTER: Duration = Duration::from_secs(2);
const FLAP_FOR: Duration = Duration::from_secs(5);
/// A line of a bad day: slow, but nothing is lost.
const SLOW: (u64, u64) = (20, 200);
const SLOW_BYTES_PER_S: [u64; 3] = [25_000, 250_000, 2_500_000];

pub(super) type Links = Vec<Link>;

pub(super) fn link(from: &str, to: &str) -> Link {
    (from.to_string(), to.to_string())
}

/// Which of the two directions between a node and all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Out,
    In,
    Both,
}

/// Between this node and all other nodes.
pub(super) fn around(field: &Field, member: &Member, way: Way) -> Links {
    let mut links = Vec::new();
    for other in field.members() {
        if other.id == member.id {
            continue;
        }
        if way != Way::In {
            links.push(link(&member.name, &other.name));
        }
        if way != Way::Out {
            links.push(link(&other.name, &member.name));
        }
    }
    links
}

/// Between this node and everybody.
pub(super) fn all_around(field: &Field, member: &Member) -> Links {
    let mut links = around(field, member, Way::Both);
    let name = member.name.as_str();
    let workers = field.workers();
    let workers = workers.iter().map(|it| it.name());
    for other in workers.chain([CLIENTS]) {
        links.push(link(other, name));
        links.push(link(name, other));
    }
    links
}

/// Sets something and waits until it was met; then what a call across it hears must fit. Written down for when it was set.
pub(super) async fn install(
    field: &Arc<Field>,
    fault: &str,
    targets: &[&str],
    links: &Links,
    trouble: Trouble,
) {
    let t = monotonic_ns();
    if let Err(cause) = field.network.set(links, trouble).await {
        field.record_at(t, fault, targets, Indeterminate, &cause.to_string());
        return;
    }
    let (status, note) = match in_force(field, links, trouble).await {
        Ok(()) => (Installed, said(links)),
        Err(why) => (Indeterminate, why),
    };
    field.record_at(t, fault, targets, status, &note);
}

/// Whether something met it and calls across it hear what they must; why not, as a sentence.
pub(super) async fn in_force(
    field: &Arc<Field>,
    links: &Links,
    trouble: Trouble,
) -> Result<(), String> {
    let until = tokio::time::Instant::now() + MET_WITHIN;
    while field.network.met(links).await == 0 {
        if tokio::time::Instant::now() > until {
            return Err("nothing met it".to_string());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let want = match trouble {
        Trouble::Cut => Answer::Silence,
        Trouble::Refuse => Answer::Refused,
        _ => return Ok(()),
    };
    let heard = join_all(links.iter().map(|link| field.network.call(link))).await;
    let wrong = links.iter().zip(heard).find_map(|(link, heard)| {
        let heard = heard.filter(|it| *it != want)?;
        Some(format!(
            "a call from {} to {} heard {heard:?}",
            link.0, link.1
        ))
    });
    wrong.map_or(Ok(()), Err)
}

fn said(links: &Links) -> String {
    let names: Vec<String> = links
        .iter()
        .map(|(from, to)| format!("{from}->{to}"))
        .collect();
    names.join(" ")
}

/// Lifts it, and looks whether it is gone.
pub(super) async fn heal(
    field: &Arc<Field>,
    fault: &str,
    targets: &[&str],
    links: &Links,
    note: &str,
) {
    match lift(field, links).await {
        Ok(()) => field.record(fault, targets, Healed, note),
        Err(why) => field.record(fault, targets, Indeterminate, &why),
    };
}

/// The same, and tells a moment later what became of the leader that was hit: some elections come with the heal.
pub(super) async fn heal_and_tell(
    field: &Arc<Field>,
    fault: &str,
    targets: &[&str],
    links: &Links,
    leader: Option<&Leader>,
) {
    let lifted = lift(field, links).await;
    let t = monotonic_ns();
    if leader.is_some() {
        field.hold(TOLD_AFTER).await;
    }
    match lifted {
        Ok(()) => {
            let note = suspicion(field, leader).await;
            field.record_at(t, fault, targets, Healed, &note)
        }
        Err(why) => field.record_at(t, fault, targets, Indeterminate, &why),
    };
}

/// Lifts what is set on these links; why they are not whole, as a sentence.
pub(super) async fn lift(field: &Arc<Field>, links: &Links) -> Result<(), String> {
    let lifted = field.network.lift(links).await;
    lifted.map_err(|cause| cause.to_string())?;
    if field.network.is_ruled(links).await {
        return Err("something is still set".to_string());
    }
    let silent = join_all(links.iter().map(|link| is_silent(field, link))).await;
    let silent = links.iter().zip(silent).find(|it| it.1);
    silent.map_or(Ok(()), |((from, to), _)| {
        Err(format!("a call from {from} to {to} hears nothing"))
    })
}

/// Whether calls hear nothing, and no other fault is why.
async fn is_silent(field: &Arc<Field>, (from, to): &Link) -> bool {
    let both = [link(from, to), link(to, from)];
    for _ in 0..CALLS_AFTER {
        if field.network.call(&both[0]).await != Some(Answer::Silence) {
            return false;
        }
        if field.network.is_ruled(&both).await {
            return false;
        }
    }
    true
}

/// The whole life of what is set.
async fn ruled(
    field: &Arc<Field>,
    fault: &str,
    targets: &[&str],
    (links, trouble): (Links, Trouble),
    time: Duration,
) {
    install(field, fault, targets, &links, trouble).await;
    field.hold(time).await;
    heal(field, fault, targets, &links, "").await;
}

pub(super) fn cut_time(dice: &mut Dice) -> Duration {
    Duration::from_millis(*dice.pick(&CUTS_MS))
}

/// What became of a leader that lived all the while.
pub(super) async fn suspicion(field: &Arc<Field>, leader: Option<&Leader>) -> String {
    let Some(was) = leader else {
        return String::new();
    };
    let name = &was.member.name;
    match field.leader(was.group).await {
        Some(now) if now.epoch > was.epoch && now.member.id != was.member.id => {
            format!("{SUSPECTED}: {name} lived, {} leads now", now.member.name)
        }
        Some(now) if now.epoch > was.epoch => {
            format!("{SUSPECTED}: {name} lived, and leads again")
        }
        Some(_) => format!("{name} leads on"),
        None => "nobody leads".to_string(),
    }
}

pub(super) async fn partition(field: &Arc<Field>, dice: &mut Dice) {
    isolate(field, dice, "partition", Way::Both).await;
}

pub(super) async fn one_way(field: &Arc<Field>, dice: &mut Dice) {
    isolate(field, dice, "one-way", Way::Out).await;
}

pub(super) async fn deaf(field: &Arc<Field>, dice: &mut Dice) {
    isolate(field, dice, "deaf", Way::In).await;
}

async fn isolate(field: &Arc<Field>, dice: &mut Dice, fault: &str, way: Way) {
    let time = cut_time(dice);
    let Some((member, leader, _taken)) = take_node(field, dice, fault, MOSTLY_LEADERS).await else {
        return;
    };
    let links = around(field, &member, way);
    let noticed = time >= Duration::from_millis(NOTICED_MS);
    if let Some(leader) = leader.as_ref().filter(|_| noticed) {
        follow(field, monotonic_ns(), fault, leader);
    }
    let targets = [member.name.as_str()];
    install(field, fault, &targets, &links, Trouble::Cut).await;
    field.hold(time).await;
    heal_and_tell(field, fault, &targets, &links, leader.as_ref()).await;
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
    let Some(_taken) = take(field, FAULT, &first) else {
        return;
    };
    let (a, b) = (first.name.as_str(), second.name.as_str());
    let links = vec![link(a, b), link(b, a)];
    ruled(field, FAULT, &[a, b], (links, Trouble::Cut), time).await;
}

pub(super) async fn flap(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "flap";
    let Some((member, _, _taken)) = take_node(field, dice, FAULT, MOSTLY_LEADERS).await else {
        return;
    };
    let links = around(field, &member, Way::Both);
    install(field, FAULT, &[&member.name], &links, Trouble::Cut).await;
    let until = tokio::time::Instant::now() + FLAP_FOR;
    while tokio::time::Instant::now() < until && field.faults_go_on() {
        field
            .hold(Duration::from_millis(dice.between(50, 500)))
            .await;
        // Whatever fails here is found by the heal, which looks.
        let _ = field.network.lift(&links).await;
        field
            .hold(Duration::from_millis(dice.between(50, 500)))
            .await;
        let _ = field.network.set(&links, Trouble::Cut).await;
    }
    heal(field, FAULT, &[&member.name], &links, "").await;
}

pub(super) async fn cut_clients(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "cut-clients";
    let Some(member) = find_node(field, dice, FAULT, MOSTLY_LEADERS).await else {
        return;
    };
    let name = member.name.as_str();
    let links = vec![link(CLIENTS, name), link(name, CLIENTS)];
    ruled(
        field,
        FAULT,
        &[CLIENTS, name],
        (links, Trouble::Cut),
        cut_time(dice),
    )
    .await;
}

pub(super) async fn cut_workers(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "cut-workers";
    let Some(leader) = find_leader(field, dice, FAULT).await else {
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
        (links, Trouble::Cut),
        cut_time(dice),
    )
    .await;
}

pub(super) async fn slow(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "slow-net";
    let Some((member, _, _taken)) = take_node(field, dice, FAULT, MOSTLY_LEADERS).await else {
        return;
    };
    let trouble = Trouble::Slow {
        delay_ms: dice.between(SLOW.0, SLOW.1),
        bytes_per_s: *dice.pick(&SLOW_BYTES_PER_S),
    };
    let links = around(field, &member, Way::Both);
    ruled(
        field,
        FAULT,
        &[&member.name],
        (links, trouble),
        cut_time(dice),
    )
    .await;
}

pub(super) async fn reset(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "reset";
    let Some(member) = find_node(field, dice, FAULT, MOSTLY_LEADERS).await else {
        return;
    };
    let count = field.network.reset(&member.name).await;
    let status = if count > 0 { Installed } else { Indeterminate };
    let note = format!("{count} connections broken");
    field.record(FAULT, &[&member.name], status, &note);
    // It is over as it happens: new connections are welcome.
    field.record(FAULT, &[&member.name], Healed, "");
}

pub(super) async fn truncate(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "truncate";
    let Some((member, _, _taken)) = take_node(field, dice, FAULT, MOSTLY_LEADERS).await else {
        return;
    };
    let mut links = around(field, &member, Way::Both);
    links.push(link(CLIENTS, &member.name));
    let bytes = dice.between(1, 20_000);
    let time = Duration::from_millis(dice.between(500, 3000));
    let trouble = Trouble::BreakAfter { bytes };
    ruled(field, FAULT, &[&member.name], (links, trouble), time).await;
}
