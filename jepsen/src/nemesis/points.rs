//! Faults from inside a node that was built for it: killed at named points, its clocks moved while it runs.
//!
//! Invariant: a node is told by a file of its own, and the file is empty again when the fault is over. A binary without feature
//! `chaos` has no such points, and the fault is skipped. Not here: the points themselves.

use std::sync::Arc;
use std::time::Duration;

use super::aim::{take, take_node};
use super::process::{MayEnd, start_again};
use crate::clock::monotonic_ns;
use crate::dice::Dice;
use crate::records::FaultStatus::{Healed, Indeterminate, Installed, Skipped};
use crate::run::{Field, Member};

/// A point that is not reached for so long is not on this node's way.
const REACHED_WITHIN: Duration = Duration::from_secs(8);
/// The n-th time that it is reached: early ones meet what just began, late ones the middle of work.
const NTH_MAX: u64 = 12;
/// What may be made to fail; a node must not outlive that.
const FAILING: [&str; 2] = ["log::before-write", "log::after-write"];
const CLOCK_FOR_MS: (u64, u64) = (2000, 8000);

pub(super) async fn kill_at_point(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "failpoint";
    let point = point(&field.points, dice);
    let nth = dice.between(1, NTH_MAX);
    let fails = FAILING.contains(&point.as_str()) && dice.chance(50);
    // Some points are on the way of one of the two only.
    let leaders = match point.split("::").next() {
        Some("lead" | "grant" | "reply") => 100,
        Some("append") => 0,
        _ => 60,
    };
    let Some((member, leader, _taken)) = take_node(field, dice, FAULT, leaders).await else {
        return;
    };
    let _may_end = MayEnd::of(&member);
    let what = if fails { "error" } else { "kill" };
    let told = member.tell_points(&format!("{point}={what}@{nth}"));
    if let Err(cause) = told {
        field.record(FAULT, &[&member.name], Skipped, &cause.to_string());
        return;
    }
    let ended = member.process.wait_exit(REACHED_WITHIN).await;
    let t = monotonic_ns();
    let cleared = member.tell_points("");
    let note = format!("{what} at {point}, time {nth}");
    match ended {
        Ok(_) => field.record(FAULT, &[&member.name], Installed, &note),
        Err(_) => field.record(
            FAULT,
            &[&member.name],
            Skipped,
            &format!("{note}: not reached"),
        ),
    };
    if let Err(cause) = cleared {
        field.say(&format!("{}: {cause}", member.name));
    }
    if member.process.is_running() {
        return;
    }
    if let Some(leader) = leader {
        super::process::follow(field, t, FAULT, &leader);
    }
    start_again(field, FAULT, &member).await;
}

/// Mostly one that every entry comes by; the others are reached now and then only.
fn point(all: &[String], dice: &mut Dice) -> String {
    let is_common = |it: &&String| {
        let of = it.split("::").next();
        matches!(of, Some("log" | "append" | "apply" | "reply" | "grant"))
    };
    let common: Vec<String> = all.iter().filter(is_common).cloned().collect();
    if common.is_empty() || dice.chance(20) {
        return dice.pick(all).clone();
    }
    dice.pick(&common).clone()
}

/// Moves the clocks of a running node.
pub(super) async fn jump(field: &Arc<Field>, dice: &mut Dice) {
    const FAULT: &str = "clock";
    let members = field.members();
    let member: Arc<Member> = Arc::clone(dice.pick(&members));
    let Some(_taken) = take(field, FAULT, &member) else {
        return;
    };
    let moved = *dice.pick(&[
        "wall_offset_ms=3600000",
        "wall_offset_ms=-3600000",
        "wall_offset_ms=86400000",
        "wall_offset_ms=-86400000",
        "wall_offset_ms=200",
        "mono_rate=1.5",
        "mono_rate=0.5",
    ]);
    let time = Duration::from_millis(dice.between(CLOCK_FOR_MS.0, CLOCK_FOR_MS.1));
    match member.tell_clock(moved) {
        Ok(()) => field.record(FAULT, &[&member.name], Installed, moved),
        Err(cause) => field.record(FAULT, &[&member.name], Indeterminate, &cause.to_string()),
    };
    field.hold(time).await;
    match member.tell_clock("") {
        Ok(()) => field.record(FAULT, &[&member.name], Healed, ""),
        Err(cause) => field.record(FAULT, &[&member.name], Indeterminate, &cause.to_string()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_points_are_chosen_too_but_seldom() {
        let all = ["log::after-sync", "install::flushed"].map(ToString::to_string);
        let mut dice = Dice::new(3);
        let rare = (0..1000).filter(|_| point(&all, &mut dice) == all[1]);
        let rare = rare.count();
        assert!((1..400).contains(&rare), "{rare}");
        let only_rare = &all[1..];
        assert_eq!(point(only_rare, &mut dice), all[1]);
    }
}
