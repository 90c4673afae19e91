//! Ring one: values that decide by themselves and touch no rows.

pub mod limit;
pub mod retry;
pub mod run;
pub mod step;
