//! What nodes said of their groups once a second: W1 no run without a wake source; and the parts of S19, L2 and L3 that only a
//! node itself can tell.
//!
//! Invariant: a node that said nothing is not judged. Not here: asking them (`run`).

use std::collections::BTreeMap;

use crate::checker::case::{Case, Judge, MS};
use crate::records::Verdict;

/// Committed entries may stand unapplied for so long.
const STUCK_NS: u64 = 5_000 * MS;
/// A node's last word counts if it is not older than this.
const LAST_NS: u64 = 5_000 * MS;

/// One line of `groups.csv`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Group {
    /// When.
    pub t: u64,
    /// Which node, by its number.
    pub node: u64,
    /// Which group.
    pub group: u64,
    /// Who leads it, as that node has heard; 0: nobody.
    pub leader: u64,
    /// In which term.
    pub term: u64,
    /// Up to where it knows the log as committed; 0: it does not know.
    pub committed: u64,
    /// Up to where it has applied it.
    pub applied: u64,
    /// Runs that nothing will wake.
    pub without_wake_source: u64,
}

impl Group {
    /// Reads a line: `t,node,group,leader,term,committed,applied,open_runs,without_wake_source`.
    pub fn read(line: &str) -> Option<Self> {
        let cells: Vec<&str> = line.split(',').collect();
        let [t, node, numbers @ ..] = cells.as_slice() else {
            return None;
        };
        let numbers: Vec<u64> = numbers.iter().map_while(|it| it.parse().ok()).collect();
        let [
            group,
            leader,
            term,
            committed,
            applied,
            _,
            without_wake_source,
        ] = numbers[..]
        else {
            return None;
        };
        Some(Self {
            t: t.parse().ok()?,
            node: node.strip_prefix('n')?.parse().ok()?,
            group,
            leader,
            term,
            committed,
            applied,
            without_wake_source,
        })
    }
}

/// W1: no node ever counts a run that nothing will wake.
pub fn w1(case: &Case<'_>) -> Verdict {
    let mut judge = Judge::new();
    for it in &case.store.groups {
        judge.saw();
        if it.without_wake_source > 0 {
            judge.broken(|| {
                let (count, at) = (it.without_wake_source, case.clock(it.t));
                let (node, group) = (it.node, it.group);
                format!("W1: at {at} n{node} counted {count} runs of group {group} that nothing will wake")
            });
        }
    }
    judge.verdict()
}

/// Each node's words on each group, by time.
fn by_node<'c>(case: &'c Case<'_>) -> BTreeMap<(u64, u64), Vec<&'c Group>> {
    let mut by_node: BTreeMap<(u64, u64), Vec<&Group>> = BTreeMap::new();
    for it in &case.store.groups {
        by_node.entry((it.node, it.group)).or_default().push(it);
    }
    by_node
}

/// Part of S19: a node's term never falls, nor does what it has committed and applied while nothing hits it.
pub fn nothing_falls(case: &Case<'_>, judge: &mut Judge) {
    for ((node, group), words) in by_node(case) {
        for pair in words.windows(2) {
            let (before, after) = (pair[0], pair[1]);
            judge.saw();
            let name = format!("n{node}");
            let mut windows = case.windows.iter();
            let hit = windows.any(|it| it.hits(&name) && it.overlaps(before.t, after.t));
            let mut told = |what: &str, from: u64, to: u64| {
                let at = case.clock(after.t);
                judge.broken(|| format!("S19: {what} of group {group} at {name} fell from {from} to {to} before {at}"));
            };
            if after.term < before.term {
                told("the term", before.term, after.term);
            }
            // A node that has just begun to lead does not know yet, and says 0.
            if !hit && after.committed > 0 && after.committed < before.committed {
                told("the committed index", before.committed, after.committed);
            }
            if !hit && after.applied < before.applied {
                told("the applied index", before.applied, after.applied);
            }
        }
    }
}

/// Part of L3: with no fault near, what is committed does not stand unapplied.
pub fn nothing_stands(case: &Case<'_>, judge: &mut Judge) {
    for ((node, group), words) in by_node(case) {
        let mut since: Option<&Group> = None;
        for it in words {
            judge.saw();
            let stands = it.applied < it.committed;
            since = match since {
                Some(first) if stands && first.applied == it.applied => Some(first),
                _ => stands.then_some(it),
            };
            let Some(first) = since else { continue };
            if it.t > first.t + STUCK_NS && !case.is_disturbed(first.t, it.t) {
                let ms = (it.t - first.t) / MS;
                judge.broken(|| {
                    format!(
                        "L3: n{node} has applied group {group} up to {} for {ms} ms, with {} committed, at {}",
                        it.applied,
                        it.committed,
                        case.clock(it.t)
                    )
                });
                since = Some(it);
            }
        }
    }
}

/// Part of L2: in the end all nodes name one leader per group.
pub fn one_leader(case: &Case<'_>, judge: &mut Judge) {
    let end = case.store.setup.phases[3];
    let mut leaders: BTreeMap<u64, BTreeMap<u64, u64>> = BTreeMap::new();
    for ((node, group), words) in by_node(case) {
        if let Some(last) = words.last().filter(|it| it.t + LAST_NS > end) {
            judge.saw();
            leaders.entry(group).or_default().insert(node, last.leader);
        }
    }
    for (group, named) in leaders {
        let mut leaders = named.values();
        let first = leaders.next().copied().unwrap_or(0);
        if first == 0 || leaders.any(|leader| *leader != first) {
            judge.broken(|| {
                format!(
                    "L2: after the heal the nodes name these leaders of group {group}: {named:?}"
                )
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Group;

    #[test]
    fn a_line_is_read_whole_or_not_at_all() {
        let read = Group::read("5,n2,1,3,7,40,39,12,0").unwrap();
        assert_eq!((read.t, read.node, read.group, read.leader), (5, 2, 1, 3));
        assert_eq!((read.term, read.committed, read.applied), (7, 40, 39));
        assert_eq!(Group::read("5,n2,1,3,7,40"), None);
        assert_eq!(Group::read("5,n2,1,3,7,40,x,12,0"), None);
    }
}
