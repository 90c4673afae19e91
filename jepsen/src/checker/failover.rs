//! L1 failover: from a fault that hit a leader to the first step completed under the next one.
//!
//! Decided from the faults and the taps. A leader that works on through a fault is lost when it has done its last step: a node that
//! stopped hearing it alone, say, makes another election necessary only once it is heard again. A fault that was followed by no new leader is no failover: it hit a follower, or was over
//! before anybody noticed. Not here: what clients felt (`report`).

use serde::{Deserialize, Serialize};

use crate::checker::case::{Case, Judge, MS, Window};
use crate::checker::liveness::P99_SAMPLES;
use crate::checker::log::Leader;
use crate::records::Verdict;

/// No failover of a single leader may take longer, in milliseconds.
const LONGEST_MS: u64 = 5_000;
/// Of a cut or a pause that is over for so long, no later leader is a consequence. A process that ended leads no more.
const NOTICED_NS: u64 = 2_000 * MS;
/// Faults that end a process, beside the kinds of `kill`.
const ENDINGS: [&str; 8] = [
    "majority",
    "stop",
    "storm",
    "failpoint",
    "fsync-error",
    "wipe",
    "vanish",
    "herd",
];

/// One leader lost, and what came next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// The fault.
    pub fault: String,
    /// Whom it hit.
    pub target: String,
    /// When, in nanoseconds.
    pub t: u64,
    /// Of which group it led.
    pub group: u32,
    /// Who leads then.
    pub next: String,
    /// From the fault, or the last step that the leader could do in it, to the new leader's first entry, in microseconds.
    pub leader_us: u64,
    /// From then to the first step done under it, in microseconds; none: no step was done.
    pub first_step_us: Option<u64>,
}

/// How long failovers took, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Distribution {
    /// How many.
    pub n: usize,
    /// Half took no longer.
    pub p50: u64,
    /// 99 of 100 took no longer; only from 1,000 samples on.
    pub p99: Option<u64>,
    /// The longest.
    pub max: u64,
}

impl Distribution {
    /// Of these samples.
    pub fn of(mut samples: Vec<u64>) -> Option<Self> {
        samples.sort_unstable();
        let max = *samples.last()?;
        let n = samples.len();
        Some(Self {
            n,
            p50: samples[(n - 1) / 2],
            p99: (n >= P99_SAMPLES).then(|| samples[(n * 99).div_ceil(100) - 1]),
            max,
        })
    }
}

/// Every failover of the test run, by time.
pub fn failovers(case: &Case<'_>) -> Vec<Failover> {
    let mut found = Vec::new();
    for window in &case.windows {
        let worker_only = window.targets.iter().all(|target| target.starts_with('w'));
        if worker_only {
            continue;
        }
        for group in case.log.groups.keys() {
            found.extend(failover(case, window, *group));
        }
    }
    found.sort_by_key(|it| (it.t, it.group));
    found.dedup_by_key(|it| (it.t, it.group));
    found
}

fn failover(case: &Case<'_>, window: &Window<'_>, group: u32) -> Option<Failover> {
    let leader = case.log.leader_at(group, window.from)?;
    let target = format!("n{}", leader.node);
    if !window.hits(&target) {
        return None;
    }
    let next = case.log.leader_after(group, window.from)?;
    let ended = window.fault.starts_with("kill") || ENDINGS.contains(&window.fault);
    if !ended && next.t > window.to.saturating_add(NOTICED_NS) {
        return None;
    }
    let lost = if ended {
        window.from
    } else {
        worked_until(case, &leader, group, next.t).max(window.from)
    };
    let entries = case.log.groups[&group].range(next.index..);
    let first_step = entries.map(|(_, seen)| seen).find(|seen| {
        let mut results = seen.line.commands.iter().flat_map(|it| &it.results);
        // What the old leader had granted may be done at any time, and says nothing of the new one.
        results.any(|it| it.outcome == "done" && (it.fence >> 16) & ((1 << 40) - 1) >= next.index)
    });
    Some(Failover {
        fault: window.fault.to_owned(),
        target,
        t: window.from,
        group,
        next: format!("n{}", next.node),
        leader_us: next.t.saturating_sub(lost) / 1000,
        first_step_us: first_step.map(|seen| seen.first.saturating_sub(lost) / 1000),
    })
}

/// When a leader itself last applied a step as done under its own epoch, before another led; 0: it never did.
fn worked_until(case: &Case<'_>, leader: &Leader, group: u32, next: u64) -> u64 {
    let own = case.store.taps.get(&format!("n{}", leader.node));
    let own = own.into_iter().flatten();
    let own = own.filter(|it| it.group == group && it.epoch == leader.index && it.t < next);
    let done = own.filter(|it| {
        let mut results = it.commands.iter().flat_map(|it| &it.results);
        results.any(|it| it.outcome == "done")
    });
    done.map(|it| it.t).max().unwrap_or_default()
}

/// L1: no single leader's loss keeps steps waiting for longer than the bound, as long as there is a quorum.
pub fn l1(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    for it in failovers(case) {
        let quorum_lost = |window: &&Window<'_>| {
            let nodes = window.targets.iter();
            let nodes = nodes
                .filter(|it| it.starts_with('n') && !it.contains('>'))
                .count();
            2 * nodes >= usize::from(case.store.setup.nodes).max(1)
                && window.overlaps(it.t, it.t + LONGEST_MS * MS)
        };
        let others = case
            .windows
            .iter()
            .filter(|window| window.from != it.t && window.overlaps(it.t, it.t + LONGEST_MS * MS));
        // Another fault within its time makes it another case than the one that the bound is for.
        if case.windows.iter().any(|window| quorum_lost(&window)) || others.count() > 0 {
            continue;
        }
        judge.saw();
        if it.first_step_us.is_some_and(|us| us > LONGEST_MS * 1000) {
            judge.broken(|| {
                format!(
                    "L1: {} hit {}, leader of group {}, at {}: {} led after {} ms, the first step was done after {} ms",
                    it.fault,
                    it.target,
                    it.group,
                    case.clock(it.t),
                    it.next,
                    it.leader_us / 1000,
                    it.first_step_us.unwrap_or(0) / 1000
                )
            });
        }
    }
    judge.verdict()
}
