//! All that consensus knows of the engine: how a batch becomes bytes, and what applying those bytes gives.
//!
//! Invariant: `apply` sees rows, an index and bytes, nothing else; the same ones give the same result on every replica.
//! Not here: the engine (`node` implements `Machine`), threads (`state`).

use std::ops::RangeInclusive;

use bytes::Bytes;

use crate::state::{Overlay, RowSnapshot};

/// An entry that this replica cannot apply: it stops, the others go on. A refusal is a reply and not a fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

/// What came of one entry.
#[derive(Debug, Clone)]
pub struct Applied<R, E> {
    /// One per command, in their order.
    pub replies: Vec<R>,
    /// What the leader might now do.
    pub effects: Vec<E>,
}

/// A command as it goes into the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encoded {
    /// One item of an entry, among others.
    Item(Bytes),
    /// An entry by itself.
    Entry(Bytes),
}

impl Encoded {
    /// Its size in bytes.
    pub(crate) fn len(&self) -> usize {
        let (Self::Item(bytes) | Self::Entry(bytes)) = self;
        bytes.len()
    }
}

/// The engine under consensus.
pub trait Machine: Send + Sized + 'static {
    /// One item of an entry.
    type Command: Send + 'static;
    /// The answer to one command.
    type Reply: Send + 'static;
    /// A hint to the leader.
    type Effect: Send + 'static;
    /// What to read again when an effect found no room.
    type Dirty: Ord + Send + 'static;

    /// `command` as it goes into the log.
    fn encode(command: &Self::Command) -> Encoded;

    /// One entry of these items.
    fn entry(epoch: u64, proposed_at_ms: u64, items: &[Bytes]) -> Bytes;

    /// Applies the entry at log index `at`.
    ///
    /// # Errors
    /// `Fault` stops this replica.
    fn apply(
        &mut self,
        rows: &mut Overlay<'_>,
        at: u64,
        entry: &Bytes,
    ) -> Result<Applied<Self::Reply, Self::Effect>, Fault>;

    /// The entry at `at` counts, also one that holds no commands; `digest` is the running one after it. Nobody was told yet.
    fn applied(&mut self, _at: u64, _digest: u128) {}

    /// Makes the orders in memory anew from rows: after open and after an installed snapshot.
    fn rebuild(&mut self, rows: &RowSnapshot);

    /// What to read again when `effect` found no room.
    fn dirty(effect: &Self::Effect) -> Self::Dirty;

    /// The feature levels this build knows.
    fn levels(&self) -> RangeInclusive<u32>;
}
