//! L2 all final after the heal; L3 nobody is stuck applying; L4 a minority's fault hurts nobody; L5 every node serves again;
//! L6 nothing outlives its deadline.
//!
//! Decided from the journals, the taps and the history. Not here: failover times (`failover`).

use std::collections::BTreeMap;

use crate::checker::case::{Case, Judge, MS, Window};
use crate::checker::log::is_final;
use crate::checker::{status, story};
use crate::records::{Op, Outcome, Verdict};

/// A replica may be so far behind the first that applied an entry.
const BEHIND_NS: u64 = 5_000 * MS;
/// So long after a fault its effects belong to it.
const AFTER_NS: u64 = 10_000 * MS;
/// The last operations on each node, which must be answered.
const LAST_OPS: usize = 5;
/// A client's own work after its deadline.
const GRACE_MS: u64 = 2_000;
/// Fewer samples have no 99th percentile.
pub const P99_SAMPLES: usize = 1_000;

/// L2: every run is final on every node, but for those that a step of theirs holds for a person.
pub fn l2(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    for (node, run) in case.finals() {
        judge.saw();
        let details = run.journal.iter().flat_map(|row| &row.details);
        let held = run.status == "PAUSED"
            && details
                .filter_map(|it| it.certainty.as_deref())
                .any(|it| it != "at-least-once");
        if !is_final(&run.status) && !held {
            let headline = format!("L2: {} is {} on {node} after the heal", run.run, run.status);
            judge.broken(|| story::of_run(case, &headline, &run.run));
        }
    }
    let runs: BTreeMap<&str, usize> = case
        .store
        .journals
        .iter()
        .map(|(node, runs)| (node.as_str(), runs.len()))
        .collect();
    if let (Some(most), Some(least)) = (runs.values().max(), runs.values().min())
        && most != least
    {
        judge.broken(|| format!("L2: the nodes do not have the same runs: {runs:?}"));
    }
    status::one_leader(case, &mut judge);
    judge.verdict()
}

/// L3: with no fault near, a node applies an entry at most 5 s after the first that did.
pub fn l3(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    for (node, lines) in &case.store.taps {
        let mut newest: BTreeMap<u32, u64> = BTreeMap::new();
        let joined = lines.first().map_or(0, |line| line.t);
        for line in lines {
            let seen = case.log.groups[&line.group][&line.index];
            if newest.get(&line.group).is_some_and(|it| *it >= line.index) {
                continue; // a replay
            }
            newest.insert(line.group, line.index);
            if seen.first < joined {
                continue; // a new member begins with what there is
            }
            judge.saw();
            if line.t > seen.first + BEHIND_NS && !case.is_disturbed(seen.first, line.t) {
                let (index, ms) = (line.index, (line.t - seen.first) / MS);
                judge.broken(|| {
                    format!(
                        "L3: {node} applied index {index} {ms} ms after the first node did, at {}",
                        case.clock(line.t)
                    )
                });
            }
        }
        // A former member stops, and has nothing to show in the end.
        if case.store.journals.contains_key(node) {
            stopped_short(case, node, &newest, &mut judge);
        }
    }
    status::nothing_stands(case, &mut judge);
    judge.verdict()
}

/// A node that stopped applying while others went on for long, and was not disturbed.
fn stopped_short(case: &Case<'_>, node: &str, newest: &BTreeMap<u32, u64>, judge: &mut Judge) {
    for (group, entries) in &case.log.groups {
        let Some((_, last)) = entries.last_key_value() else {
            continue;
        };
        let has = newest.get(group).copied().unwrap_or(0);
        let Some((index, missed)) = entries.range(has + 1..).next() else {
            continue;
        };
        if last.first > missed.first + BEHIND_NS && !case.is_disturbed(missed.first, last.first) {
            let t = case.clock(missed.first);
            judge.broken(|| format!("L3: {node} never applied index {index} of group {group}, which others did at {t}"));
        }
    }
}

/// Whether the asker got what the contract promises: an answer, or a refusal for a reason of its own.
pub fn is_served(op: &Op) -> bool {
    let refused = |error: &str| {
        ["HF2001", "HF2002", "HF3001", "HF3002", "HF3003"]
            .iter()
            .any(|code| error.contains(code))
    };
    match op.outcome {
        Outcome::Ok => true,
        Outcome::Fail => op.error.as_deref().is_some_and(refused),
        Outcome::Info => false,
    }
}

