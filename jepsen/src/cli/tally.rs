//! What the runs of a profile came to together: which faults and pairs of faults were in force, and how long failovers took.
//!
//! Invariant: a pair counts only if both were seen in force in one run that was judged valid. Not here: one run (`run`).

use std::collections::{BTreeMap, BTreeSet};

use holdfast_jepsen::nemesis::KINDS;
use holdfast_jepsen::run::Finished;

use super::VALID;

/// Pairs that did not meet are listed if they are no more than these.
const LISTED_MAX: usize = 40;

/// Over all runs so far.
#[derive(Default)]
pub struct Tally {
    rows: Vec<(String, String)>,
    met: BTreeSet<(String, String)>,
    installed: BTreeMap<String, u64>,
    suspected: BTreeMap<String, u64>,
    failovers: BTreeMap<String, Vec<Option<f64>>>,
}

impl Tally {
    /// The line of a profile ended with this code.
    pub fn line(&mut self, code: u8, text: &str) {
        self.rows.push((code.to_string(), text.to_string()));
    }

    /// The line cannot be run here.
    pub fn off(&mut self, text: &str) {
        self.rows.push(("-".to_owned(), text.to_string()));
    }

    /// One run of it.
    pub fn run(&mut self, code: u8, finished: &Finished) {
        let seen = finished.coverage.faults.iter();
        let seen = seen.filter(|(_, counts)| counts[0] > 0);
        let seen: Vec<(&String, u64)> = seen.map(|(name, counts)| (name, counts[0])).collect();
        for (at, (one, count)) in seen.iter().enumerate() {
            *self.installed.entry((*one).clone()).or_default() += count;
            if code == VALID {
                let others = seen[at..].iter().map(|it| it.0.clone());
                self.met.extend(others.map(|other| ((*one).clone(), other)));
            }
        }
        for (fault, count) in &finished.coverage.suspected {
            *self.suspected.entry(fault.clone()).or_default() += count;
        }
        for (fault, ms) in &finished.failovers {
            self.failovers.entry(fault.clone()).or_default().push(*ms);
        }
    }

    /// As it is printed at the end.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        if !self.rows.is_empty() {
            lines.push("CODES (0 valid, 1 violated, 2 unknown, - off here)".to_owned());
        }
        let rows = self.rows.iter();
        lines.extend(rows.map(|(code, line)| format!("{code}  jepsen run {line}")));
        lines.push("IN FORCE".to_owned());
        let installed = self.installed.iter();
        lines.extend(installed.map(|(fault, count)| format!("  {fault:<13} {count}")));
        let wanted = pairs();
        let missing: Vec<String> = wanted
            .iter()
            .filter(|(one, other)| !self.have_met(one, other))
            .map(|(one, other)| format!("{one}+{other}"))
            .collect();
        let met = wanted.len() - missing.len();
        lines.push(format!("PAIRS in one valid run: {met} of {}", wanted.len()));
        if !missing.is_empty() && missing.len() <= LISTED_MAX {
            lines.push(format!("  without: {}", missing.join(" ")));
        }
        if !self.suspected.is_empty() {
            lines.push("LEADERS SUSPECTED WRONGLY".to_owned());
            let suspected = self.suspected.iter();
            lines.extend(suspected.map(|(fault, count)| format!("  {fault:<13} {count}")));
        }
        lines.push("TO THE FIRST COMPLETED STEP".to_owned());
        let failovers = self.failovers.iter();
        lines.extend(failovers.map(|(fault, all)| format!("  {fault:<13} {}", times(all))));
        lines.join("\n")
    }

    fn have_met(&self, one: &str, other: &str) -> bool {
        let has = |one: &str, other: &str| self.met.contains(&(one.to_string(), other.to_string()));
        has(one, other) || has(other, one)
    }
}

/// Each two kinds of faults that one run can have.
fn pairs() -> Vec<(&'static str, &'static str)> {
    let mut pairs = Vec::new();
    for (at, one) in KINDS.iter().enumerate() {
        let others = KINDS[at + 1..].iter();
        let others = others.filter(|other| one.0.goes_with(other.0));
        pairs.extend(others.map(|other| (one.1, other.1)));
    }
    pairs
}

fn times(all: &[Option<f64>]) -> String {
    let mut known: Vec<f64> = all.iter().flatten().copied().collect();
    known.sort_by(f64::total_cmp);
    let late = all.len() - known.len();
    let at = |percent: usize| {
        let at = (known.len() * percent).div_ceil(100).max(1) - 1;
        known.get(at).map_or(0.0, |ms| ms / 1000.0)
    };
    let (p50, p99, max) = (at(50), at(99), at(100));
    format!(
        "{}: p50 {p50:.3} s, p99 {p99:.3} s, max {max:.3} s; {late} without one in time",
        all.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_by_nearest_rank_and_with_those_that_never_came() {
        let mut all: Vec<Option<f64>> = (1..=100).map(|n| Some(f64::from(n) * 10.0)).collect();
        all.push(None);
        let want = "101: p50 0.500 s, p99 0.990 s, max 1.000 s; 1 without one in time";
        assert_eq!(times(&all), want);
    }

    #[test]
    fn a_pair_is_met_in_either_order_and_not_before() {
        let mut tally = Tally::default();
        tally.met.insert(("kill".to_string(), "pause".to_string()));
        assert!(tally.have_met("pause", "kill"));
        assert!(!tally.have_met("pause", "wipe"));
        let all = pairs().len();
        assert!(tally.text().contains(&format!("1 of {all}")));
    }
}
