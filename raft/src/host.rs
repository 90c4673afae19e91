//! What the machine beneath gives to this crate: database, files, workers, sockets, chance, and an end.
//!
//! Invariant: all that this crate takes from the machine it takes here; `--cfg holdfast_sim` replaces it whole, so that the
//! very same code runs in a simulation. The flag belongs to `RUSTFLAGS` and is no feature: nothing can switch it on by
//! depending on this crate, and a build with it keeps nothing on a disk.
//! Not here: clocks and chance that are drawn per node (`seams`); decisions of any kind.

use std::time::Duration;

#[cfg(not(holdfast_sim))]
mod real;
#[cfg(not(holdfast_sim))]
pub use real::*;

#[cfg(holdfast_sim)]
pub mod sim;
#[cfg(holdfast_sim)]
pub use sim::machine::*;

/// Works off jobs one after another: on a thread of its own, in the simulation as a task of its own.
pub(crate) trait Worker: Send + 'static {
    /// What it is given.
    type Job: Send;

    /// How long it waits for a job before [`Worker::idle`]; `None`: for ever.
    fn patience(&self) -> Option<Duration>;

    /// One job, with what has queued up behind it. `false` ends the worker.
    fn work(&mut self, job: Self::Job, more: &mut Inbox<Self::Job>) -> bool;

    /// No job came in time. `false` ends the worker.
    fn idle(&mut self) -> bool;

    /// The last act: it has ended, or nobody is left to give it a job.
    fn end(&mut self);
}
