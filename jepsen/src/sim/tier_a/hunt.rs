//! Hunts a planted bug: seeds with the bug armed until the invariant that is to catch it breaks.
//!
//! Invariant: a bug is armed in the hunting thread alone, and disarmed when the hunt ends, however it ends.

use std::time::{Duration, Instant};

use holdfast_scheduler::seeded;

use super::{Broken, judge};

/// What came of a hunt.
#[derive(Debug, Clone)]
pub struct Caught {
    /// What broke; none: the bug went through.
    pub broken: Option<Broken>,
    /// The seed that caught it, or the last one played.
    pub seed: u64,
    /// Seeds played.
    pub seeds: u64,
    /// How long it took.
    pub took: Duration,
}

/// Names of all bugs that can be armed.
pub fn planted() -> Vec<&'static str> {
    seeded::ALL.iter().map(|(name, _)| *name).collect()
}

/// Plays seeds from 0 on until one of these invariants breaks, at most `within` seeds. The reference engine runs along only
/// where it is the one that is to notice: each other invariant must stand alone.
///
/// # Errors
/// There is no such bug.
pub fn hunt(name: &str, by: &[&str], within: u64) -> Result<Caught, String> {
    let known = seeded::ALL.iter().find(|(known, _)| *known == name);
    let (_, bug) = known.ok_or_else(|| format!("no bug is called {name}"))?;
    let model = by.contains(&"model");
    let begun = Instant::now();
    let armed = seeded::arm(*bug);
    let mut caught = Caught {
        broken: None,
        seed: 0,
        seeds: 0,
        took: Duration::ZERO,
    };
    for seed in 0..within {
        (caught.seed, caught.seeds) = (seed, seed + 1);
        let broken = judge(seed, model).broken;
        caught.broken = broken.filter(|broken| by.contains(&broken.invariant));
        if caught.broken.is_some() {
            break;
        }
    }
    drop(armed);
    caught.took = begun.elapsed();
    Ok(caught)
}
