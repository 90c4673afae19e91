//! Ring two: one file per command. Each loads, lets the values decide, stores, and names effects.
//!
//! `common` holds what several commands do to a run: end an attempt, lose a lease, begin an ending, settle.

pub mod admit;
pub mod advance;
pub mod attach;
pub mod become_leader;
pub mod change;
pub mod collect;
pub mod common;
pub mod deploy;
pub mod expire;
pub mod fire;
pub mod grant;
pub mod progress;
pub mod repair;
pub mod report;
pub mod retry;
pub mod returned;
pub mod set_limit;
pub mod signal;
pub mod start;