/// Whether it took one node from the cluster, or from the network, that led nothing.
fn is_of_a_follower(case: &Case<'_>, window: &Window<'_>) -> bool {
    let kinds = ["kill", "stop", "pause", "partition"];
    let ([target], true) = (
        window.targets,
        kinds.iter().any(|kind| window.fault.starts_with(kind)),
    ) else {
        return false;
    };
    let Some(node) = target
        .strip_prefix('n')
        .and_then(|it| it.parse::<u64>().ok())
    else {
        return false;
    };
    let mut groups = case.log.groups.keys();
    groups.all(|group| {
        let leader = case.log.leader_at(*group, window.from);
        // One that was just elected leads before the log says so.
        let next = case.log.leader_after(*group, window.from);
        let changed = next.is_some_and(|next| next.t <= window.to.saturating_add(AFTER_NS));
        !changed && leader.is_some_and(|leader| leader.node != node)
    })
}

/// L4: while only a follower is hit, everything asked of others is served; from 1,000 samples on, at most twice as slowly.
pub fn l4(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    let alone = |window: &Window<'_>, op: &Op| {
        let mut others = case.windows.iter().filter(|it| !std::ptr::eq(*it, window));
        !others.any(|it| it.overlaps(op.t_inv.saturating_sub(AFTER_NS), op.t_ret))
    };
    let mut during: Vec<u64> = Vec::new();
    for window in case.windows.iter().filter(|it| is_of_a_follower(case, it)) {
        let history = &case.store.history;
        let first = history.partition_point(|op| op.t_inv < window.from);
        for op in history[first..]
            .iter()
            .take_while(|op| op.t_inv <= window.to)
        {
            let inside = op.t_ret <= window.to;
            let elsewhere = !op.node.is_empty() && !window.hits(&op.node);
            if !inside || !elsewhere || !alone(window, op) {
                continue;
            }
            judge.saw();
            during.push(op.t_ret.saturating_sub(op.t_inv));
            if !is_served(op) {
                let headline = format!(
                    "L4: only {} was hit by {}",
                    window.targets.join(", "),
                    window.fault
                );
                judge.broken(|| story::of_ops(case, &headline, &[op]));
            }
        }
    }
    let mut healthy: Vec<u64> = case
        .store
        .history
        .iter()
        .filter(|op| !case.is_disturbed(op.t_inv, op.t_ret) && is_served(op))
        .map(|op| op.t_ret.saturating_sub(op.t_inv))
        .collect();
    if let (Some(hit), Some(base)) = (p99(&mut during), p99(&mut healthy))
        && hit > 2 * base
    {
        let (hit, base) = (hit / MS, base / MS);
        judge.broken(|| {
            format!(
                "L4: p99 was {hit} ms while only a follower was hit, {base} ms without any fault"
            )
        });
    }
    judge.verdict()
}

fn p99(samples: &mut [u64]) -> Option<u64> {
    if samples.len() < P99_SAMPLES {
        return None;
    }
    samples.sort_unstable();
    Some(samples[samples.len() * 99 / 100])
}

/// L5: the last five operations on each node after the heal were served.
pub fn l5(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    let mut by_node: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for op in &case.store.history {
        if !op.node.is_empty() && op.t_inv >= case.healed() {
            by_node.entry(&op.node).or_default().push(op);
        }
    }
    for (node, ops) in by_node {
        let last = &ops[ops.len().saturating_sub(LAST_OPS)..];
        judge.saw_many(last.len());
        if last.iter().any(|op| !is_served(op)) {
            judge.broken(|| story::of_ops(case, &format!("L5: {node} does not serve again"), last));
        }
    }
    judge.verdict()
}

/// L6: no operation outlives its deadline.
pub fn l6(case: &Case<'_>) -> Verdict {
    let deadline = case.store.setup.deadline_ms;
    if deadline == 0 {
        return Verdict::NotExercised;
    }
    let mut judge = Judge::new();
    for op in &case.store.history {
        judge.saw();
        let ms = op.t_ret.saturating_sub(op.t_inv) / MS;
        if ms > deadline + GRACE_MS {
            let headline = format!("L6: an operation took {ms} ms, its deadline was {deadline} ms");
            judge.broken(|| story::of_ops(case, &headline, &[op]));
        }
    }
    judge.verdict()
}
