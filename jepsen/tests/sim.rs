//! Tier A in the ordinary tests: some hundred seeds, and those that once failed before any other.
//!
//! A seed that fails prints itself with the command that replays it. `SEED=n` looks at one, `SEEDS=from..to` at others.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::ops::Range;

use holdfast_jepsen::sim::tier_a::{self, Campaign};

fn chosen() -> Option<Range<u64>> {
    if let Ok(one) = std::env::var("SEED") {
        let one: u64 = one.parse().unwrap();
        return Some(one..one + 1);
    }
    let many = std::env::var("SEEDS").ok()?;
    let (from, to) = many.split_once("..").unwrap();
    Some(from.parse().unwrap()..to.parse().unwrap())
}

/// Fails with the smallest story of a seed that does not hold.
fn told(seed: u64) {
    let judged = tier_a::judge(seed, true);
    let Some(broken) = judged.broken.clone() else {
        return;
    };
    let acts = tier_a::shrink(&judged, true);
    let (story, _) = tier_a::story(&acts, true, judged.replay_every);
    panic!(
        "{story}\nseed {seed} breaks {broken}\nagain: SEED={seed} cargo test -p holdfast-jepsen --test sim"
    );
}

#[test]
fn seeds_that_once_failed_hold() {
    let text = std::fs::read_to_string(tier_a::seeds_file()).unwrap();
    let filed = tier_a::filed(&text);
    assert!(filed.len() >= 2, "the file of seeds was not read: {text}");
    filed.into_iter().for_each(told);
}

#[test]
fn the_core_answers_and_shows_what_the_reference_does() {
    let campaign = Campaign {
        seeds: chosen().unwrap_or(0..800),
        at_most: None,
        jobs: 2,
        model: true,
    };
    let outcome = tier_a::run(&campaign, &|_| {});
    if let Some((seed, _)) = outcome.failed.first() {
        told(*seed);
    }
    assert_eq!(outcome.failed, []);
    let missing = outcome.coverage.missing();
    assert!(
        chosen().is_some() || missing.is_empty(),
        "never reached: {missing:?}"
    );
}

#[test]
fn the_same_log_gives_the_same_rows_replies_and_effects_wherever_it_was_interrupted() {
    for seed in chosen().unwrap_or(1_000..1_050) {
        let alike = tier_a::replays_alike(seed, &[1, 7, 64]);
        assert_eq!(alike, Ok(()), "SEED={seed}");
    }
}

#[test]
fn a_seed_means_the_same_history_each_time_it_is_played() {
    for seed in chosen().unwrap_or(0..30) {
        assert_eq!(tier_a::trace(seed), tier_a::trace(seed), "SEED={seed}");
    }
}
