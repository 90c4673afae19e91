//! The harness tested in the ordinary tests: some of the planted bugs, others on another day.

#![cfg(feature = "seeded-bugs")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use holdfast_jepsen::{
    selftest::{Means, Planted, TABLE, outer::OUTER, real::REAL, run, table},
    sim::tier_a,
};

/// Bugs hunted in one run of the tests.
const AT_ONCE: usize = 4;
/// Seeds of a bug that is quickly caught; the others are for `jepsen selftest` alone.
const RARE: &[&str] = &[
    "due-forgotten-on-failover",
    "expiry-forgotten-on-attach",
    "bucket-refilled-on-failover",
];

#[test]
fn every_bug_that_can_be_planted_stands_in_the_table_once() {
    let mut listed: Vec<&str> = TABLE.iter().map(|line| line.name).collect();
    let mut planted = tier_a::planted();
    listed.sort_unstable();
    planted.sort_unstable();
    assert_eq!(listed, planted);
}

fn source(file: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    std::fs::read_to_string(root.join(file)).unwrap()
}

#[test]
fn every_bug_of_consensus_disk_and_node_stands_in_the_table_once() {
    let planted = source("raft/src/seeded.rs");
    let rows = planted.split("pub const ALL").nth(1).unwrap();
    let rows = rows.split("];").next().unwrap().split('(').skip(1);
    let mut planted: Vec<&str> = rows
        .filter_map(|row| row.trim_start().strip_prefix('"')?.split('"').next())
        .collect();
    let mut listed: Vec<&str> = OUTER.iter().map(|line| line.name).collect();
    planted.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, planted);
    assert_eq!(listed.len(), 20);
}

#[test]
fn every_test_that_the_table_names_is_there_and_is_about_that_bug() {
    for line in OUTER {
        let tests = source(line.suite.file);
        let name = line.test.rsplit("::").next().unwrap();
        let body = tests.split(&format!("fn {name}()")).nth(1);
        let body = body.unwrap_or_else(|| panic!("{name} is not in {}", line.suite.file));
        let body = body.split("\n}").next().unwrap();
        assert!(body.contains(&format!("\"{}\"", line.name)), "{name}");
        assert!(source(line.place).contains("armed(Bug::"), "{}", line.place);
    }
}

#[test]
fn every_run_of_real_processes_is_for_a_bug_that_can_be_planted() {
    let outer = OUTER.iter().map(|line| line.name);
    let all: BTreeSet<&str> = outer.chain(TABLE.iter().map(|line| line.name)).collect();
    for line in REAL {
        assert!(all.contains(line.name) && !line.by.is_empty(), "{line:?}");
    }
}

#[test]
fn a_few_planted_bugs_are_caught_by_the_invariant_that_is_to_catch_them() {
    let quick: Vec<Planted> = TABLE
        .iter()
        .filter(|line| !RARE.contains(&line.name))
        .copied()
        .collect();
    let day = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
        / 86_400;
    let from = usize::try_from(day).unwrap() * AT_ONCE;
    let turn: Vec<Planted> = (from..from + AT_ONCE)
        .map(|nth| quick[nth % quick.len()])
        .collect();
    let verdicts = run(&turn, 2, &|_| {}).unwrap();
    let all = verdicts.iter().all(|verdict| verdict.caught_by.is_some());
    assert!(all, "\n{}", table(&verdicts));
}

#[test]
fn a_bug_that_is_not_planted_is_not_found() {
    let Means::TierA(by, _) = TABLE[0].by;
    let caught = tier_a::hunt(TABLE[0].name, by, 20).unwrap();
    assert!(caught.broken.is_some());
    for seed in 0..20 {
        assert_eq!(
            tier_a::judge(seed, false).broken,
            None,
            "disarmed after the hunt, seed {seed}"
        );
    }
    assert!(tier_a::hunt("no-such-bug", &["S1"], 1).is_err());
}
