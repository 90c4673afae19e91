//! Many seeds, on several threads, until one fails or all are through.
//!
//! Invariant: what is found does not depend on the threads; of several failures the smallest seed is told.

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{Broken, Coverage, judge};

/// Seeds that a thread takes at once.
const PART: u64 = 16;

/// What to run.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// Which seeds.
    pub seeds: Range<u64>,
    /// Ends after this long, however many are left.
    pub at_most: Option<Duration>,
    /// Threads.
    pub jobs: usize,
    /// With the reference engine beside the core.
    pub model: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Seeds played.
    pub seeds: u64,
    /// Commands applied.
    pub commands: u64,
    /// How long it took.
    pub took: Duration,
    /// What was reached.
    pub coverage: Coverage,
    /// Seeds that failed, the smallest first.
    pub failed: Vec<(u64, Broken)>,
}

/// Runs a campaign; `progress` is told after each part.
pub fn run(campaign: &Campaign, progress: &(dyn Fn(&Outcome) + Sync)) -> Outcome {
    let begun = Instant::now();
    let (next, stop) = (AtomicU64::new(campaign.seeds.start), AtomicBool::new(false));
    let outcome = Mutex::new(Outcome::default());
    let over = || campaign.at_most.is_some_and(|most| begun.elapsed() >= most);
    thread::scope(|scope| {
        for _ in 0..campaign.jobs.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && !over() {
                    let from = next.fetch_add(PART, Ordering::Relaxed);
                    let to = campaign.seeds.end.min(from.saturating_add(PART));
                    if from >= to {
                        break;
                    }
                    let part = part(from..to, campaign.model);
                    if !part.failed.is_empty() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    let mut all = outcome.lock();
                    all.add(part);
                    all.took = begun.elapsed();
                    progress(&all);
                }
            });
        }
    });
    let mut outcome = outcome.into_inner();
    outcome.failed.sort_by_key(|(seed, _)| *seed);
    outcome.took = begun.elapsed();
    outcome
}

fn part(seeds: Range<u64>, model: bool) -> Outcome {
    let mut outcome = Outcome::default();
    for seed in seeds {
        let judged = judge(seed, model);
        outcome.seeds += 1;
        outcome.commands += judged.commands;
        outcome.coverage.add(&judged.coverage);
        if let Some(broken) = judged.broken {
            outcome.failed.push((seed, broken));
            break;
        }
    }
    outcome
}

impl Outcome {
    fn add(&mut self, part: Self) {
        self.seeds += part.seeds;
        self.commands += part.commands;
        self.coverage.add(&part.coverage);
        self.failed.extend(part.failed);
    }

    /// Seeds in a second.
    pub fn rate(&self) -> u64 {
        let ms = u64::try_from(self.took.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        self.seeds * 1_000 / ms
    }
}
