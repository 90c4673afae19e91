//! The effect sink: the outside world that steps act on, in a small process of its own that no fault ever touches.
//!
//! Invariant: what it answered is on disk. It knows nothing of Holdfast: a call carries a key, a fence and a serial, and the
//! rules decide what that means. Not here: who calls it (`load::worker`), judging what it saw (a checker).

mod book;
mod client;
mod server;

pub use self::book::{Book, Mode};
pub use self::client::SinkClient;
pub use self::server::{Sink, SinkError};

use serde::{Deserialize, Serialize};

use crate::records::Ruling;

/// What a caller wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// To make its fence known before it begins.
    Register,
    /// The effect.
    Act,
    /// To know whether the effect of this key happened.
    Probe,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkCall {
    /// What is wanted.
    pub wish: Wish,
    /// For which run.
    pub run: String,
    /// Which life of it.
    pub generation: u32,
    /// Which step, with `:undo` or `:probe` behind it where it is one.
    pub step: String,
    /// Its attempt.
    pub attempt: u32,
    /// Its fence.
    pub fence: u64,
    /// Its idempotency key; of a probe, the key that is asked about.
    pub key: String,
    /// Which worker.
    pub worker: String,
    /// The serial of the payload.
    pub serial: u64,
    /// Whether it undoes something.
    pub undo: bool,
    /// So many calls under this key are told to come back later before one is let in.
    pub throttle: u32,
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkAnswer {
    /// What came of it.
    pub ruling: Ruling,
}
