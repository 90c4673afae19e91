//! Tier B's own tests: the same seed gives the same trace, and an ordinary build says that it cannot.

use std::process::{Command, Output};

fn sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jepsen-sim"))
        .args(args)
        .output()
        .expect("the binary was built for this test")
}

#[cfg(not(holdfast_sim))]
#[test]
fn a_binary_that_was_not_built_for_tier_b_says_so() {
    for args in [["--seed", "1"], ["--seeds", "1..3"], ["--scenario", "all"]] {
        let output = sim(&args);
        assert_eq!(output.status.code(), Some(254), "{args:?}");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("make sim"), "{said}");
    }
}

#[cfg(holdfast_sim)]
mod built_for_it {
    use std::path::Path;

    use super::*;

    fn trace(seed: u64, to: &Path) -> Vec<u8> {
        let to_text = to.to_str().expect("a temporary folder has a plain name");
        let output = sim(&["--seed", &seed.to_string(), "--trace", to_text]);
        let code = output.status.code();
        assert!(
            matches!(code, Some(0)),
            "seed {seed} ended with {code:?}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        std::fs::read(to).expect("the trace was written")
    }

    #[test]
    fn one_seed_in_two_processes_gives_one_trace_byte_for_byte() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for seed in [1, 2, 3] {
            let one = trace(seed, &folder.path().join("one"));
            let two = trace(seed, &folder.path().join("two"));
            assert!(one.len() > 10_000, "seed {seed} left hardly a trace");
            let differs = one.iter().zip(&two).position(|(one, two)| one != two);
            assert!(
                one == two,
                "seed {seed} differs from byte {differs:?} on: chance or time leaks in"
            );
        }
    }

    #[test]
    fn two_seeds_give_two_traces() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let one = trace(1, &folder.path().join("one"));
        let two = trace(2, &folder.path().join("two"));
        assert_ne!(one, two);
    }

    #[cfg(feature = "seeded-bugs")]
    #[test]
    fn every_planted_bug_of_consensus_is_caught() {
        let output = sim(&["--selftest"]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{said}");
    }

    #[test]
    fn every_directed_scenario_comes_out_as_it_says() {
        let output = sim(&["--scenario", "all"]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{said}");
    }
}
