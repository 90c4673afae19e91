//! What a simulation replaces: clocks and chance.
//!
//! Not here: reading either outside `node`, which alone has the real ones; the log's seam is `log::LogBackend`.

/// The clocks of a node.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock, milliseconds since 1970. May jump in both directions.
    fn wall_ms(&self) -> u64;
    /// Monotonic time since some fixed moment, in milliseconds.
    fn mono_ms(&self) -> u64;
}

/// Chance.
pub trait Entropy: Send + Sync + 'static {
    /// 16 random bytes.
    fn bytes16(&self) -> [u8; 16];
}

/// What the proposer writes on an entry as it cuts it.
pub trait Stamp: Send + Sync + 'static {
    /// The epoch under which this node acts for the group (0 when it does not), and the time in milliseconds.
    fn stamp(&self) -> (u64, u64);
}
