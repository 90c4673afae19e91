//! Identities: one newtype per thing that can be named, so that no two of them can be mixed up.
//!
//! Not here: minting. Fences come from `Turn::next_fence` alone, run ids from callers, sessions from `attach`.

use std::{fmt, sync::Arc};

use twox_hash::XxHash3_64;

use crate::bounds;

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident($of:ty);)*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $of);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )* };
}
numbers! {
    /// An index of the log of one partition.
    LogIndex(u64);
    /// Log index of the `BecomeLeader` applied last; a duty under another epoch is void.
    Epoch(u64);
    /// The number of a command within its entry.
    Slot(u32);
    /// A server process.
    NodeId(u64);
    /// A fixed share of all runs, 1..=P.
    PartitionId(u32);
    /// A worker process as one partition knows it; minted like a fence, so it never repeats.
    SessionId(u64);
    /// Which life of a run id this is, from 1.
    Generation(u32);
    /// The number of an intent in its run and generation, from 0 without gaps; never reused, not even after a fold.
    IntentNo(u32);
    /// The number of a journal row in its run and generation, from 0.
    Seq(u32);
    /// The number of an Advance under one driver's fence, from 1.
    AdvanceNo(u32);
    /// The number of a delivery under one driver's fence, from 1; 0: none yet.
    DeliveryNo(u32);
    /// Digest of an input or of arguments, computed by the SDK over canonical JSON.
    Digest(u64);
    /// A workflow's version.
    Version(u32);
    /// What replicated behaviour an entry may rely on.
    FeatureLevel(u32);
}

/// The number of a grant; larger is newer, across failover and restore. Bit 63 is never set.
///
/// Layout: cluster incarnation 7 bits | log index 40 bits | number of the grant within its entry 16 bits.
/// Compared only between grants of the same step (or the same driver) of the same run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Fence(u64);

impl Fence {
    /// The fence of the `slot`-th grant of the entry at `at`.
    pub(crate) fn mint(incarnation: u8, at: LogIndex, slot: u16) -> Self {
        assert!(at.0 < 1 << 40, "log index {at} does not fit a fence");
        assert!(
            incarnation < 128,
            "cluster incarnation {incarnation} does not fit a fence"
        );
        Self(u64::from(incarnation) << 56 | at.0 << 16 | u64::from(slot))
    }
    /// As a worker or a row carries it; not a way to make a new one.
    pub const fn from_wire(number: u64) -> Self {
        Self(number)
    }
    /// The number that user code compares.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}",
            (self.0 >> 16) & ((1 << 40) - 1),
            self.0 & 0xffff
        )
    }
}

/// Why a text is not an id or a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// It is empty.
    #[error("a {what} must not be empty")]
    Empty {
        /// What it was to name.
        what: &'static str,
    },
    /// It is longer than allowed.
    #[error("a {what} has at most {max} bytes, this one has {len}; shorten it")]
    TooLong {
        /// What it was to name.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The most that is allowed.
        max: usize,
    },
    /// It has a character that is not allowed.
    #[error("a {what} may have letters, digits and . _ - : @ / only; {found:?} is not allowed")]
    BadCharacter {
        /// What it was to name.
        what: &'static str,
        /// The first such character.
        found: char,
    },
}

fn check(what: &'static str, text: &str, max: usize, extra: &str) -> Result<(), BadName> {
    if text.is_empty() {
        return Err(BadName::Empty { what });
    }
    if text.len() > max {
        return Err(BadName::TooLong {
            what,
            len: text.len(),
            max,
        });
    }
    match text
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || "._-:@/".contains(*c) || extra.contains(*c)))
    {
        Some(found) => Err(BadName::BadCharacter { what, found }),
        None => Ok(()),
    }
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident($what:literal, $max:expr, $extra:literal);)*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);
        impl $name {
            /// Checks length and characters.
            pub fn new(text: &str) -> Result<Self, BadName> {
                check($what, text, $max, $extra)?;
                Ok(Self(text.into()))
            }
            /// As stored: it was checked before it was written.
            pub fn from_stored(text: &str) -> Self {
                Self(text.into())
            }
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )* };
}
names! {
    /// The caller's name for a run. `~` marks children and is refused from callers by `start`.
    RunId("run id", bounds::RUN_ID_BYTES_MAX, "~");
    /// The name of a workflow, step, signal, view or queue.
    Name("name", bounds::NAME_BYTES_MAX, "");
    /// The name of a limit; the part before `:` may be a declared form such as `stripe:*`.
    LimitName("limit name", bounds::NAME_BYTES_MAX, "*");
    /// Names one ask, so that its repeat gets the first reply; a signal's id, too.
    RequestId("request id", bounds::RUN_ID_BYTES_MAX, "~");
    /// Minted by a worker process when it begins.
    ProcessId("process id", bounds::NAME_BYTES_MAX, "");
}

impl RunId {
    /// The partition that this run lives in: of 1..=`partitions`, by what stands before the first `~`.
    pub fn partition(&self, partitions: u32) -> PartitionId {
        let root = self.0.split('~').next().unwrap_or_default();
        let spread = XxHash3_64::oneshot(root.as_bytes()) % u64::from(partitions.max(1));
        PartitionId(u32::try_from(spread).expect("a remainder of a u32") + 1)
    }
}

/// Which entry an operation in code means: scope path (it begins with the number of folds), name, occurrence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepKey {
    /// `"0"`, or `"<folds>/<branch>…"`.
    pub scope: Arc<str>,
    /// The name of the step, signal, or kind of operation.
    pub name: Arc<str>,
    /// Which one of that name in that scope, from 0.
    pub occurrence: u32,
}

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.name, self.occurrence)
    }
}
