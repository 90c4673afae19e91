//! Profiles: lists of runs that are made one after the other.
//!
//! Invariant: every line is a command line of `jepsen run`, so each can be repeated alone. Not here: making them (`run`).

use holdfast_jepsen::nemesis::KINDS;

/// What every commit must stand: some five minutes on two cores.
const CI: [&str; 6] = [
    "--workload mix --nemesis none --duration 10s",
    "--workload mix --nemesis kill-leader --nemesis-interval 8s --duration 40s --require kill-leader>=2",
    "--workload mix --nemesis kill-leader --nemesis-interval 8s --duration 30s --partitions 3",
    "--workload mix --nemesis pause-worker,kill-worker --sink fenced --duration 35s",
    "--workload mix --nemesis partition --nemesis-interval 8s --duration 35s --require partition>=2",
    "--workload submit --nemesis kill-all --nemesis-interval 8s --duration 20s --nodes 1",
];

/// Leaders killed for hours, over workloads and partitions; what was required says how often. A state that is flushed often
/// makes restarts short, and so kills frequent.
const RELEASE: [&str; 4] = [
    "--workload mix --nemesis kill-leader --nemesis-interval 4s --duration 90m --require kill-leader>=1000 --node-env HOLDFAST_RAFT__SNAPSHOT_ENTRIES=5000",
    "--workload mix --nemesis kill-leader --nemesis-interval 4s --duration 30m --partitions 3",
    "--workload mix --nemesis chaos --duration 60m --sink fenced",
    "--workload mix --nemesis chaos --duration 60m --sink naive --nodes 5",
];

/// The lines of a profile.
pub fn lines(name: &str) -> Option<Vec<String>> {
    match name {
        "ci" => Some(CI.map(ToString::to_string).to_vec()),
        "night" => Some(every_fault_and_every_pair()),
        "release" => Some(RELEASE.map(ToString::to_string).to_vec()),
        _ => None,
    }
}

fn every_fault_and_every_pair() -> Vec<String> {
    let line = |faults: &str| {
        format!("--workload mix --nemesis {faults} --nemesis-interval 7s --duration 35s")
    };
    let mut lines: Vec<String> = KINDS.iter().map(|it| line(it.1)).collect();
    for (at, one) in KINDS.iter().enumerate() {
        for other in &KINDS[at + 1..] {
            lines.push(line(&format!("{},{}", one.1, other.1)));
        }
    }
    lines
}
