//! Profiles: lists of runs that are made one after the other.
//!
//! Invariant: every line is a command line of `jepsen run`, so each can be repeated alone. Not here: making them (`run`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use holdfast_jepsen::nemesis::{KINDS, Kind};
use holdfast_jepsen::network::Means;
use holdfast_jepsen::records::{Fault, FaultStatus};
use serde_json::Value;

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

/// The lines of a profile. That of the rest depends on the runs of the store.
pub fn lines(name: &str, store: &Path) -> Option<Vec<String>> {
    match name {
        "ci" => Some(CI.map(ToString::to_string).to_vec()),
        "night" => Some(every_fault_and_every_pair()),
        "rest" => Some(pairs_that_have_not_met(&met_in(store))),
        "release" => Some(RELEASE.map(ToString::to_string).to_vec()),
        _ => None,
    }
}

/// So many kinds break in one run: few enough that the cluster works in between, and ten pairs meet.
const TOGETHER: usize = 5;
/// Of the rest, so that hardly one is left out.
const OF_THE_REST: usize = 3;

fn line(kinds: &[Kind], every_s: u32, for_s: u32, by_packets: bool) -> String {
    let names: Vec<&str> = kinds.iter().map(|it| it.name()).collect();
    let net = if by_packets { " --net netns" } else { "" };
    format!(
        "--workload mix --nemesis {} --nemesis-interval {every_s}s --duration {for_s}s{net}",
        names.join(",")
    )
}

fn by_packets(kinds: &[Kind]) -> bool {
    kinds.iter().any(|it| it.only_by() == Some(Means::Spaces))
}

fn every_fault_and_every_pair() -> Vec<String> {
    let kinds = || KINDS.iter().map(|it| it.0);
    let singly = kinds().map(|it| line(&[it], 7, 30, by_packets(&[it])));
    // What breaks links does so by either means, and the two are not the same to a connection.
    let again = kinds().filter(|it| it.is_of_links());
    let again = again.map(|it| line(&[it], 7, 30, true));
    let together = together(TOGETHER, |_, _| false);
    let together = together.iter().map(|it| line(it, 7, 45, by_packets(it)));
    singly.chain(again).chain(together).collect()
}

/// Faults strike by chance, and only where enough others are whole: of the pairs of a night some never meet.
fn pairs_that_have_not_met(met: &BTreeSet<(Kind, Kind)>) -> Vec<String> {
    let together = together(OF_THE_REST, |one, other| {
        met.contains(&(one, other)) || met.contains(&(other, one))
    });
    let lines = together.iter().map(|it| line(it, 5, 40, by_packets(it)));
    lines.collect()
}

/// Groups of kinds in which each two kinds meet that can and have not: begins each with two of these, and adds whoever has met
/// fewest of it.
fn together(count: usize, have_met: impl Fn(Kind, Kind) -> bool) -> Vec<Vec<Kind>> {
    let kinds = KINDS.len();
    let row = |one: &Kind| {
        let others = KINDS.iter().map(|it| have_met(*one, it.0));
        others.collect()
    };
    let mut met: Vec<Vec<bool>> = KINDS.iter().map(|it| row(&it.0)).collect();
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
        while group.len() < count {
            let news = |it: &usize| group.iter().filter(|at| !met[*it][**at]).count();
            let fits = |it: &usize| group.iter().all(|at| KINDS[*it].0.goes_with(KINDS[*at].0));
            let free = (0..kinds).filter(|it| !group.contains(it) && fits(it));
            // Of equals the one furthest down the list: those at its top have met most already.
            match free.max_by_key(news).filter(|it| news(it) > 0) {
                Some(next) => group.push(next),
                None => break,
            }
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

/// Pairs of faults that were seen in force in one run of this store that was judged valid. What cannot be read has shown nothing.
fn met_in(store: &Path) -> BTreeSet<(Kind, Kind)> {
    let mut met = BTreeSet::new();
    for folder in folders(store).iter().flat_map(|it| folders(it)) {
        let seen = in_force(&folder);
        for (at, one) in seen.iter().enumerate() {
            met.extend(seen[at + 1..].iter().map(|other| (*one, *other)));
        }
    }
    met
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).into_iter().flatten().flatten();
    all.filter(|it| it.file_type().is_ok_and(|it| it.is_dir()))
        .map(|it| it.path())
        .collect()
}

/// The faults of one valid run, each once.
fn in_force(folder: &Path) -> Vec<Kind> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let results: Value = serde_json::from_str(&read("results.json")).unwrap_or_default();
    if results["overall"] != "valid" {
        return Vec::new();
    }
    let faults = read("nemesis.jsonl");
    let faults = faults.lines().filter_map(|it| {
        let fault: Fault = serde_json::from_str(it).ok()?;
        (fault.status == FaultStatus::Installed).then(|| fault.fault.parse().ok())?
    });
    let seen: BTreeSet<Kind> = faults.collect();
    seen.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_what_no_valid_run_of_the_store_has_had() {
        let store = tempfile::tempdir().unwrap();
        let had = |name: &str, overall: &str, faults: &[&str]| {
            let folder = store.path().join("mix").join(name);
            fs::create_dir_all(&folder).unwrap();
            let results = format!("{{\"overall\":\"{overall}\"}}");
            fs::write(folder.join("results.json"), results).unwrap();
            let line = |it: &&str| {
                let (fault, status) = it.split_once(' ').unwrap();
                format!(
                    "{{\"t\":1,\"fault\":\"{fault}\",\"targets\":[],\"status\":\"{status}\",\"note\":\"\"}}\n"
                )
            };
            let lines: String = faults.iter().map(line).collect();
            fs::write(folder.join("nemesis.jsonl"), lines).unwrap();
        };
        let left = || lines("rest", store.path()).unwrap().len();
        let before = left();
        let names: Vec<String> = KINDS
            .iter()
            .map(|it| format!("{} installed", it.1))
            .collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        had("violated", "violated", &all);
        assert_eq!(left(), before);
        had("all", "valid", &all);
        assert_eq!(lines("rest", store.path()), Some(vec![]));
        fs::remove_dir_all(store.path().join("mix/all")).unwrap();
        let [others @ .., one, other] = &all[..] else {
            unreachable!()
        };
        had("one", "valid", &[others, &[one]].concat());
        had("other", "valid", &[others, &[other]].concat());
        let rest = lines("rest", store.path()).unwrap();
        assert_eq!(rest.len(), 1, "{rest:?}");
        for name in [one, other] {
            let (name, _) = name.split_once(' ').unwrap();
            assert!(rest[0].contains(name), "{rest:?}");
        }
    }

    #[test]
    fn each_two_faults_meet_in_a_run_of_the_night() {
        let groups = together(TOGETHER, |_, _| false);
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
