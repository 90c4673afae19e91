//! Tier B: a whole cluster in one thread: consensus, state, leader shells and the calls between nodes are the production
//! code; database, files, threads and sockets are `holdfast_raft::host::sim`; time is what the world says.
//!
//! Invariant: one seed, one trace, byte for byte; one process per seed.
//! Built by `make sim` alone (`--cfg holdfast_sim --cfg tokio_unstable`, feature `sim-cluster`, a target folder of its own): any
//! other build says so and judges nothing. Not here: the pure core (`tier_a`), RocksDB, TCP, threads (real processes).

use std::path::PathBuf;

pub mod verb;

#[cfg(all(feature = "sim-cluster", holdfast_sim))]
mod checks;
#[cfg(all(feature = "sim-cluster", holdfast_sim))]
mod clients;
#[cfg(all(feature = "sim-cluster", holdfast_sim))]
mod faults;
#[cfg(all(feature = "sim-cluster", holdfast_sim))]
mod node;
#[cfg(all(feature = "sim-cluster", holdfast_sim))]
mod plan;
#[cfg(all(feature = "sim-cluster", holdfast_sim))]
mod scenarios;
#[cfg(all(feature = "sim-cluster", holdfast_sim))]
mod spoil;
#[cfg(all(feature = "sim-cluster", holdfast_sim))]
mod world;

/// What to run.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The seed.
    pub seed: u64,
    /// A directed scenario instead of the faults that the seed draws.
    pub scenario: Option<String>,
    /// A bug that is planted.
    pub bug: Option<String>,
    /// Where the trace goes; `-`: to standard output.
    pub trace: Option<PathBuf>,
}

/// What came of one seed.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// What was violated, a line each.
    pub violations: Vec<String>,
    /// What was drawn, for people.
    pub plan: String,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// Entries applied, over all replicas.
    pub applied: u64,
    /// Asks that were acknowledged.
    pub acknowledged: u64,
    /// Asks whose end nobody knows.
    pub unknown: u64,
    /// Runs that ended.
    pub finished: u64,
    /// Elections that somebody won.
    pub leaders: u64,
    /// Processes that were ended.
    pub ends: u64,
    /// Snapshots installed.
    pub installed: u64,
    /// Nodes whose disk was damaged, and noticed: they are out.
    pub out: u64,
}

/// A bug of the disk and none of ours: whoever never syncs names would fare as on this one.
pub const FOLDER_SYNC_LIES: &str = "folder-sync-lies";

/// Why there is no verdict.
pub const UNABLE: &str = "this binary was not built for tier B: run `make sim`, which builds `jepsen-sim` with \
`--cfg holdfast_sim --cfg tokio_unstable` in its own target folder";

/// Names of the directed scenarios.
pub fn scenarios() -> &'static [&'static str] {
    #[cfg(all(feature = "sim-cluster", holdfast_sim))]
    return scenarios::NAMES;
    #[cfg(not(all(feature = "sim-cluster", holdfast_sim)))]
    return &[];
}

/// Runs one seed in this process.
///
/// # Errors
/// [`UNABLE`], an unknown scenario or bug, or a trace that cannot be written.
pub fn run(ask: &Ask) -> Result<Verdict, String> {
    #[cfg(all(feature = "sim-cluster", holdfast_sim))]
    return world::run(ask);
    #[cfg(not(all(feature = "sim-cluster", holdfast_sim)))]
    {
        let Ask { .. } = ask;
        Err(UNABLE.to_owned())
    }
}
