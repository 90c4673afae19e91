//! The state of each group: rows made by applying the log, on one thread per group.
//!
//! Invariant: rows and the pointer to the last applied entry reach the disk in one batch, in log order; a reader sees what
//! has been applied. Nothing here runs on the consensus runtime.
//! Not here: what is applied and when (`adapter`), what the rows mean (`Machine`).

mod db;
mod effects;
mod group;
pub(crate) mod pointer;
mod rows;
mod transfer;
#[cfg(not(holdfast_sim))]
mod tuning;

#[cfg(holdfast_sim)]
pub(crate) use db::durable;
pub use db::{DbFigures, StateDb};
pub use effects::{EffectBatch, Effects};
pub use group::{GroupState, ToApply};
pub(crate) use rows::own_range;
pub use rows::{Overlay, Row, RowSnapshot};
pub use transfer::{Block, Blocks, SnapData, SnapMeta, Staged, Staging, Trailer};
