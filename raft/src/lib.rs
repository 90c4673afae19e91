//! Replication and disk of Holdfast, over bytes: groups of replicas that agree on a log, and the state made from it.
//!
//! Invariant: nothing is acknowledged before it is durable on a quorum; openraft is named only in `adapter`, RocksDB only in
//! `log` and `state`, and neither shows in the public interface.
//! Not here: what commands mean (`node` brings a [`Machine`]), clients' listeners, settings files.

mod agreement;
pub mod error;
pub mod failpoints;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod groups;
pub mod host;
pub mod inspect;
pub mod log;
pub mod machine;
pub mod peer;
pub mod replica;
pub mod seams;
pub mod seeded;
pub mod state;
#[cfg(feature = "testing")]
pub mod testing;
pub mod types;

mod adapter;
mod folder;
mod proposer;

pub use adapter::settings::{Figures, Profile, SettingsError};
pub use agreement::Verdict;
pub use error::{ProposeError, ReadError, StorageFault};
pub use groups::{
    FormError, Formed, Groups, Keep, MakeMachine, MemberError, Named, OpenError, Seams, Settings,
};
pub use machine::{Applied, Encoded, Fault, Machine};
pub use peer::identity::{Member, NodeRef, Reservation};
pub use replica::{ChangeError, Freshness, Hint, Replica, Status};
pub use seams::{Clock, Entropy, Stamp};
pub use state::{DbFigures, Effects, Overlay, RowSnapshot};
pub use types::{EntryKind, GroupId, LogId, NodeId, Position, StoredEntry, Vote};
