//! Profiles: lists of runs that are made one after the other.
//!
//! Invariant: every line is a command line of `jepsen run`, so each can be repeated alone. Not here: making them (`run`).

use holdfast_jepsen::nemesis::{KINDS, Kind};
use holdfast_jepsen::network::Means;

/// What every commit must stand: some six minutes on two cores.
const CI: [&str; 7] = [
    "--workload mix --nemesis none --duration 10s",
    "--workload mix --nemesis kill-leader --nemesis-interval 8s --duration 40s --require kill-leader>=2",
    "--workload mix --nemesis kill-leader --nemesis-interval 8s --duration 30s --partitions 3",
    "--workload mix --nemesis pause-worker,kill-worker --sink fenced --duration 35s",
    "--workload mix --nemesis partition --nemesis-interval 8s --duration 35s --require partition>=2",
    "--workload mix --nemesis half-open,loss --nemesis-interval 7s --duration 30s --net netns",
    "--workload submit --nemesis kill-all --nemesis-interval 8s --duration 20s --nodes 1",
];

/// Leaders killed more than a thousand times, over workloads and partitions; what was required says how often. A state that is
/// flushed often makes restarts short, and so kills frequent.
const RELEASE: [&str; 4] = [
    "--workload mix --nemesis kill-leader --nemesis-interval 2s --duration 5m --test-count 10 --require kill-leader>=100 --node-env HOLDFAST_RAFT__SNAPSHOT_ENTRIES=5000",
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

/// So many kinds break in one run: few enough that the cluster works in between, and ten pairs meet.
const TOGETHER: usize = 5;

fn every_fault_and_every_pair() -> Vec<String> {
    let by_packets = |kinds: &[Kind]| kinds.iter().any(|it| it.only_by() == Some(Means::Spaces));
    let line = |kinds: &[Kind], seconds: u32, by_packets: bool| {
        let names: Vec<&str> = kinds.iter().map(|it| it.name()).collect();
        let net = if by_packets { " --net netns" } else { "" };
        format!(
            "--workload mix --nemesis {} --nemesis-interval 7s --duration {seconds}s{net}",
            names.join(",")
        )
    };
    let kinds = || KINDS.iter().map(|it| it.0);
    let singly = kinds().map(|it| line(&[it], 30, by_packets(&[it])));
    // What breaks links does so by either means, and the two are not the same to a connection.
    let again = kinds().filter(|it| it.is_of_links());
    let again = again.map(|it| line(&[it], 30, true));
    let together = together();
    let together = together.iter().map(|it| line(it, 45, by_packets(it)));
    singly.chain(again).chain(together).collect()
}

/// Groups of kinds in which each two kinds meet that can: begins each with two that have not met, and adds whoever has met fewest of it.
fn together() -> Vec<Vec<Kind>> {
    let kinds = KINDS.len();
    let mut met = vec![vec![false; kinds]; kinds];
    let mut groups = Vec::new();
    let apart = |met: &[Vec<bool>]| {
        (0..kinds).find_map(|one| {
            (one + 1..kinds)
                .find(|it| !met[one][*it] && KINDS[one].0.goes_with(KINDS[*it].0))
                .map(|it| (one, it))
        })
    };
    while let Some((one, other)) = apart(&met) {
        let mut group = vec![one, other];
        while group.len() < TOGETHER.min(kinds) {
            let news = |it: &usize| group.iter().filter(|at| !met[*it][**at]).count();
            let fits = |it: &usize| group.iter().all(|at| KINDS[*it].0.goes_with(KINDS[*at].0));
            let free = (0..kinds).filter(|it| !group.contains(it) && fits(it));
            // Of equals the one furthest down the list: those at its top have met most already.
            let Some(next) = free.max_by_key(news) else {
                break;
            };
            group.push(next);
        }
        for one in &group {
            for other in &group {
                met[*one][*other] = true;
            }
        }
        groups.push(group.into_iter().map(|at| KINDS[at].0).collect());
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_two_faults_meet_in_a_run_of_the_night() {
        let groups = together();
        for (at, one) in KINDS.iter().enumerate() {
            for other in &KINDS[at + 1..] {
                let both = |it: &Vec<Kind>| it.contains(&one.0) && it.contains(&other.0);
                let can = one.0.goes_with(other.0);
                assert_eq!(groups.iter().any(both), can, "{} and {}", one.1, other.1);
            }
        }
        assert!(groups.len() < 100, "{} runs", groups.len());
    }

    #[test]
    fn what_packets_alone_can_do_is_done_by_packets_and_nothing_else_needs_them() {
        for line in every_fault_and_every_pair() {
            let (_, rest) = line.split_once("--nemesis ").unwrap();
            let (names, _) = rest.split_once(' ').unwrap();
            let kinds = Kind::list(names).unwrap();
            let needs = |means| kinds.iter().any(|it| it.only_by() == Some(means));
            let by_packets = line.ends_with("--net netns");
            assert!(!needs(Means::Spaces) || by_packets, "{line}");
            assert!(!needs(Means::Gates) || !by_packets, "{line}");
        }
    }
}
