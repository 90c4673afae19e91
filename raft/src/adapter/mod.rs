//! The one module that names `openraft::`: types, log, state machine, network, settings, and what the crate asks of a core.
//!
//! Invariant: no openraft type leaves this module, so that a new version of it is absorbed here.
//! Not here: bytes on disk (`log`, `state`), bytes on the wire (`peer`).

pub(crate) mod acks;
pub(crate) mod codec;
pub(crate) mod core;
pub(crate) mod group;
pub(crate) mod log;
pub(crate) mod machine;
pub(crate) mod network;
pub(crate) mod pulse;
#[cfg(holdfast_sim)]
pub(crate) mod runtime;
pub(crate) mod settings;
pub(crate) mod snapshot;
pub(crate) mod stages;
pub(crate) mod types;
