//! S15 replicas agree; S19 one leader an epoch, one entry an index, duties under their epoch; S20 a snapshot and its tail are the
//! whole; S26 the group clock.
//!
//! Decided from the taps, replays included, and from what nodes said of their terms. Not here: raft's votes, which no file shows.

use std::collections::BTreeMap;

use crate::checker::case::{Case, Judge, MS};
use crate::checker::log::become_leader;
use crate::checker::status;
use crate::records::{Applied, AppliedCommand, FinalRun, Verdict};

/// The first line of each index, and the node that wrote it.
type First<'a> = BTreeMap<(u32, u64), (&'a str, &'a Applied)>;

fn firsts<'a>(case: &Case<'a>) -> First<'a> {
    let mut firsts = First::new();
    for (node, lines) in &case.store.taps {
        for line in lines {
            firsts
                .entry((line.group, line.index))
                .or_insert((node, line));
        }
    }
    firsts
}

fn differ(
    case: &Case<'_>,
    id: &str,
    (node, line): (&str, &Applied),
    (other, first): (&str, &Applied),
) -> String {
    format!(
        "{id}: group {} index {}: {other} at {} has digest {}, {node} at {} has {}\n    {other}: {}\n    {node}: {}",
        line.group,
        line.index,
        case.clock(first.t),
        first.digest,
        case.clock(line.t),
        line.digest,
        kinds(first),
        kinds(line)
    )
}

fn kinds(line: &Applied) -> String {
    let commands = line.commands.iter();
    let words = commands.map(|it| {
        format!(
            "{} {} {}",
            it.kind,
            it.run.as_deref().unwrap_or(""),
            it.answer
        )
    });
    let words: Vec<String> = words.take(12).collect();
    format!(
        "epoch {}, clock {}: {}",
        line.in_force,
        line.now,
        words.join("; ")
    )
}

/// S15: equal digests at equal indexes, over all nodes and restarts; and the same journals after the heal.
pub fn s15(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    let firsts = firsts(case);
    for (node, lines) in &case.store.taps {
        let mut told = false;
        for line in lines {
            let (other, first) = firsts[&(line.group, line.index)];
            if std::ptr::eq(line, first) {
                continue;
            }
            judge.saw();
            // Digests are chained: what follows the first difference differs as well.
            if !told && (line.digest != first.digest || line.now != first.now) {
                told = true;
                judge.broken(|| differ(case, "S15", (node, line), (other, first)));
            }
        }
    }
    let mut runs: BTreeMap<(&str, u32), (&str, &FinalRun)> = BTreeMap::new();
    for (node, run) in case.finals() {
        let (other, first) = *runs
            .entry((&run.run, run.generation))
            .or_insert((node, run));
        if std::ptr::eq(run, first) {
            continue;
        }
        judge.saw();
        if run != first {
            let what = different_part(run, first);
            judge.broken(|| {
                format!(
                    "S15: {} differs between {other} and {node}: {what}",
                    run.run
                )
            });
        }
    }
    judge.verdict()
}

fn different_part(one: &FinalRun, other: &FinalRun) -> String {
    if one.status != other.status {
        return format!("status {} and {}", other.status, one.status);
    }
    if one.result != other.result || one.serial != other.serial {
        return "input or result".to_owned();
    }
    let mut rows = one.journal.iter().zip(&other.journal);
    match rows.position(|(a, b)| a != b) {
        Some(row) => format!("row {row} of the journal"),
        None if one.journal.len() != other.journal.len() => {
            format!(
                "{} and {} rows of journal",
                other.journal.len(),
                one.journal.len()
            )
        }
        None => "workflow or version".to_owned(),
    }
}

/// S20: what a node applies after it restarted or took a snapshot leads to the digests that everybody else has.
pub fn s20(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    let firsts = firsts(case);
    for (node, lines) in &case.store.taps {
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        let mut rebuilt: BTreeMap<u32, bool> = BTreeMap::new();
        for line in lines {
            let before = last.insert(line.group, line.index);
            let follows = before.is_none_or(|before| before + 1 == line.index);
            let rebuilt = rebuilt.entry(line.group).or_default();
            *rebuilt |= !follows;
            let (other, first) = firsts[&(line.group, line.index)];
            if !*rebuilt || std::ptr::eq(line, first) {
                continue;
            }
            judge.saw();
            if line.digest != first.digest {
                judge.broken(|| differ(case, "S20", (node, line), (other, first)));
                break;
            }
        }
    }
    judge.verdict()
}

