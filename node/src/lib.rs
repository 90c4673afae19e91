//! The Holdfast server, as a library: the state machine joined to the log, leader shells, servers, and their wiring.
//!
//! Walk: `serve` starts everything and knows everyone; a request comes in at `api`, which decodes it and proposes a command
//! (`raft`) or reads rows; `machine` applies entries by the pure core; `leader` performs what the core's leader thinks, and
//! sends work out on `streams`.
//! Not here: rules (`scheduler`), consensus and disk (`raft`), wire forms (`proto`).

pub mod api;
#[cfg(feature = "chaos")]
pub mod chaos;
pub mod clock;
pub mod disk;
pub mod figures;
pub mod leader;
pub mod machine;
pub mod offers;
pub mod partitions;
#[cfg(feature = "seeded-bugs")]
pub mod seeded;
pub mod serve;
pub mod settings;
pub mod sound;
pub mod streams;
pub mod tap;
pub mod telemetry;
