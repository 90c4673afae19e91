//! Simulation: the only modules that look inside.
//!
//! Tier A is the pure core against a reference (`tier_a`): no threads, no clocks, no sockets, so a seed means the same for
//! ever. Not here: real processes and their faults (`cluster`), what a checker reads (`records`).

pub mod tier_a;
