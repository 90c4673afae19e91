//! The one clock of a test run: nanoseconds of `CLOCK_MONOTONIC`, the same in every process of a machine.
//!
//! Invariant: whatever process asks, a later moment has a larger number. Not here: wall clocks, which faults move.

use rustix::time::{ClockId, clock_gettime};

/// Now.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let rest = u64::try_from(now.tv_nsec).unwrap_or_default();
    seconds * 1_000_000_000 + rest
}
