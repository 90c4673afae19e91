//! A black box around `holdfast` processes: what starts and breaks them, and where their effects land.
//!
//! Invariant: nothing here knows how Holdfast works inside. A process is a pid, a port and a log file; an effect is a call that the
//! shop received. So a fault in the server cannot hide in the witness.
//! Not here: how orders are worked (`holdfast demo`), what the cluster answers about itself (`holdfast`, the client).

pub mod cluster;
mod http;
pub mod ledger;
