//! Crash images: what a cut of power may leave on the disk of a node, and what damage does to it.
//!
//! A recorded trace of system calls says in which order a node wrote, and what it waited for. From it come, at every sync, the disks that
//! a cut right there may leave: all that was synced, and any part of the rest. Each is opened with the production code
//! (`holdfast doctor disk`), and must hold every entry that was synced or acknowledged. Invariant: nothing here knows a file format;
//! what lies on a disk is asked of the node's own code, what must lie there of the trace and the acknowledgements.
//! Not here: the command line (`cli::images`).

pub mod build;
pub mod campaign;
pub mod damage;
pub mod disk;
pub mod judge;
pub mod opener;
pub mod record;
pub mod serve;
pub mod trace;

/// Chance from a seed: a small generator of our own, so that a seed means the same image for ever.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// From this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number (splitmix64).
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut it = self.0;
        it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        it ^ (it >> 31)
    }

    /// Below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end.max(1) as u64).expect("it is below a usize")
    }

    /// Heads or tails.
    pub fn flip(&mut self) -> bool {
        self.roll() & 1 == 1
    }
}
