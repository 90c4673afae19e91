//! The pure core of Holdfast: what a command means, and what a leader should do next. No IO of any kind.
//!
//! Walk: `apply` is the only door; `commands/` load, ask the `values/`, store; `index` and `orders` follow from row
//! changes; `lead/` is the leader's thinking.

pub mod apply;
pub mod bounds;
pub mod commands;
pub mod effect;
pub mod entry;
pub mod ids;
pub mod index;
pub mod invariants;
pub mod lead;
pub mod orders;
pub mod reply;
pub mod rows;
pub mod seeded;
pub mod time;
pub mod turn;
pub mod values;
pub mod views;
