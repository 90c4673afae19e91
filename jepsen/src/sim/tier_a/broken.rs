//! What did not hold, and where.

use std::fmt;

/// Something that must hold and did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which invariant, by its name in the list of invariants (`docs/verification.md`).
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
    /// The log index after which it was seen; 0: at no entry.
    pub at: u64,
}

impl Broken {
    /// Seen after no entry in particular.
    pub fn new(invariant: &'static str, what: impl Into<String>) -> Self {
        Self {
            invariant,
            what: what.into(),
            at: 0,
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} after entry {}: {}",
            self.invariant, self.at, self.what
        )
    }
}

/// Breaks an invariant unless something holds.
macro_rules! must {
    ($holds:expr, $invariant:literal, $($what:tt)+) => {
        if !$holds {
            return Err($crate::sim::tier_a::broken::Broken::new($invariant, format!($($what)+)));
        }
    };
}
pub(super) use must;
