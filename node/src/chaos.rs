//! What test runs against real processes may do to this node from outside: feature `chaos` alone.
//!
//! `HOLDFAST_FAILPOINTS` arms failpoints from the start, `HOLDFAST_FAILPOINTS_FILE` names a file that is read again and again
//! and arms them anew whenever it changes; `HOLDFAST_CHAOS_CLOCK` names the file that moves the node's clock.
//! Invariant: read by the shell alone, and the released binary has none of it. Not here: the points (`raft`'s `failpoints`).

mod clock;

use std::{path::PathBuf, sync::Arc};

use holdfast_raft::{Clock, failpoints};

pub use holdfast_raft::failpoints::POINTS;

fn file_of(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .filter(|it| !it.is_empty())
        .map(PathBuf::from)
}

/// Arms what the environment says.
///
/// # Errors
/// It cannot be read: the text says what is wrong with it.
pub fn arm_failpoints() -> Result<(), String> {
    if let Ok(spec) = std::env::var("HOLDFAST_FAILPOINTS") {
        failpoints::arm(&spec)?;
    }
    match file_of("HOLDFAST_FAILPOINTS_FILE") {
        Some(file) => failpoints::follow(file).map_err(|cause| cause.to_string()),
        None => Ok(()),
    }
}

/// The node's clocks: the real ones, or moved by the control file.
///
/// # Errors
/// The system gave no thread.
pub fn clock(real: Arc<dyn Clock>) -> std::io::Result<Arc<dyn Clock>> {
    match file_of("HOLDFAST_CHAOS_CLOCK") {
        Some(file) => Ok(clock::ChaosClock::follow(real, &file)?),
        None => Ok(real),
    }
}
