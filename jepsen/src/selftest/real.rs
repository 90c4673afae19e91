//! Planted bugs that short runs of real processes catch as well: which run, and which invariant breaks in it.
//!
//! Invariant: the same run without a bug must be valid, else what breaks with one proves nothing.
//! Not here: how a run is made (`run`) and judged (`checker`).

use std::fmt::Write as _;
use std::time::Duration;

use crate::checker::{Overall, Report};
use crate::records::Verdict;

/// One planted bug and the run that catches it.
#[derive(Debug, Clone, Copy)]
pub struct Real {
    /// The bug's name.
    pub name: &'static str,
    /// The arguments of `jepsen run`.
    pub run: &'static str,
    /// One of these invariants must break.
    pub by: &'static [&'static str],
}

/// Two nodes of three go on while the third hears nobody, and clients ask all of them.
const CUT_OFF: &str = "--workload register --nemesis partition --nemesis-interval 4s --duration 20s --rate 80 \
                       --workers 2 --clients 6";

/// All of them. Runs that are the same stand one after the other: they share a control.
pub const REAL: &[Real] = &[
    Real {
        name: "ack-before-commit",
        run: "--workload submit --nemesis kill-leader --nemesis-interval 4s --duration 20s --rate 80 \
              --workers 2 --clients 6",
        by: &["S1"],
    },
    Real {
        name: "signal-dropped-on-change",
        run: "--workload signals --nemesis kill-leader --nemesis-interval 4s --duration 25s --rate 60 \
              --workers 2 --clients 6",
        by: &["S12"],
    },
    Real {
        name: "follower-read-no-barrier",
        run: CUT_OFF,
        by: &["S11"],
    },
    Real {
        name: "not-found-from-follower",
        run: CUT_OFF,
        by: &["S11"],
    },
    Real {
        name: "timer-on-local-clock",
        run: "--workload timers --nemesis clock --nemesis-interval 5s --duration 25s --rate 40 \
              --workers 2 --clients 6",
        by: &["S26", "S13"],
    },
];

/// What came of one run.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The bug that was armed; none: the control.
    pub bug: Option<Real>,
    /// The arguments of `jepsen run`.
    pub run: &'static str,
    /// On the whole.
    pub overall: Overall,
    /// The invariants that broke.
    pub broken: Vec<String>,
    /// In how long.
    pub took: Duration,
}

impl Judged {
    /// What the checkers said of a run.
    pub fn of(bug: Option<Real>, run: &'static str, report: &Report, took: Duration) -> Self {
        let broken = report
            .invariants
            .iter()
            .filter(|it| matches!(it.verdict, Verdict::Violated { .. }));
        Self {
            bug,
            run,
            overall: report.overall,
            broken: broken.map(|it| it.id.clone()).collect(),
            took,
        }
    }

    /// A control must be valid; a run with a bug must break one of the invariants that are there for it.
    pub fn is_as_it_must_be(&self) -> bool {
        match self.bug {
            None => self.overall == Overall::Valid,
            Some(bug) => bug
                .by
                .iter()
                .any(|by| self.broken.iter().any(|it| it == by)),
        }
    }
}

/// The part of the table about these.
pub fn table(judged: &[Judged]) -> String {
    let mut text = String::from("| Bug | `jepsen run` | Broken | In |\n|---|---|---|---|\n");
    for it in judged {
        let name = it.bug.map_or("none: the control", |bug| bug.name);
        let broken = match (it.broken.is_empty(), it.overall) {
            (true, Overall::Valid) => "nothing".to_owned(),
            (true, _) => "nothing, and not proven valid".to_owned(),
            (false, _) => it.broken.join(", "),
        };
        let hole = if it.is_as_it_must_be() {
            ""
        } else {
            "**wrong:** "
        };
        let took = it.took.as_secs();
        let _ = writeln!(
            text,
            "| {name} | `{}` | {hole}{broken} | {took} s |",
            it.run
        );
    }
    text
}
