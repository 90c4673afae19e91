//! Simulation: the only modules that look inside.
//!
//! Tier A is the pure core against a reference (`tier_a`): no threads, no clocks, no sockets, so a seed means the same for
//! ever. Tier B is a whole cluster in one thread (`tier_b`): a seed means the same for one build.
//! Not here: real processes and their faults (`cluster`), what a checker reads (`records`).

pub mod tier_a;
pub mod tier_b;
