//! The network of a test run: one gate before each port of each node, and rules for what passes between whom.
//!
//! Invariant: bytes are never changed or reordered; what is held arrives when the rule is lifted. A gate accepts no connection
//! while its node accepts none, and a broken connection is passed on as broken at once, unless a cut holds that back too: so a
//! dead process never looks like a silent host. Not here: which rules, and when (`nemesis`).

mod gate;
mod pipe;
mod rules;
mod whois;

pub use self::gate::Gate;
pub use self::rules::{CLIENTS, Net, Rule};
pub use self::whois::{Known, Whois};
