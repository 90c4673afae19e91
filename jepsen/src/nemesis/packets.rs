//! Faults that packets alone can have: lost, doubled, refused in a connection's name, and a host that is gone without a word.
//!
//! Invariant: as for `network`; a half-open connection was seen on both sides, and a host that vanished was silent before its process
//! ended. Not here: how packets are ruled (`network`).

use std::sync::Arc;
use std::time::Duration;

use super::aim::{MOSTLY_LEADERS, take_leader, take_node};
use super::network::{
    Way, all_around, around, cut_time, heal, heal_and_tell, in_force, install, lift,
};
use super::process::{follow, is_gone, start_again};
use crate::clock::monotonic_ns;
use crate::dice::Dice;
use crate::network::Trouble;
use crate::records::FaultStatus::{Indeterminate, Installed};
use crate::run::Field;

/// From a bad line to one on which hardly anything works, of a hundred packets.
const LOST_PERCENT: [u64; 4] = [1, 5, 15, 30];
/// A host that vanished is away for so long.
const AWAY_MS: (u64, u64) = (1000, 8000);

pub(super) async fn loss(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "loss";
    let percent = *dice.pick(&LOST_PERCENT);
    let time = cut_time(dice);
    let Some((member, _, _taken)) = take_node(field, dice, FAULT, MOSTLY_LEADERS).await else {
        return;
    };
    let links = all_around(field, &member);
    let t = monotonic_ns();
    let targets = [member.name.as_str()];
    let trouble = Trouble::Lose { percent };
    if let Err(cause) = field.network.set(&links, trouble).await {
        field.record_at(t, FAULT, &targets, Indeterminate, &cause.to_string());
        return;
    }
    let (status, note) = match in_force(field, &links, trouble).await {
        Ok(()) => (Installed, format!("{percent} of 100 packets")),
        Err(why) => (Indeterminate, why),
    };
    field.record_at(t, FAULT, &targets, status, &note);
    field.hold(time).await;
    let lost = field.network.met(&links).await;
    heal(
        field,
        FAULT,
        &targets,
        &links,
        &format!("{lost} packets lost"),
    )
    .await;
}

pub(super) async fn duplicate(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "duplicate";
    let time = cut_time(dice);
    let Some((member, _, _taken)) = take_node(field, dice, FAULT, MOSTLY_LEADERS).await else {
        return;
    };
    let links = around(field, &member, Way::Both);
    let targets = [member.name.as_str()];
    install(field, FAULT, &targets, &links, Trouble::Twice).await;
    field.hold(time).await;
    let twice = field.network.met(&links).await;
    let note = format!("{twice} packets sent twice");
    heal(field, FAULT, &targets, &links, &note).await;
}

/// To others a leader looks as if its process had died: what they send is answered with a reset, and so are their calls. It hears
/// nothing of that, and holds its connections for whole.
pub(super) async fn half_open(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "half-open";
    let time = cut_time(dice);
    let Some((leader, _taken)) = take_leader(field, dice, FAULT).await else {
        return;
    };
    let name = leader.member.name.as_str();
    let mut links = around(field, &leader.member, Way::In);
    if dice.chance(50) {
        let one = dice.pick(&links).clone();
        links = vec![one];
    }
    let t = monotonic_ns();
    if let Err(cause) = field.network.set(&links, Trouble::Refuse).await {
        field.record_at(t, FAULT, &[name], Indeterminate, &cause.to_string());
        return;
    }
    let seen = in_force(field, &links, Trouble::Refuse).await;
    let mut sockets = 0;
    for (other, _) in &links {
        sockets += field.network.half_open(name, other).await;
    }
    let others: Vec<&str> = links.iter().map(|it| it.0.as_str()).collect();
    let (status, note) = match seen {
        Ok(()) if sockets > 0 => {
            let with = others.join(" and ");
            (
                Installed,
                format!("{sockets} half-open connections with {with}"),
            )
        }
        Ok(()) => (Indeterminate, "no connection is half open".to_string()),
        Err(why) => (Indeterminate, why),
    };
    field.record_at(t, FAULT, &[name], status, &note);
    field.hold(time).await;
    heal_and_tell(field, FAULT, &[name], &links, Some(&leader)).await;
}

/// First nothing leaves it or reaches it any more, then its process dies: nobody gets an end or a reset, as when a machine loses power.
pub(super) async fn vanish(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "vanish";
    let away = Duration::from_millis(dice.between(AWAY_MS.0, AWAY_MS.1));
    let Some((member, leader, _taken)) = take_node(field, dice, FAULT, MOSTLY_LEADERS).await else {
        return;
    };
    let targets = [member.name.as_str()];
    let links = all_around(field, &member);
    let t = monotonic_ns();
    if let Err(cause) = field.network.set(&links, Trouble::Cut).await {
        field.record_at(t, FAULT, &targets, Indeterminate, &cause.to_string());
        return;
    }
    let pid = member.process.pid();
    let killed = member.process.kill9();
    if let Some(leader) = &leader {
        follow(field, t, FAULT, leader);
    }
    let (status, note) = match (killed, in_force(field, &links, Trouble::Cut).await) {
        (Ok(()), Ok(())) if is_gone(pid) => (Installed, "silent, then kill -9".to_string()),
        (Ok(()), Ok(())) => (Indeterminate, "its pid is there".to_string()),
        (Err(cause), _) => (Indeterminate, cause.to_string()),
        (_, Err(why)) => (Indeterminate, why),
    };
    field.record_at(t, FAULT, &targets, status, &note);
    field.hold(away).await;
    match lift(field, &links).await {
        Ok(()) => start_again(field, FAULT, &member).await,
        Err(why) => {
            field.record(FAULT, &targets, Indeterminate, &why);
        }
    }
}
