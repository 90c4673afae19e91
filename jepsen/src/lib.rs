//! How Holdfast is proven: real processes under real faults, judged from what was written down; and simulation for volume.
//!
//! Invariant: outside `sim` nothing here knows how Holdfast works inside. A process is a pid, a port and a log file; an effect is
//! a call that a sink received; a checker reads files and never asks the cluster. So a fault in the server cannot hide in the
//! witness. Not here: how orders are worked (`holdfast demo`), what the cluster answers about itself (`holdfast`, the client).

#[cfg(feature = "run")]
pub mod checker;
pub mod clock;
pub mod cluster;
pub mod dice;
mod http;
#[cfg(feature = "run")]
pub mod images;
pub mod ledger;
#[cfg(feature = "run")]
pub mod load;
#[cfg(feature = "run")]
pub mod nemesis;
#[cfg(feature = "run")]
pub mod network;
#[cfg(feature = "run")]
pub mod proxy;
pub mod records;
#[cfg(feature = "run")]
pub mod report;
#[cfg(feature = "run")]
pub mod run;
#[cfg(feature = "seeded-bugs")]
pub mod selftest;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "run")]
pub mod sink;
pub mod store;
