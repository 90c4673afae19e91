//! The checkers, checked: what is legal passes, and what is changed is caught.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod folder;
mod form;
mod mutants;
mod mutants_cluster;
mod mutants_runs;
mod mutants_work;
mod play;
mod search;
mod world;

use holdfast_jepsen::checker::{Overall, check};

#[test]
fn a_legal_world_is_valid_whatever_the_seed_and_the_sink() {
    for sink in ["idempotent", "fenced", "naive"] {
        for seed in 0..40 {
            let report = check(&world::legal(seed, sink));
            assert_eq!(
                report.overall,
                Overall::Valid,
                "seed {seed}, {sink} sink: {:#?}",
                {
                    let bad = report.invariants.iter();
                    let bad: Vec<_> = bad
                        .filter(|it| {
                            use holdfast_jepsen::records::Verdict::{NotExercised, Valid};
                            !matches!(it.verdict, Valid { .. } | NotExercised)
                        })
                        .collect();
                    (bad, &report.reasons)
                }
            );
        }
    }
}
