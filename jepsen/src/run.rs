//! One test run: real processes, load, faults, healing, and everything written down.
//!
//! Invariant: nothing here judges what the cluster promised; it only says whether the run can be judged at all (coverage). What was
//! broken is mended and every process is ended, also after Ctrl-C. Not here: checkers, which read the folder afterwards.

mod conduct;
mod coverage;
pub(crate) mod failover;
mod field;
mod heal;
mod journals;
mod member;
mod options;
mod parts;
mod samples;

pub use self::conduct::{Finished, conduct};
pub(crate) use self::coverage::SUSPECTED;
pub use self::coverage::{Coverage, Require};
pub use self::field::{Field, FieldError, Taken};
pub use self::member::{Leader, Member};
pub use self::options::{Options, Say};
pub use self::parts::{PART_VARIABLE, Part, PartCommand};

pub(crate) use self::member::state_of;
