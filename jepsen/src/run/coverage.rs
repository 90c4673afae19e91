//! Whether a run can be judged at all: did the faults happen that it was to stand, and did anybody work meanwhile.
//!
//! Invariant: what was not seen does not count. Too little of anything makes a run unknown, never valid. Not here: invariants of
//! the cluster (checkers).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;

use crate::records::{Fault, FaultStatus, HISTORY, NEMESIS, Op, Outcome};

/// Each node must have answered so often in the last phase.
pub(super) const OK_PER_NODE_MIN: u64 = 20;
/// In the note of a fault that is over: the leader that it hit had lived.
pub(crate) const SUSPECTED: &str = "suspected wrongly";
/// Of all operations, in percent.
const OK_PERCENT_MIN: u64 = 50;

/// `kill-leader>=5`: a fault that must have been installed so often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Require {
    /// Which.
    pub fault: String,
    /// How often.
    pub count: u32,
}

impl FromStr for Require {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text} is not of the form kill-leader>=5");
        let (fault, count) = text.split_once(">=").ok_or_else(bad)?;
        Ok(Self {
            fault: fault.trim().to_string(),
            count: count.trim().parse().map_err(|_| bad())?,
        })
    }
}

/// What was covered.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    /// Operations: ok, fail, info.
    pub ops: [u64; 3],
    /// Faults: installed, skipped, indeterminate, by name.
    pub faults: BTreeMap<String, [u64; 3]>,
    /// How often a leader lived and was followed by another all the same, by fault.
    pub suspected: BTreeMap<String, u64>,
    /// Answers of each node after the heal.
    pub last: BTreeMap<String, u64>,
    /// Why the run cannot be judged; empty: it can.
    pub missing: Vec<String>,
}

impl Coverage {
    /// Of the run in this folder; `healed_at` is when its last phase began, `nodes` who answers in it.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(
        folder: &Path,
        require: &[Require],
        nodes: &[String],
        healed_at: u64,
    ) -> io::Result<Self> {
        let ops = lines::<Op>(&folder.join(HISTORY))?;
        let faults = lines::<Fault>(&folder.join(NEMESIS))?;
        Ok(Self::of(&ops, &faults, require, nodes, healed_at))
    }

    fn of(
        ops: &[Op],
        faults: &[Fault],
        require: &[Require],
        nodes: &[String],
        healed_at: u64,
    ) -> Self {
        let mut it = Self::default();
        for node in nodes {
            it.last.insert(node.clone(), 0);
        }
        for op in ops {
            let at = match op.outcome {
                Outcome::Ok => 0,
                Outcome::Fail => 1,
                Outcome::Info => 2,
            };
            it.ops[at] += 1;
            if op.outcome == Outcome::Ok
                && op.t_inv >= healed_at
                && let Some(count) = it.last.get_mut(&op.node)
            {
                *count += 1;
            }
        }
        for fault in faults {
            if fault.status == FaultStatus::Healed && fault.note.contains(SUSPECTED) {
                *it.suspected.entry(fault.fault.clone()).or_default() += 1;
            }
            let counts = it.faults.entry(fault.fault.clone()).or_default();
            match fault.status {
                FaultStatus::Installed => counts[0] += 1,
                FaultStatus::Skipped => counts[1] += 1,
                FaultStatus::Indeterminate => counts[2] += 1,
                FaultStatus::Healed => {}
            }
        }
        it.find_missing(require);
        it
    }

    fn find_missing(&mut self, require: &[Require]) {
        for wish in require {
            let seen = self.faults.get(&wish.fault).map_or(0, |it| it[0]);
            if seen < u64::from(wish.count) {
                let Require { fault, count } = wish;
                self.missing
                    .push(format!("{fault} was installed {seen} times, not {count}"));
            }
        }
        let all: u64 = self.ops.iter().sum();
        if self.ops[0] * 100 < all * OK_PERCENT_MIN || all == 0 {
            let ok = self.ops[0];
            self.missing
                .push(format!("only {ok} of {all} operations were answered"));
        }
        for (node, ok) in &self.last {
            if *ok < OK_PER_NODE_MIN {
                self.missing
                    .push(format!("{node} answered only {ok} calls after the heal"));
            }
        }
    }
}

fn lines<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    let text = fs::read_to_string(path)?;
    let read = text
        .lines()
        .map(|line| serde_json::from_str(line).map_err(io::Error::from));
    read.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Call;

    fn op(node: &str, outcome: Outcome, t: u64) -> Op {
        Op {
            id: t,
            client: 0,
            node: node.to_string(),
            call: Call::GetCurrent {
                workflow: "reg-0".to_string(),
            },
            t_inv: t,
            t_ret: t,
            outcome,
            answer: None,
            error: None,
            position: None,
        }
    }

    fn fault(status: FaultStatus) -> Fault {
        Fault {
            t: 0,
            fault: "kill".to_string(),
            targets: vec![],
            status,
            note: String::new(),
        }
    }

    fn both() -> Vec<String> {
        vec!["n1".to_string(), "n2".to_string()]
    }

    fn answered(outcome: Outcome) -> Vec<Op> {
        (0..100)
            .map(|n| op(if n % 2 == 0 { "n1" } else { "n2" }, outcome, n))
            .collect()
    }

    #[test]
    fn a_run_with_answers_from_every_node_can_be_judged() {
        let it = Coverage::of(&answered(Outcome::Ok), &[], &[], &both(), 0);
        assert_eq!(it.missing, Vec::<String>::new());
    }

    #[test]
    fn a_run_in_which_every_node_only_returned_errors_cannot() {
        let it = Coverage::of(&answered(Outcome::Fail), &[], &[], &both(), 0);
        assert_eq!(it.missing.len(), 3);
        assert!(!Coverage::of(&[], &[], &[], &[], 0).missing.is_empty());
    }

    #[test]
    fn a_node_that_is_silent_after_the_heal_is_missed() {
        let it = Coverage::of(&answered(Outcome::Ok), &[], &[], &both(), 95);
        assert_eq!(it.missing.len(), 2);
    }

    #[test]
    fn wrong_suspicions_are_counted_by_fault_once_it_is_over() {
        let told = |status, note: &str| Fault {
            note: note.to_string(),
            ..fault(status)
        };
        let wrong = format!("{SUSPECTED}: n1 lived, n2 leads now");
        let faults = [
            told(FaultStatus::Installed, &wrong),
            told(FaultStatus::Healed, &wrong),
            told(FaultStatus::Healed, "n1 leads on"),
        ];
        let it = Coverage::of(&[], &faults, &[], &[], 0);
        assert_eq!(it.suspected, [("kill".to_string(), 1)].into());
    }

    #[test]
    fn only_faults_that_were_seen_in_force_count() {
        let wish: Require = "kill>=2".parse().unwrap();
        let ops = answered(Outcome::Ok);
        let seen = |statuses: &[FaultStatus]| {
            let faults: Vec<Fault> = statuses.iter().map(|it| fault(*it)).collect();
            Coverage::of(&ops, &faults, std::slice::from_ref(&wish), &both(), 0).missing
        };
        use FaultStatus::{Healed, Indeterminate, Installed, Skipped};
        assert_eq!(seen(&[Installed, Healed, Skipped, Indeterminate]).len(), 1);
        assert!(seen(&[Installed, Healed, Installed]).is_empty());
        assert!("kill=2".parse::<Require>().is_err());
    }
}