/// What makes an entry this one and no other.
fn identity(command: &AppliedCommand) -> impl PartialEq + '_ {
    (
        &command.kind,
        &command.run,
        &command.request,
        &command.name,
        command.number,
    )
}

/// Kinds of commands that the leader alone proposes.
fn is_duty(kind: &str) -> bool {
    matches!(kind, "grant" | "admit" | "expire" | "fire" | "repair")
}

/// S19.
pub fn s19(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    let firsts = firsts(case);
    for (node, lines) in &case.store.taps {
        for line in lines {
            let (other, first) = firsts[&(line.group, line.index)];
            if std::ptr::eq(line, first) {
                continue;
            }
            judge.saw();
            let same = line.epoch == first.epoch
                && line.commands.len() == first.commands.len()
                && line
                    .commands
                    .iter()
                    .zip(&first.commands)
                    .all(|(a, b)| identity(a) == identity(b));
            if !same {
                judge.broken(|| differ(case, "S19", (node, line), (other, first)));
                break;
            }
        }
    }
    for (group, entries) in &case.log.groups {
        let mut in_force: Option<u64> = None;
        for (index, seen) in entries {
            let line = seen.line;
            if become_leader(line).is_some() {
                judge.saw();
                if line.in_force != *index {
                    let told = line.in_force;
                    judge.broken(|| format!("S19: group {group} index {index} makes a leader, and epoch {told} is in force after it"));
                }
            } else if in_force.is_some_and(|before| before != line.in_force) {
                let told = line.in_force;
                judge.broken(|| format!("S19: group {group} index {index}: epoch {in_force:?} gave way to {told} without a leader's entry"));
            }
            let now = in_force.filter(|_| become_leader(line).is_none());
            for duty in line.commands.iter().filter(|it| is_duty(&it.kind)) {
                let Some(now) = now else { continue };
                judge.saw();
                let void = duty.answer == "void";
                if void == (line.epoch == now) {
                    let (kind, answer, epoch) = (&duty.kind, &duty.answer, line.epoch);
                    judge.broken(|| {
                        format!("S19: group {group} index {index}: a {kind} of epoch {epoch} under epoch {now} was answered {answer}")
                    });
                }
            }
            in_force = Some(line.in_force);
        }
    }
    status::nothing_falls(case, &mut judge);
    judge.verdict()
}

/// How far the group clock may run from real time within an epoch, beyond its slew.
const JITTER_MS: u64 = 2_000;

/// S26: the clock of a group never falls; within an epoch, and while nothing makes the group wait, it runs as real time does: it does
/// not stand still, and a node's own clock does not move it.
pub fn s26(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    for (group, entries) in &case.log.groups {
        let mut last: Option<(u64, u64)> = None;
        // The first calm entry of the epoch, and the newest.
        let mut anchor: Option<(u64, u64, u64)> = None;
        for (index, seen) in entries {
            let line = seen.line;
            judge.saw();
            if let Some((before, now)) = last
                && line.now < now
            {
                let told = line.now;
                judge.broken(|| format!("S26: group {group}: the clock was {now} ms at index {before} and {told} ms at index {index}"));
            }
            last = Some((*index, line.now));
            // Only the leader's own entries carry time.
            let timed =
                line.epoch == line.in_force && line.commands.iter().any(|it| is_duty(&it.kind));
            if !timed || case.is_stalled(seen.first, seen.first) {
                continue;
            }
            let Some((epoch, t, now)) = anchor.filter(|(epoch, ..)| *epoch == line.in_force) else {
                anchor = Some((line.in_force, seen.first, line.now));
                continue;
            };
            let real = seen.first.saturating_sub(t) / MS;
            let shown = line.now.saturating_sub(now);
            if shown.abs_diff(real) > JITTER_MS + real / 100 {
                judge.broken(|| {
                    format!("S26: group {group}, epoch {epoch}: until index {index} the clock moved by {shown} ms and real time by {real} ms")
                });
            }
        }
    }
    judge.verdict()
}
